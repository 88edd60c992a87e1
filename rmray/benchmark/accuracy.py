"""`rmray benchmark accuracy`: does the faster loop learn as well? Both trainers on one set, judged by one evaluator.

For each seed both start from the same weights, head included, and take the same pairs, in orders of their own, through
the same schedule, global batch and AdamW. Held-out pairs are scored by the project's own forward and summed up by
`pair_metrics`. Rankings are taken apart into their pairs on both sides, tokens are those of the project's renderer.

Legend: P held-out pairs, N seeds.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.benchmark.report import OURS, machine_facts, save_json
from rmray.benchmark.sets import FileRows, pairs_of_groups, read_files, rows_of_groups, write_set
from rmray.benchmark.settings import TrainSettings
from rmray.data.group import TokenGroup
from rmray.metrics.calibration import chosen_is_first
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.summary import pair_metrics

TRL = "trl"
ROWS = (OURS, TRL)
EVAL_BATCH_TOKENS = 8192

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeedFigures:
    """One trained model on the held-out pairs; low and high: 95% over prompts."""

    row: str
    seed: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ece: float
    margin: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of rmray less TRL's, mean over pairs and seeds, with its 95% interval over prompts. agree: 0 lies in it.

    Both are judged on the same pairs, so that this interval is narrower than what two separate ones would tell.
    """

    mean: float
    low: float
    high: float
    agree: bool


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """accuracy: mean over seeds with its interval over prompts, by row. difference: None where a row was left out."""

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    num_train_pairs: int
    num_eval_pairs: int
    num_eval_prompts: int
    skipped: Mapping[str, int]
    seeds: tuple[SeedFigures, ...]
    accuracy: Mapping[str, tuple[float, float, float]]
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_accuracy(
    train: Sequence[str],
    held_out: Sequence[str],
    *,
    base: str,
    settings: TrainSettings,
    num_seeds: int,
    epochs: int,
    max_length: int,
    output: Path,
    max_pairs: int | None = None,
    notify: Callable[[str], None] = print,
) -> AccuracyReport:
    """Train and judge; writes output/accuracy.json. train, held_out: files of comparisons; max_pairs: of training."""
    import torch

    torch.set_num_threads(settings.threads)
    data = read_files(train, base, max_length=max_length, limit=max_pairs, pairs_alone=True)
    test = read_files(held_out, base, max_length=max_length, pairs_alone=True)
    trainers = {OURS: _train_ours, TRL: _train_trl}
    figures: list[SeedFigures] = []
    correct: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in settings.rows}
    for seed in range(settings.seed, settings.seed + num_seeds):
        told = replace(settings, seed=seed)
        prototype, tokenizer = _load(base, told)
        for name in settings.rows:
            model = trainers[name](prototype, data, told, epochs, tokenizer)
            chosen_P, rejected_P = score_pairs(model, test.groups, device=settings.device)
            figures.append(_judge(name, seed, chosen_P, rejected_P, test.prompt_keys))
            correct[name].append(chosen_P > rejected_P)
            notify(f"seed {seed}, {name}: held-out accuracy {figures[-1].accuracy:.4f}")
    report = AccuracyReport(
        settings={**asdict(settings), "base": base, "epochs": epochs, "num_seeds": num_seeds, "max_length": max_length},
        machine=machine_facts(settings.device),
        num_train_pairs=len(data.groups),
        num_eval_pairs=len(test.groups),
        num_eval_prompts=len(set(test.prompt_keys)),
        skipped=data.skipped,
        seeds=tuple(figures),
        accuracy={name: _mean(np.stack(of_seeds), test.prompt_keys) for name, of_seeds in correct.items()},
        difference=compare(np.stack(correct[OURS]), np.stack(correct[TRL]), test.prompt_keys)
        if set(ROWS) <= set(correct)
        else None,
    )
    save_json(output, "accuracy", report.to_json())
    return report


def compare(ours_NP: npt.ArrayLike, theirs_NP: npt.ArrayLike, prompts_P: Sequence[int]) -> Difference:
    """The mean difference of two rows' verdicts on the same pairs, over seeds and pairs."""
    gain_P = (np.asarray(ours_NP, dtype=np.float64) - np.asarray(theirs_NP, dtype=np.float64)).mean(axis=0)
    interval = clustered_interval(gain_P, np.asarray(prompts_P), bounds=(-1.0, 1.0))
    return Difference(float(gain_P.mean()), interval.low, interval.high, interval.low <= 0.0 <= interval.high)


