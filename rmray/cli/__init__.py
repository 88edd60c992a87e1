"""The command line: `rmray VERB [CONFIG.yaml] [--dotted.key value ...] [--json]`. The job scripts call it too."""

from rmray.cli.main import main

__all__ = ["main"]
