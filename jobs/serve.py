"""Job entry point: `ray job submit --working-dir . -- python jobs/serve.py ARGUMENTS`."""

import sys

from rmray.cli import main

raise SystemExit(main(["serve", *sys.argv[1:]]))
