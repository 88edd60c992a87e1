"""Job entry point: `ray job submit --working-dir . -- python jobs/sweep_lr.py CONFIG.yaml --lrs 3e-6,1e-5,3e-5`.

`--seeds N` runs each rate N times; `--dotted.key value` overrides the config. The same command again goes on where it
broke off.
"""

import sys

from rmray.cli import main

raise SystemExit(main(["sweep", *sys.argv[1:]]))
