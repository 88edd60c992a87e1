"""Job entry point: `ray job submit --working-dir . -- python jobs/ensemble.py BUNDLE BUNDLE ... --output DIR`."""

import sys

from rmray.cli import main

raise SystemExit(main(["ensemble", *sys.argv[1:]]))
