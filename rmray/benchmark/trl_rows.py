"""TRL's side of `benchmark train`: its RewardTrainer on the same weights and pairs. Called by `train` and `accuracy`.

The trainer gets token ids, so that both sides see the same tokens, and runs as its users run it: AdamW fused, no weight
decay of norms, its own logging every ten steps. Left out on purpose: reports, progress bars, saving, worker processes.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from rmray.benchmark.flops import PlainMeter, Work, synchronize
from rmray.benchmark.sets import Pair
from rmray.benchmark.settings import TrainSettings, require
from rmray.benchmark.timing import Run
from rmray.benchmark.workloads import length_order

RANDOM, BY_LENGTH, DEFAULT = "trl random", "trl by length", "trl default"
TRL_ROWS = (RANDOM, BY_LENGTH, DEFAULT)
"""Random order; pairs ordered by length inside windows of 16 batches; random order with gradient checkpointing, which
is on unless a user turns it off."""


class Clock(TrainerCallback):
    """Seconds from the beginning to the end of training."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seconds = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        synchronize(self._device)
        self._start_s = time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        synchronize(self._device)
        self.seconds = time.perf_counter() - self._start_s


def make_trainer(
    prototype: Any,
    pairs: Sequence[Pair],
    settings: TrainSettings,
    *,
    tokenizer: Any,
    output_dir: str,
    checkpointing: bool,
    keep_order: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> Any:
    """A RewardTrainer on a copy of a plain sequence classifier. keep_order: the pairs come as they stand."""
    if settings.device == "cpu":  # transformers imports DeepSpeed, which else warns that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", r"`gradient_checkpointing` is deprecated", FutureWarning)  # TRL's own default
    trl = require("trl", "a row of TRL's trainer")
    from datasets import Dataset

    if keep_order:
        options["train_sampling_strategy"] = "sequential"
    config = trl.RewardConfig(
        output_dir=output_dir,
        per_device_train_batch_size=settings.batch_pairs,
        num_train_epochs=options.pop("num_train_epochs", 1),
        learning_rate=settings.lr,
        lr_scheduler_type="linear",
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        gradient_checkpointing=checkpointing,
        bf16=settings.dtype == "bfloat16",
        use_cpu=settings.device == "cpu",
        max_length=None,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        dataloader_num_workers=0,
        seed=settings.seed,
        **options,
    )
    dataset = Dataset.from_dict({"chosen_ids": [p.chosen for p in pairs], "rejected_ids": [p.rejected for p in pairs]})
    trainer = trl.RewardTrainer(
        model=copy.deepcopy(prototype),
        args=config,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def batch_gradient(
    prototype: Any, pairs: Sequence[Pair], settings: TrainSettings, *, tokenizer: Any
) -> tuple[np.ndarray[Any, Any], dict[str, torch.Tensor]]:
    """Scores, pair after pair, and the gradient of the trainer's own loss, on the CPU, for one batch."""
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = make_trainer(
            prototype, pairs, settings, tokenizer=tokenizer, output_dir=output_dir, checkpointing=False
        )
        trainer.model.train()
        rows = [{"chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs]
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        with trainer.compute_loss_context_manager():
            loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
        loss.backward()
    gradients = {n: p.grad.float().cpu() for n, p in trainer.model.named_parameters() if p.grad is not None}
    chosen_then_rejected = outputs.logits.detach().squeeze(-1).double().cpu().numpy()
    return chosen_then_rejected.reshape(2, -1).T.flatten(), gradients


class TrlRow:
    """One run of the trainer. Its time is its own, from `on_train_begin` to `on_train_end`."""

    def __init__(
        self, name: str, prototype: Any, pairs: Sequence[Pair], settings: TrainSettings, *, tokenizer: Any
    ) -> None:
        self._name, self._prototype, self._settings, self._tokenizer = name, prototype, settings, tokenizer
        if name == BY_LENGTH:
            sizes = [(len(p.chosen), len(p.rejected)) for p in pairs]
            pairs = [pairs[i] for i in length_order(sizes, settings.batch_pairs, settings.seed)]
        self._pairs = pairs
        self._work: Work | None = None

    def __call__(self) -> Run:
        settings, clock = self._settings, Clock(self._settings.device)
        with tempfile.TemporaryDirectory() as output_dir:
            trainer = make_trainer(
                self._prototype,
                self._pairs,
                settings,
                tokenizer=self._tokenizer,
                output_dir=output_dir,
                checkpointing=settings.checkpointing or self._name == DEFAULT,
                keep_order=self._name == BY_LENGTH,
                callbacks=[clock],
            )
            torch.set_num_threads(settings.threads)  # whatever the trainer's setup made of it
            meter = PlainMeter(trainer.model)
            with nullcontext() if self._work else meter:  # every run computes the same: the first is counted
                trainer.train()
        self._work = self._work or meter.work()
        return Run(clock.seconds, self._work)
