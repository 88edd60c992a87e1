"""Job entry point: `ray job submit --working-dir . -- python jobs/prepare.py jobs/configs/CONFIG.yaml`."""

import sys

from rmray.cli import main

raise SystemExit(main(["prepare", *sys.argv[1:]]))
