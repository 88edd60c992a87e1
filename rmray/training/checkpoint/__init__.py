"""Checkpoints that load at any world size, hold no pickle, and are whole or absent; written while training goes on.

step-00000050/
    model/                                  as Hugging Face lays a model out, float32: config, tokenizer, safetensors;
                                            with adapters, safetensors of the trained parameters alone
    optimizer-00001-of-00002.safetensors    AdamW's moments, `PARAMETER.exp_avg`, whole tensors
    state.json                              where the run stands and what it is, a `TrainingState`
    manifest.json                           size and sha256 of every file above
    COMPLETE                                sha256 of manifest.json, written last: without it this is no checkpoint

`CheckpointWriter` is called by the loop's hooks, `CheckpointStore` by `worker` and `trainer`. A store is a directory or
the URL of any pyarrow file system. On a disk a checkpoint is written under a name of its own (`.step-00000050.TOKEN`)
and renamed when it is whole; an object store cannot rename, so there COMPLETE alone tells a whole one.
"""

from rmray.training.checkpoint.layout import TrainingState, checkpoint_name
from rmray.training.checkpoint.save import CheckpointWriter
from rmray.training.checkpoint.store import Checkpoint, CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore", "CheckpointWriter", "TrainingState", "checkpoint_name"]
