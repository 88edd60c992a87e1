"""Whole runs are one curve: on two ranks at stage 3, on one at stage 0, in bare torch, and resumed from a checkpoint.

Uneven on purpose: four rows a prompt, mixed lengths, a token budget so small that steps accumulate and ranks idle.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rmray.data.chunks import local_steps
from rmray.data.prepared import Row
from rmray.errors import TrainingError
from rmray.models.tiny_base import build_tiny_base
from rmray.training.metrics_log import read_metrics
from tests.conftest import TINY_TEXTS
from tests.data.prepared_sets import random_rows, write_prepared
from tests.spawn import run_ranks
from tests.training.runs import make_job, run_job

STEPS = 100
SAVED_EVERY = 30
RESUMED_AT = 90
SHORT = 6
PLAIN: dict[str, Any] = {
    "optim": {"schedule": "constant", "warmup_ratio": 0.0},
    "checkpoint": {"every_steps": SAVED_EVERY, "keep": 2},
    "evaluate": {"every_steps": 50},
}
CURVE_TOLERANCE = 1e-5  # fp32, sums in another order
FACTS = ("step", "epoch", "lr", "pairs", "comparisons", "tokens", "row_ids_hash", "ties")
FIGURES = ("loss", "accuracy", "margin", "mean_chosen", "mean_rejected", "score_std", "grad_norm")


def short(**changes: Any) -> dict[str, Any]:
    return PLAIN | {"optim": PLAIN["optim"] | {"max_steps": SHORT}} | changes


def two_ranks(rank: int, world_size: int, directory: Path) -> dict[str, Any]:
    """All that is tried on two ranks, in one pair of processes; the metrics of each run."""
    base, even = directory / "base", directory / "set"
    whole = run_job(make_job(directory / "two", base, even, stage=3, **PLAIN))
    if rank == 0:
        for name in ("resumed", "elastic"):
            shutil.copytree(directory / "two", directory / name)
            shutil.rmtree(directory / name / "checkpoints" / f"step-{STEPS:08d}")
    torch.distributed.barrier()
    runs = {
        "two": whole,
        "resumed": run_job(make_job(directory / "resumed", base, even, stage=3, **PLAIN)),
        "stage-2": run_job(make_job(directory / "stage-2", base, even, stage=2, **short())),
        "recomputed": run_job(make_job(directory / "re", base, even, stage=3, gradient_checkpointing=True, **short())),
        "bfloat16": run_job(make_job(directory / "bf16", base, even, stage=3, bfloat16=True, **short())),
        "poisoned": run_job(
            make_job(directory / "poisoned", base, directory / "poisoned-set", stage=3, **margins_from_data())
        ),
    }
    hopeless = make_job(directory / "hopeless", base, directory / "hopeless-set", stage=3, **margins_from_data())
    try:
        run_job(hopeless)
    except TrainingError as error:
        runs["stopped"] = str(error)
    return runs


def one_rank(rank: int, world_size: int, directory: Path) -> dict[str, Any]:
    base, even = directory / "base", directory / "set"
    return {
        "one": run_job(make_job(directory / "one", base, even, stage=0, **PLAIN)),
        "elastic": run_job(make_job(directory / "elastic", base, even, stage=0, **PLAIN)),
    }


def margins_from_data() -> dict[str, Any]:
    return short(objective={"margin": "data"})


def with_margins(rows: list[Row], poisoned: set[str]) -> list[Row]:
    return [replace(row, margin=math.inf if row.row_id in poisoned else 0.0) for row in rows]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one layer and three prepared sets, one with a single poisoned row, one with nothing else."""
    directory = tmp_path_factory.mktemp("loop")
    build_tiny_base(directory / "base", TINY_TEXTS * 4, layers=1, hidden=16, vocab_size=300)
    rows = random_rows(6 * STEPS, rows_per_prompt=4, prompt_tokens=(1, 20), completion_tokens=(1, 30))
    held_out = random_rows(24, seed=1, rows_per_prompt=2, completion_tokens=(1, 30), file_hash="fedcba9876543210")
    write_prepared(directory / "set", rows, window_rows=170, eval_rows=held_out)
    few = rows[: 6 * SHORT]
    write_prepared(directory / "poisoned-set", with_margins(few, {few[7].row_id}))
    write_prepared(directory / "hopeless-set", with_margins(few, {row.row_id for row in few}))
    return directory


@pytest.fixture(scope="module")
def runs(directory: Path) -> dict[str, Any]:
    bare = run_job(make_job(directory / "bare", directory / "base", directory / "set", **PLAIN), deepspeed=False)
    answers = run_ranks(two_ranks, 2, directory, timeout_s=400)
    assert answers[0]["stopped"] == answers[1]["stopped"]
    return {"bare": bare} | answers[0] | run_ranks(one_rank, 1, directory, timeout_s=200)[0]


def steps_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "eval_loss" not in line]


