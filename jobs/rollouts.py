"""Job entry point: `ray job submit --working-dir . -- python jobs/rollouts.py --name NAME --prompts FILE`."""

from rmray.client.rollouts import main

raise SystemExit(main())
