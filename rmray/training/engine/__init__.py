"""One optimizer step on one rank: forward, backward, reduce, clip, update. The loop and the checkpoints call it.

`DeepSpeedEngine` shards over ranks (ZeRO stages 0 to 3); `TorchEngine` is the same arithmetic in bare torch for one
process: the reference that the other is tested against, and what a machine with only torch runs.

Weights, gradients, their reduction and AdamW's moments are float32 at every stage. Under bfloat16 the forward runs in
autocast over the float32 weights, so that no update is lost to rounding.
"""

from rmray.training.engine.bare import TorchEngine
from rmray.training.engine.common import MOMENTS
from rmray.training.engine.contract import Engine, EngineSettings, Gather, Load, Ranks, Update
from rmray.training.engine.sharded import DeepSpeedEngine

__all__ = ["MOMENTS", "DeepSpeedEngine", "Engine", "EngineSettings", "Gather", "Load", "Ranks", "TorchEngine", "Update"]