def final_weights(run_dir: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step-{step:08d}" / "model" / "model.safetensors")


def test_the_data_is_as_uneven_as_promised(directory: Path) -> None:
    source = make_job(directory / "look", directory / "base", directory / "set", **PLAIN).source
    shares = [list(local_steps(source, rank=rank, world_size=2)) for rank in (0, 1)]
    counts = [len(share.micro_batches) for share in shares[0]]
    assert min(counts) < max(counts) > 2
    assert any(not rows for own in shares for share in own for rows in share.micro_batches)
    assert len({share.num_comparisons for share in shares[0]}) > 1


@pytest.mark.parametrize("other", ["bare", "one"])
def test_two_ranks_at_stage_3_draw_the_same_curve(runs: dict[str, Any], other: str) -> None:
    assert len(steps_of(runs["two"])) == STEPS
    for got, want in zip(runs["two"], runs[other], strict=True):
        if "eval_loss" in want:
            assert got == pytest.approx(want, abs=CURVE_TOLERANCE)
            continue
        assert {k: got[k] for k in FACTS} == {k: want[k] for k in FACTS}
        for key in FIGURES:
            assert got[key] == pytest.approx(want[key], rel=CURVE_TOLERANCE, abs=CURVE_TOLERANCE), (key, got["step"])


def test_final_weights_agree_whatever_the_ranks(runs: dict[str, Any], directory: Path) -> None:
    want = final_weights(directory / "bare")
    for other in ("two", "one", "elastic"):
        for name, weight in final_weights(directory / other).items():
            distance = float((weight - want[name]).norm() / want[name].norm())
            assert distance < 1e-5, (other, name)


def test_training_learns_and_evaluates(runs: dict[str, Any]) -> None:
    evaluations = [line for line in runs["two"] if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [49, 99]
    last = evaluations[-1]
    assert last["eval_pairs"] == 24
    assert last["eval_prompts"] == 12
    assert last["eval_accuracy_low"] <= last["eval_accuracy"] <= last["eval_accuracy_high"]
    losses = [line["loss"] for line in steps_of(runs["two"])]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] == pytest.approx(math.log(2), abs=0.5)


def test_a_resumed_run_is_bitwise_the_run_left_alone(runs: dict[str, Any], directory: Path) -> None:
    timing = ("seconds", "pairs_per_s", "tokens_per_s")
    without_timing = [
        [{k: v for k, v in line.items() if k not in timing} for line in runs[name]] for name in ("two", "resumed")
    ]
    assert without_timing[0] == without_timing[1]
    whole, resumed = final_weights(directory / "two"), final_weights(directory / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_resumes_on_another_number_of_ranks_and_stage(runs: dict[str, Any]) -> None:
    for got, want in zip(steps_of(runs["elastic"]), steps_of(runs["two"]), strict=True):
        assert got["row_ids_hash"] == want["row_ids_hash"]
        assert got["loss"] == pytest.approx(want["loss"], abs=CURVE_TOLERANCE)


@pytest.mark.parametrize("name", ["stage-2", "recomputed"])
def test_other_ways_to_the_same_curve(runs: dict[str, Any], name: str) -> None:
    assert len(steps_of(runs[name])) == SHORT
    for got, want in zip(steps_of(runs[name]), steps_of(runs["two"])[:SHORT], strict=True):
        assert got["loss"] == pytest.approx(want["loss"], abs=CURVE_TOLERANCE)
        assert got["grad_norm"] == pytest.approx(want["grad_norm"], rel=1e-4)


def test_bfloat16_follows_closely_but_not_exactly(runs: dict[str, Any], directory: Path) -> None:
    pairs = list(zip(steps_of(runs["bfloat16"]), steps_of(runs["two"])[:SHORT], strict=True))
    assert all(got["loss"] == pytest.approx(want["loss"], abs=0.03) for got, want in pairs)
    assert any(got["loss"] != want["loss"] for got, want in pairs)
    saved = final_weights(directory / "bf16", SHORT)
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in saved.values())


def test_only_the_newest_checkpoints_stay(directory: Path, runs: dict[str, Any]) -> None:
    assert sorted(p.name for p in (directory / "two" / "checkpoints").iterdir()) == [
        f"step-{RESUMED_AT:08d}",
        f"step-{STEPS:08d}",
    ]


def test_a_poisoned_row_costs_its_step_and_is_named(directory: Path, runs: dict[str, Any]) -> None:
    # Its target margin is infinite: an infinite loss whose gradient is finite.
    skipped = [line for line in steps_of(runs["poisoned"]) if line.get("skipped")]
    assert len(skipped) == 1
    assert skipped[0]["loss"] is None
    assert any(row_id.endswith(":8") for row_id in skipped[0]["faulty_row_ids"])
    assert len(skipped[0]["faulty_row_ids"]) < skipped[0]["comparisons"]
    assert len(steps_of(runs["poisoned"])) == SHORT
    assert all(line["loss"] is not None for line in steps_of(runs["poisoned"]) if line is not skipped[0])


def test_three_broken_steps_in_a_row_stop_every_rank(directory: Path, runs: dict[str, Any]) -> None:
    assert "3 steps in a row" in runs["stopped"]
    lines = list(read_metrics(directory / "hopeless" / "metrics.jsonl"))
    assert [line["skipped"] for line in lines] == [True] * 3
