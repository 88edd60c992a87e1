"""Strict configs: YAML in, dotted overrides, the resolved file saved with every run."""

from rmray.config.load import load_config, save_config
from rmray.config.train import (
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    WorkersConfig,
)

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
    "WorkersConfig",
    "load_config",
    "save_config",
]
