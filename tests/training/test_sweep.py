"""A learning-rate sweep: which trials are run, which again, which rate is best. Tune itself in one chaos test."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rmray.config.train import TrainConfig
from rmray.errors import ConfigError, RunError
from rmray.training import sweep
from rmray.training.repeats import RunFigures, figures_of, run_dir_of
from rmray.training.sweep import sweep_lr
from rmray.training.sweep_plan import (
    Trial,
    concurrent_trials,
    look_up,
    make_report,
    plan_trials,
    print_sweep,
    read_lrs,
)
from tests.training.finished import begin, finish, identity_of, make_config, make_metrics

LRS = (1e-6, 1e-5, 1e-4)


def test_rates_are_read_and_sorted() -> None:
    assert read_lrs("3e-5, 1e-5,0.0001") == (1e-5, 3e-5, 1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1e-5", "no sweep"),
        ("", "'' is no number"),
        ("1e-5,x", "'x' is no number"),
        ("1e-5,,1e-4", "'' is no number"),
        ("1e-5,0", "above 0"),
        ("1e-5,nan", "above 0"),
        ("1e-5,inf", "above 0"),
        ("1e-5,0.00001", "given twice"),
    ],
)
def test_other_rates_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_lrs(text)


def test_a_trial_a_rate_and_seed_named_after_both(tmp_path: Path) -> None:
    trials = plan_trials(make_config(tmp_path, run={"seed": 3}), [1e-5, 0.0003], 2)
    assert [trial.config.run.name for trial in trials] == [
        "tiny-lr-1e-05-seed-3",
        "tiny-lr-1e-05-seed-4",
        "tiny-lr-0.0003-seed-3",
        "tiny-lr-0.0003-seed-4",
    ]
    assert [(t.config.optim.lr, t.config.run.seed) for t in trials] == [(1e-5, 3), (1e-5, 4), (3e-4, 3), (3e-4, 4)]
    for trial in trials:
        assert TrainConfig.model_validate(trial.config.model_dump()) == trial.config
    (alone, _) = plan_trials(make_config(tmp_path, run={"seed": 3}), [1e-5, 1e-4], 1)
    assert alone == trials[0]  # more seeds later find the run of fewer
    with pytest.raises(ConfigError, match="holds nothing out"):
        plan_trials(make_config(tmp_path, data={"holdout": None}), [1e-5], 1)
    with pytest.raises(ConfigError, match="0 seeds"):
        plan_trials(make_config(tmp_path), [1e-5], 0)


@pytest.mark.parametrize(
    ("workers", "nodes", "at_once"),
    [
        ({"num": 2}, [{"CPU": 3.0}], 1),
        ({"num": 2}, [{"CPU": 6.0}], 2),
        ({"num": 2}, [{"CPU": 2.0}], 1),
        ({"num": 2, "cpus": 4}, [{"CPU": 16.0}, {"CPU": 16.0}], 3),
        ({"num": [1, 2]}, [{"CPU": 6.0}], 2),
        ({"num": [1, 8]}, [{"CPU": 4.0}], 1),
        ({"num": 2, "gpus": 1}, [{"CPU": 32.0, "GPU": 4.0}], 2),
        ({"num": 2, "gpus": 1}, [{"CPU": 32.0, "GPU": 3.0}, {"CPU": 32.0}], 1),
    ],
)
def test_as_many_trials_at_a_time_as_the_cluster_holds(
    tmp_path: Path, workers: dict[str, Any], nodes: list[dict[str, float]], at_once: int
) -> None:
    assert concurrent_trials(make_config(tmp_path, workers=workers), nodes) == at_once


def test_what_an_earlier_sweep_left_is_looked_up(tmp_path: Path) -> None:
    done, begun, new = plan_trials(make_config(tmp_path), LRS, 1)
    finish(done.config, make_metrics(0.7))
    begin(begun.config)
    identity = identity_of(make_config(tmp_path))
    found = [look_up(trial, identity, overwrite=False) for trial in (done, begun, new)]
    assert [(trial.done is not None, trial.resume) for trial in found] == [(True, True), (False, True), (False, False)]
    assert found[0].done == figures_of(done.config, make_metrics(0.7))
    assert [look_up(trial, identity, overwrite=True) for trial in (done, begun, new)] == [done, begun, new]
    (run_dir_of(done.config) / "bundle" / "rmray.json").write_text("{")
    damaged = look_up(done, identity, overwrite=False)
    assert (damaged.done, damaged.resume) == (None, True)


def test_a_run_of_another_config_or_of_other_data_is_not_taken_for_a_trial(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (trial, _) = plan_trials(config, [1e-5, 1e-4], 1)
    finish(trial.config, make_metrics(0.7))
    (changed, _) = plan_trials(make_config(tmp_path, optim={"epochs": 2}), [1e-5, 1e-4], 1)
    with pytest.raises(RunError, match=r"optim\.epochs: 1 -> 2"):
        look_up(changed, identity_of(config), overwrite=False)
    other = {**identity_of(config), "model": {"base": "org/other", "hash": "89ab"}}
    with pytest.raises(RunError, match=r"model\.base: org/base"):
        look_up(trial, other, overwrite=False)
    (tmp_path / "tiny-lr-0.0001-seed-0").mkdir()
    (tmp_path / "tiny-lr-0.0001-seed-0" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="something else"):
        look_up(plan_trials(config, [1e-5, 1e-4], 1)[1], identity_of(config), overwrite=True)


def report(tmp_path: Path, *rates: Sequence[float | str], **metrics: float) -> Any:
    """One learning rate a sequence, from 1e-6 on; in it one seed an accuracy, or an error."""
    config = make_config(tmp_path)
    lrs = [10.0 ** (place - 6) for place in range(len(rates))]
    trials = iter(plan_trials(config, lrs, len(rates[0])))
    results: list[tuple[TrainConfig, RunFigures | str]] = []
    for result in (result for rate in rates for result in rate):
        trial = next(trials).config
        figures = result if isinstance(result, str) else figures_of(trial, make_metrics(result, **metrics))
        results.append((trial, figures))
    return make_report(config, results, lrs=lrs)


def test_the_best_held_out_accuracy_comes_first(tmp_path: Path) -> None:
    found = report(tmp_path, [0.60, 0.62], [0.71, 0.75], [0.70, 0.72], half=0.01)
    assert [rate.lr for rate in found.rates] == [1e-5, 1e-4, 1e-6]
    assert found.best is found.rates[0]
    best = found.best
    assert (best.accuracy, best.accuracy_low, best.accuracy_high) == pytest.approx((0.73, 0.72, 0.74))
    assert best.accuracy_std == pytest.approx(0.02 * 2**0.5)
    assert found.notes == ()
    assert found.to_json()["best"]["override"] == "--optim.lr 1e-05"
    assert found.to_json()["best"]["configs"][0] == str(tmp_path / "tiny-lr-1e-05-seed-0" / "config.yaml")


def test_a_tie_goes_to_the_lower_loss(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    results = [
        (trial.config, figures_of(trial.config, make_metrics(0.7, loss=loss)))
        for trial, loss in zip(plan_trials(config, LRS, 1), (0.6, 0.5, 0.7), strict=True)
    ]
    assert [rate.lr for rate in make_report(config, results, lrs=LRS).rates] == [1e-5, 1e-6, 1e-4]


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((0.8, 0.7, 0.6), "a lower one may be better. Try 3e-07 too"),
        ((0.6, 0.7, 0.8), "a higher one may be better. Try 3e-04 too"),
        ((0.7, 0.8, 0.6), None),
    ],
)
def test_a_best_rate_at_the_edge_is_warned_of(tmp_path: Path, accuracies: Sequence[float], said: str | None) -> None:
    notes = report(tmp_path, *([accuracy] for accuracy in accuracies), half=0.01).notes
    assert [note for note in notes if "edge" in note] == [note for note in notes if said and said in note]
    assert bool(notes) == bool(said)


def test_an_edge_that_failed_is_an_edge_that_was_seen(tmp_path: Path) -> None:
    found = report(tmp_path, [0.6], [0.7], ["diverged"], half=0.01)
    assert found.best.lr == 1e-5
    assert found.notes == ()


def test_rates_within_the_best_ones_interval_are_named(tmp_path: Path) -> None:
    (note,) = report(tmp_path, [0.60], [0.72], [0.70], half=0.05).notes
    assert "interval: 0.0001." in note


def test_a_failure_is_shown_and_no_safe_choice(tmp_path: Path) -> None:
    found = report(tmp_path, [0.6, 0.6], [0.9, "diverged at step 3"], ["out of memory", "out of memory"], [0.7, 0.7])
    assert [rate.lr for rate in found.rates] == pytest.approx([1e-3, 1e-6, 1e-5, 1e-4])
    assert found.best.lr == pytest.approx(1e-3)
    out = io.StringIO()
    print_sweep(found, Console(file=out, width=120))
    assert "diverged at step 3" in out.getvalue()
    assert "1, 1 failed" in out.getvalue()
    assert "best: --optim.lr 0.001" in out.getvalue()
    json.dumps(found.to_json(), allow_nan=False)


def test_where_all_failed_none_is_best(tmp_path: Path) -> None:
    found = report(tmp_path, ["no"], ["no"])
    assert found.best is None
    assert found.to_json()["best"] is None
    assert "none can be called best" in found.notes[0]
    print_sweep(found, Console(file=io.StringIO()))


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the runs that each sweep gives to Tune, where the last one fails; no Ray, no data."""
    given: list[list[str]] = []

    def run(trials: Sequence[Trial], directory: Path, *, at_once: int, overwrite: bool) -> dict[str, RunFigures | str]:
        given.append([trial.config.run.name for trial in trials])
        for trial in trials[:-1]:
            finish(trial.config, make_metrics(0.7))
        done = {t.config.run.name: figures_of(t.config, make_metrics(0.7)) for t in trials[:-1]}
        return {**done, trials[-1].config.run.name: "killed"}

    node = {"Alive": True, "NodeID": "0", "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(sweep, "_run", run)
    monkeypatch.setattr(sweep, "ray", SimpleNamespace(nodes=lambda: [node]))
    monkeypatch.setattr(sweep, "connected", contextlib.nullcontext)
    monkeypatch.setattr(sweep, "check_base", lambda base, pooling: None)
    monkeypatch.setattr(sweep, "prepare_for", lambda config: SimpleNamespace(manifest=None))
    monkeypatch.setattr(sweep, "identify", lambda config, manifest: identity_of(config))
    return given


def test_a_second_sweep_runs_what_the_first_left_open(tmp_path: Path, tuned: list[list[str]]) -> None:
    config = make_config(tmp_path)
    first = sweep_lr(config, LRS)
    assert [rate.failures for rate in first.rates if rate.failures] == [("killed",)]
    second = sweep_lr(config, LRS)
    names = [f"tiny-lr-{lr!r}-seed-0" for lr in LRS]
    assert tuned == [names, names[-1:]]
    assert sum(len(rate.runs) for rate in second.rates) == 2
    assert json.loads((tmp_path / "tiny-sweep" / "sweep.json").read_text()) == json.loads(json.dumps(second.to_json()))


def test_a_finished_sweep_asks_tune_for_nothing(tmp_path: Path, tuned: list[list[str]]) -> None:
    config = make_config(tmp_path)
    for trial in plan_trials(config, LRS, 2):
        finish(trial.config, make_metrics(0.7))
    found = sweep_lr(config, LRS, num_seeds=2)
    assert tuned == []
    assert all(len(rate.runs) == 2 for rate in found.rates)


def test_relative_paths_are_settled_before_the_trials(
    tmp_path: Path, tuned: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = sweep_lr(make_config(Path("runs")), LRS)
    assert found.file == str(tmp_path / "runs" / "tiny-sweep" / "sweep.json")
    assert Path(found.file).exists()


@pytest.mark.chaos
def test_two_real_trials_one_of_which_fails_first(tmp_path: Path, tiny_base: Path, ray_cluster: None) -> None:
    """Under Tune: a trial that fails stops no other, and a second sweep runs that one alone."""
    from tests.training.test_trainer import write_preferences

    write_preferences(tmp_path / "pairs.jsonl", 160)
    config = make_config(
        tmp_path / "runs",
        data={"train": [str(tmp_path / "pairs.jsonl")], "holdout": 0.2, "max_length": 64},
        model={"base": str(tiny_base)},
        optim={"global_batch_size": 16},
        workers={"num": 2, "timeout_s": 60},
    )
    lrs = (1e-3, 3e-3)
    good, bad = (trial.config for trial in plan_trials(config, lrs, 1))
    disk = tmp_path / "disk"
    run_dir_of(bad).parent.mkdir()
    run_dir_of(bad).symlink_to(disk)  # which is not mounted
    first = sweep_lr(config, lrs)
    assert first.best is not None
    assert first.best.lr == 1e-3
    assert "File exists" in first.rates[1].failures[0]
    weights = (run_dir_of(good) / "bundle" / "rmray.json").stat().st_mtime_ns

    disk.mkdir()
    second = sweep_lr(config, lrs)
    assert [rate.failures for rate in second.rates] == [(), ()]
    assert (run_dir_of(good) / "bundle" / "rmray.json").stat().st_mtime_ns == weights
    assert len(list((tmp_path / "runs" / "prepared").iterdir())) == 1
