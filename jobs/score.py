"""Job entry point: `ray job submit --working-dir . -- python jobs/score.py ARGUMENTS`."""

import sys

from rmray.cli import main

raise SystemExit(main(["score", *sys.argv[1:]]))
