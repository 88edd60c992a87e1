"""`python -m rmray` is the `rmray` command."""

from rmray.cli import main

raise SystemExit(main())
