"""Repeating a run over seeds: which runs, what is trained again, and what the spread is said to mean."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rmray.data.inputs import PreparePlan
from rmray.data.render import RenderRules
from rmray.errors import ConfigError, RunError, TrainingError
from rmray.training.repeats import RunFigures, Spread, figures_of, spread
from rmray.training.run_dir import differences
from rmray.training.seeds import make_report, plan_seeds, print_seeds, run_seeds, spread_notes
from tests.training.finished import FakeTrain, identity_of, make_config, make_metrics


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmray.training.seeds.connected", contextlib.nullcontext)


def test_the_runs_differ_in_name_and_seed_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path, run={"seed": 5})
    configs = plan_seeds(config, 3)
    assert [each.run.name for each in configs] == ["tiny-seed-5", "tiny-seed-6", "tiny-seed-7"]
    assert [each.run.seed for each in configs] == [5, 6, 7]
    for each in configs:
        assert each.model_copy(update={"run": config.run}) == config
        assert type(each).model_validate(each.model_dump()) == each
    assert differences(identity_of(configs[0]), identity_of(configs[1])) == ["run.seed: 5 -> 6"]


def test_all_seeds_find_one_prepared_set(tmp_path: Path) -> None:
    rules = RenderRules(None, 1, 2, 64, "drop")
    plans = [PreparePlan(c.data, (), "base", "", rules, c.objective.name) for c in plan_seeds(make_config(tmp_path), 3)]
    assert len({plan.key() for plan in plans}) == 1
    assert {c.run.storage for c in plan_seeds(make_config(tmp_path), 3)} == {str(tmp_path)}


def test_a_spread_by_hand() -> None:
    found = spread([0.7, 0.8, 0.9])
    assert found is not None
    assert (found.mean, found.std, found.min, found.max) == pytest.approx((0.8, 0.1, 0.7, 0.9))
    assert spread([0.5]) == Spread(0.5, 0.0, 0.5, 0.5)
    assert spread([0.5, None]) is None
    assert spread([]) is None


def test_seeds_are_trained_one_after_the_other_and_told_together(tmp_path: Path) -> None:
    train = FakeTrain({"tiny-seed-0": 0.70, "tiny-seed-1": 0.74, "tiny-seed-2": 0.72})
    report = run_seeds(make_config(tmp_path), 3, train=train)
    assert train.trained == ["tiny-seed-0", "tiny-seed-1", "tiny-seed-2"]
    accuracy = report.spreads["accuracy"]
    assert accuracy is not None
    assert (accuracy.mean, accuracy.std, accuracy.min, accuracy.max) == pytest.approx((0.72, 0.02, 0.70, 0.74))
    written = json.loads((tmp_path / "tiny-seeds" / "seeds.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert [run["seed"] for run in written["runs"]] == [0, 1, 2]


def test_resuming_skips_the_finished_and_goes_on_with_the_rest(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    broken = FakeTrain({"tiny-seed-0": 0.70})
    with pytest.raises(TrainingError, match="broke off"):
        run_seeds(config, 3, train=broken)
    assert broken.trained == ["tiny-seed-0", "tiny-seed-1"]
    mended = FakeTrain({"tiny-seed-1": 0.74, "tiny-seed-2": 0.72})
    report = run_seeds(config, 3, resume=True, train=mended)
    assert mended.trained == ["tiny-seed-1", "tiny-seed-2"]
    assert [run.accuracy for run in report.runs] == [0.70, 0.74, 0.72]
    more = FakeTrain({"tiny-seed-3": 0.6})
    assert len(run_seeds(config, 4, resume=True, train=more).runs) == 4
    assert more.trained == ["tiny-seed-3"]
    again = FakeTrain(dict.fromkeys(["tiny-seed-0", "tiny-seed-1"], 0.5))
    run_seeds(config, 2, overwrite=True, train=again)
    assert again.trained == ["tiny-seed-0", "tiny-seed-1"]


def test_no_run_starts_where_one_is_in_the_way(tmp_path: Path) -> None:
    later = make_config(tmp_path, run={"seed": 1})
    run_seeds(later, 2, train=FakeTrain({"tiny-seed-1": 0.7, "tiny-seed-2": 0.7}))
    train = FakeTrain({"tiny-seed-0": 0.7})
    with pytest.raises(RunError, match="--resume"):
        run_seeds(make_config(tmp_path), 2, train=train)
    assert train.trained == []


def test_what_makes_no_spread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no spread"):
        plan_seeds(make_config(tmp_path), 1)
    with pytest.raises(ConfigError, match="holds nothing out") as caught:
        plan_seeds(make_config(tmp_path, data={"holdout": None}), 2)
    assert "data.holdout" in str(caught.value)
    with pytest.raises(ConfigError, match="2\\^63"):
        plan_seeds(make_config(tmp_path, run={"seed": 2**63 - 2}), 3)
    with pytest.raises(TrainingError, match="no held-out accuracy"):
        figures_of(make_config(tmp_path), {"eval_accuracy": 0.5})


def runs(tmp_path: Path, *accuracies: float, half: float) -> list[RunFigures]:
    config = make_config(tmp_path)
    return [figures_of(config, make_metrics(accuracy, half=half)) for accuracy in accuracies]


@pytest.mark.parametrize(
    ("half", "said"),
    [
        (0.196, "held-out sample matters more"),
        (0.0588, "both matter"),
        (0.0098, "seed matters more"),
        (0.0, "no width"),
    ],
)
def test_the_spread_is_set_against_one_runs_interval(tmp_path: Path, half: float, said: str) -> None:
    notes = spread_notes(runs(tmp_path, 0.70, 0.74, 0.72, half=half))
    assert "0.0200 (standard deviation) over 3 seeds, from 0.700 to 0.740" in notes[0]
    assert "between 0.0104 and 0.1257" in notes[0]  # s sqrt(2 / 7.3778), s sqrt(2 / 0.050636)
    assert said in notes[-1]
    assert "above 0.0126, and no more" in spread_notes(runs(tmp_path, 0.70, 0.74, half=half))[0]
    if half == 0.196:
        assert "±0.196, a standard error of 0.1000" in notes[1]
        assert "0.20 times" in notes[1]


def test_the_table_shows_every_seed_and_what_is_missing_as_a_dash(tmp_path: Path) -> None:
    figures = runs(tmp_path, 0.70, 0.74, half=0.05)
    lost = figures_of(make_config(tmp_path), make_metrics(0.66, loss=float("nan")))
    out = io.StringIO()
    report = make_report(make_config(tmp_path), [*figures, lost])
    print_seeds(report, Console(file=out, width=120))
    lines = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if "│" in line}
    assert "0.7000" in lines["mean"]
    assert "-" in lines["mean"]
    assert "0.0400" in lines["std"]
    assert "0.610 to 0.710" in lines["0"]
    json.dumps(report.to_json(), allow_nan=False)
