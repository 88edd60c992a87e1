"""Job entry point: `ray job submit --working-dir . -- python jobs/train.py CONFIG.yaml [--dotted.key value ...]`."""

import sys

from rmray.cli import main

raise SystemExit(main(["train", *sys.argv[1:]]))
