"""Warnings over whole runs: healthy curves get none, ill ones their own once, resumed or not, told by the hook too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmray.data.group import TokenGroup
from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.training.collate import collate
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.health import HealthMonitor, WatchHealth
from rmray.training.held_out_figures import evaluate_shares
from rmray.training.loop import Progress
from rmray.training.metrics_log import read_metrics
from rmray.training.objective import Objective
from rmray.training.step import train_step
from tests.training.curves import WARMUP, evaluation, replay, simulated_run, step_result
from tests.training.toys import VOCAB, ToyBackbone

NO_ENGINE: Any = None


# --- whole curves ---


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_left_in_peace(seed: int) -> None:
    assert list(replay(simulated_run(seed), HealthMonitor(300, WARMUP))) == []


HEALTHY: dict[str, dict[str, Any]] = {
    "slow": {"learnt_by": 0.5},
    "small batches": {"batch": 4, "evaluate_every": 50},
    "partial batches": {"batch": lambda step: 64 if (step + 1) % 20 else 1},
    "few held out": {"held_out": 100},
    "one epoch to an accuracy of 0.98": {"top_accuracy_z": 2.2, "sharpness": 3.0},
    "mild overfit": {"memorised": lambda done: 0.3 * done},
    "falling scale": {"scale": lambda done: 1.0 - 0.9 * done},
    "short": {"num_steps": 30, "evaluate_every": 10},
    "no learning rate to speak of at first": {"scale": lambda done: min(1.0, 0.02 + done)},
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_unusual_runs_are_no_reason_to_warn(name: str, seed: int) -> None:
    lines = simulated_run(100 + seed, **HEALTHY[name])
    num_steps = lines[-1]["step"] + 1
    assert list(replay(lines, HealthMonitor(num_steps, min(WARMUP, num_steps // 10)))) == []


ILL: dict[str, dict[str, Any]] = {
    "not learning": {"top_accuracy_z": 0.0, "held_out": 1500},
    "overfit": {"memorised": lambda done: 2.0 if done > 0.5 else 0.0},
    "collapse": {"scale": lambda done: 1.0 if done < 0.6 else 1e-4},
    "unstable": {"scale": lambda done: 1.0 if done < 0.6 else 20.0},
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", sorted(ILL))
def test_an_ill_run_gets_its_own_warning_once(kind: str, seed: int) -> None:
    found = list(replay(simulated_run(200 + seed, **ILL[kind]), HealthMonitor(300, WARMUP)))
    assert [k for _, k in found] == [kind]
    earliest = {"not learning": 99, "overfit": 149, "collapse": 179, "unstable": 179}[kind]
    assert earliest <= found[0][0] <= earliest + 25


def test_a_metrics_file_gives_what_the_run_gave(tmp_path: Path) -> None:
    lines = [*simulated_run(7, **ILL["overfit"]), {"step": 300, "applied": False, "loss": None}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    want = list(replay(lines, HealthMonitor(300, WARMUP)))
    assert [kind for _, kind in want] == ["overfit", "unstable"]
    assert list(replay(read_metrics(path), HealthMonitor(300, WARMUP))) == want


def eventful_run() -> list[dict[str, Any]]:
    """Every warning, some twice."""
    lines = simulated_run(3, top_accuracy_z=0.0, memorised=lambda done: 2.0 * (done > 0.5))
    for line in lines:
        if "eval_accuracy" not in line:
            if 60 <= line["step"] < 66 or 240 <= line["step"] < 244:
                line["gap_max"] = 0.0
            if line["step"] in (100, 200):
                line["loss"] = 30.0
    return lines


def run_of_small_batches() -> list[dict[str, Any]]:
    """An explosion that only several steps together show; accuracy lost after it was once judged good."""
    lines = simulated_run(4, batch=4, evaluate_every=50)
    for line in lines:
        if "eval_accuracy" not in line and 120 <= line["step"] < 126:
            line["loss"] = 6.0
        if "eval_accuracy" in line and line["step"] == 199:
            line |= evaluation(0.5)
    return lines


def warnings_of(run: list[dict[str, Any]], *, resumed: bool) -> list[tuple[int, str]]:
    """Warnings of a run left alone, or of one that is cut and resumed after every line."""
    told, monitor = [], HealthMonitor(300, WARMUP)
    for line in run:
        told += replay([line], monitor)
        if resumed:
            monitor = HealthMonitor(300, WARMUP, json.loads(json.dumps(monitor.memory(), allow_nan=False)))
    return told


def test_a_run_resumed_after_every_step_warns_as_the_run_left_alone() -> None:
    eventful, small = (warnings_of(run, resumed=False) for run in (eventful_run(), run_of_small_batches()))
    assert sorted(kind for _, kind in eventful) == ["collapse"] * 2 + ["not learning", "overfit"] + ["unstable"] * 2
    assert [kind for _, kind in small] == ["unstable", "overfit"]
    assert warnings_of(eventful_run(), resumed=True) == eventful
    assert warnings_of(run_of_small_batches(), resumed=True) == small


# --- the hook ---


@dataclass
class Evaluations:
    latest: dict[str, float] = field(default_factory=dict)
    latest_step: int | None = None


def hooked(lines: Sequence[dict[str, Any]], cut: int | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    """What the hook tells of a run; cut: a step before which it is resumed, with the figures evaluated last."""
    evaluations, told = Evaluations(), []

    def tell(kind: str, message: str, fields: dict[str, Any]) -> None:
        told.append((kind, message, fields))

    hook = WatchHealth(evaluations, tell, 300, WARMUP)
    figures = {line["step"]: line for line in lines if "eval_accuracy" in line}
    for line in lines:
        if "eval_accuracy" in line:
            continue
        step = line["step"]
        if step == cut:
            hook = WatchHealth(evaluations, tell, 300, WARMUP, json.loads(json.dumps(hook.memory())))
        if step in figures:
            evaluations.latest, evaluations.latest_step = figures[step], step
        hook(NO_ENGINE, Progress(step_result(**line), 1.0, is_last=False))
    return told


def test_the_hook_tells_each_warning_with_its_fields_and_looks_at_an_evaluation_once() -> None:
    lines = eventful_run()
    told = hooked(lines)
    assert [(fields["step"], kind) for kind, _, fields in told] == list(replay(lines, HealthMonitor(300, WARMUP)))
    for kind, message, fields in told:
        assert set(fields) == {"step", "seen", "why", "advice", "figures"}
        assert (
            message
            == f"{kind} at step {fields['step']}: {fields['seen']}. {fields['why']} What to try: {fields['advice']}"
        )
        assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert all(hooked(lines, cut) == told for cut in (1, 60, 62, 99, 100, 101, 149, 150, 175, 242, 299))


# --- real training of a toy ---


def toy_rows(rng: np.random.Generator, num: int, better: Any) -> list[Row]:
    """Pairs of one token each; better: which of two tokens is the chosen one."""
    rows = []
    while len(rows) < num:
        a, b = (int(t) for t in rng.integers(1, VOCAB, 2))
        if a != b:
            chosen, rejected = (a, b) if better(a, b) else (b, a)
            group = TokenGroup(
                np.zeros(0, np.int32), (np.array([chosen], np.int32), np.array([rejected], np.int32)), (0, 0)
            )
            rows.append(Row(f"r{len(rows)}", len(rows), None, group, (1, 1), (0, 1), None, None))
    return rows


@pytest.fixture
def _one_thread() -> Iterator[None]:
    # Tensors this small are slower on several, by far where others want them too.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    ("labels", "lr", "expected"),
    [
        ("ordered", lambda step: 0.01 * min(1.0, (step + 1) / 4), []),
        ("tossed", lambda step: 0.003 * min(1.0, (step + 1) / 4), ["not learning"]),
        ("ordered", lambda step: 0.01 if step < 40 else 300.0, ["unstable"]),
    ],
)
def test_a_toy_that_is_really_trained(labels: str, lr: Callable[[int], float], expected: list[str]) -> None:
    rng = np.random.default_rng(0)
    better = {"ordered": lambda a, b: a > b, "tossed": lambda a, b: rng.random() < 0.5}[labels]
    engine = TorchEngine(lambda gather: ToyBackbone(), EngineSettings(max_grad_norm=1.0))
    evaluations, told = Evaluations(), []
    hook = WatchHealth(evaluations, lambda kind, message, fields: told.append(kind), 80, 4)
    held_out = toy_rows(rng, 400, better)
    for step in range(80):
        rows = toy_rows(rng, 32, better)
        share = StepShare(step, 0, (tuple(rows),), "hash", 32, 64)
        result = train_step(
            engine, share, collate(share, Objective(), pooling="last"), Objective(), lr=lr(step), seed=0
        )
        if (step + 1) % 20 == 0:
            figures = evaluate_shares(engine, [held_out], Objective(), pooling="last")
            assert figures is not None
            evaluations.latest, evaluations.latest_step = figures, step
        hook(engine, Progress(result, 1.0, is_last=False))
    assert told[:1] == expected  # what a model thrown about shows after that is chance
