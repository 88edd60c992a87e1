"""Job entry point: `ray job submit --working-dir . -- python jobs/evaluate.py ARGUMENTS`."""

import sys

from rmray.cli import main

raise SystemExit(main(["evaluate", *sys.argv[1:]]))