def score_pairs(model: Any, groups: Sequence[TokenGroup], *, device: str) -> tuple[Scores, Scores]:
    """Raw scores of the first and the second completion of each group. model: a sequence classifier."""
    import torch

    from rmray.data.batch import build_batch
    from rmray.models.backbone import RewardBackbone
    from rmray.models.scorer import batches_by_tokens

    backbone = RewardBackbone(model.eval())
    scores_P2 = np.zeros((len(groups), 2))
    with torch.inference_mode():
        for batch in batches_by_tokens([g.num_tokens for g in groups], EVAL_BATCH_TOKENS):
            scores_S = backbone(build_batch([groups[i] for i in batch]).to(device))
            scores_P2[batch] = scores_S.double().cpu().numpy().reshape(-1, 2)
    return scores_P2[:, 0], scores_P2[:, 1]


def _load(base: str, settings: TrainSettings) -> tuple[Any, Any]:
    import torch

    from rmray.data.tokenizer import load_base_tokenizer
    from rmray.models.base import load_reward_model

    tokenizer, pad = load_base_tokenizer(base)
    model: Any = load_reward_model(base, dtype=torch.float32, pad_id=pad.id, seed=settings.seed)
    return model.to(settings.device), tokenizer


def _train_ours(prototype: Any, data: FileRows, settings: TrainSettings, epochs: int, tokenizer: Any) -> Any:
    from rmray.benchmark.train_rows import auto_micro_batch_tokens, engine_of
    from rmray.data.chunks import StepSource, count_steps, local_steps
    from rmray.training.hooks import StopWhenBroken
    from rmray.training.loop import LoopSettings, run_loop
    from rmray.training.objective import Objective

    engine = engine_of(prototype, settings)
    tokens = settings.max_micro_batch_tokens or auto_micro_batch_tokens(
        prototype, settings, longest_path=max(g.max_path_len for g in data.groups)
    )
    with tempfile.TemporaryDirectory() as set_dir:
        write_set(Path(set_dir), rows_of_groups(data.groups, prompt_keys=data.prompt_keys))
        source = StepSource(set_dir, settings.seed, settings.batch_pairs, tokens, epochs=epochs)
        loop = LoopSettings(
            num_steps=count_steps(source).num_steps,
            objective=Objective(),
            lr=settings.lr,
            warmup_ratio=0.0,
            seed=settings.seed,
        )
        run_loop(engine, local_steps(source), loop, [StopWhenBroken()])
    model = copy.deepcopy(prototype)
    model.load_state_dict(dict(engine.weights()), strict=True)
    return model


def _train_trl(prototype: Any, data: FileRows, settings: TrainSettings, epochs: int, tokenizer: Any) -> Any:
    from rmray.benchmark.trl_rows import make_trainer

    with tempfile.TemporaryDirectory() as output_dir:
        trainer = make_trainer(
            prototype,
            pairs_of_groups(data.groups),
            settings,
            tokenizer=tokenizer,
            output_dir=output_dir,
            checkpointing=settings.checkpointing,
            num_train_epochs=epochs,
        )
        trainer.train()
    return trainer.model


def _judge(name: str, seed: int, chosen_P: Scores, rejected_P: Scores, prompts_P: Sequence[int]) -> SeedFigures:
    first_P = chosen_is_first([f"{i}" for i in range(len(chosen_P))])
    metrics = pair_metrics(chosen_P, rejected_P, prompts_P=np.asarray(prompts_P), first_P=first_P)
    return SeedFigures(
        name, seed, metrics.accuracy, metrics.accuracy_low, metrics.accuracy_high, metrics.ece, metrics.margin
    )


def _mean(correct_NP: npt.NDArray[np.bool_], prompts_P: Sequence[int]) -> tuple[float, float, float]:
    share_P = correct_NP.mean(axis=0)
    interval = clustered_interval(share_P, np.asarray(prompts_P), bounds=(0.0, 1.0))
    return float(share_P.mean()), interval.low, interval.high


def print_accuracy(report: AccuracyReport) -> None:
    """A table of all seeds and the verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(
        title=f"{report.num_train_pairs} pairs to train on, {report.num_eval_pairs} held out "
        f"({report.num_eval_prompts} prompts)",
        title_justify="left",
    )
    for heading in ("row", "seed", "accuracy", "95% interval", "ECE", "margin"):
        table.add_column(heading)
    for f in report.seeds:
        interval = f"{f.accuracy_low:.3f} to {f.accuracy_high:.3f}"
        table.add_row(f.row, str(f.seed), f"{f.accuracy:.4f}", interval, f"{f.ece:.3f}", f"{f.margin:.3f}")
    for name, (mean, low, high) in report.accuracy.items():
        table.add_row(name, "all", f"{mean:.4f}", f"{low:.3f} to {high:.3f}", "", "")
    console.print(table)
    if report.difference:
        d = report.difference
        verdict = "they agree" if d.agree else "they DIFFER"
        console.print(f"rmray less TRL: {d.mean:+.4f}, 95% interval {d.low:+.4f} to {d.high:+.4f}: {verdict}")
