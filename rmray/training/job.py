"""What every rank is told. Made by `trainer`, passed on by `fit`, carried out by `worker`; cheap to import.

Every process that Ray Train starts unpickles it: most of them train nothing, and wait for no model code to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rmray.config.train import TrainConfig
from rmray.data.chunks import StepSource
from rmray.training.auto import Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """Paths are absolute and seen by all; config is resolved by `choices`, `source`, ...

    num_steps: of the whole run. pad_id: of the tokenizer. identity: what checkpoints remember the run by. owner: the
    token of the driver that holds the run.
    """

    run_dir: str
    config: TrainConfig
    choices: Choices
    source: StepSource
    num_steps: int
    pad_id: int
    identity: dict[str, Any]
    owner: str = ""
