"""Job entry point: `ray job submit --working-dir . -- python jobs/best_of_n.py ARGUMENTS`."""

import sys

from rmray.cli import main

raise SystemExit(main(["best-of-n", *sys.argv[1:]]))
