"""A town with checkable answers, and the preference data about it. Used by the quickstart, rollouts and tests.

`write_world` writes the files. `read_world` gives the town back; `sample_completions` and `true_quality` need it.
"""

from rmray.data.world.facts import World, read_world
from rmray.data.world.quality import sample_completions, true_quality, verdict
from rmray.data.world.write import WorldFiles, write_world

__all__ = ["World", "WorldFiles", "read_world", "sample_completions", "true_quality", "verdict", "write_world"]
