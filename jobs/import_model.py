"""Job entry point: `ray job submit --working-dir . -- python jobs/import_model.py ARGUMENTS`."""

import sys

from rmray.cli import main

raise SystemExit(main(["import", *sys.argv[1:]]))
