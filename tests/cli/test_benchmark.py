"""`rmray benchmark`: what the options become."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rmray.cli import main
from rmray.cli.benchmark import BENCHMARKS


class Told:
    """Stands for a report."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": "fake"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked to be measured; nothing is."""
    seen: list[tuple[Any, ...]] = []
    for kind in ("train", "score"):
        monkeypatch.setattr(f"rmray.benchmark.run.run_{kind}", lambda *a, **k: seen.append(a) or Told())
    monkeypatch.setattr("rmray.benchmark.report.print_report", lambda report: None)
    return seen


def test_options_of_training(calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model 5m 30m --workload chat losing --pairs 32 --global-batch 4 --rounds 7 --threads 3 --dtype bfloat16"
    assert main(["benchmark", "train", *words.split(), "--without", "trl default", "--output", "o", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"kind": "fake"}
    subject, settings, output = calls[0]
    assert (subject.models, subject.workloads, output) == (["5m", "30m"], ["chat", "losing"], Path("o"))
    assert (settings.num_pairs, settings.batch_pairs, settings.rounds, settings.threads) == (32, 4, 7, 3)
    assert settings.dtype == "bfloat16"
    assert settings.rows == ("rmray", "trl random", "trl by length")


def test_options_of_scoring(calls: list[tuple[Any, ...]]) -> None:
    words = "--completions 64 --max-batch-tokens 2048 --padded-batch-tokens 512 --rows rmray"
    assert main(["benchmark", "score", *words.split(), "--data", "a.jsonl", "b.jsonl", "--base", "dir"]) == 0
    subject, settings, _ = calls[0]
    assert (settings.num_completions, settings.max_batch_tokens, settings.rows) == (64, 2048, ("rmray",))
    assert settings.padded_batch_tokens == 512
    assert (subject.data, subject.base) == (["a.jsonl", "b.jsonl"], "dir")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["benchmark"], "no benchmark is named"),
        (["benchmark", "train", "--rows", "tlr"], "is no row"),
        (["benchmark", "train", "--optim.lr", "1"], "has no config"),
        (["benchmark", "score", "--pears", "1"], "unknown argument '--pears'"),
    ],
)
def test_mistakes_are_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_debug_may_stand_behind_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "train", "--rows", "tlr", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_of_every_benchmark_is_quick() -> None:
    heavy = "torch", "transformers", "ray", "trl", "matplotlib", "numpy"
    code = (
        "import sys\nfrom rmray.cli.main import _parser\n_parser().format_help()\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert {"train", "score", "accuracy"} <= set(BENCHMARKS)


def test_options_of_planning_and_none_that_was_not_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rmray.benchmark import plan

    known, seen = set(inspect.signature(plan.run_plan).parameters), []

    def run_plan(**options: Any) -> Told:
        assert set(options) <= known
        seen.append({name: value for name, value in options.items() if name != "say"})
        return Told()

    monkeypatch.setattr(plan, "run_plan", run_plan)
    monkeypatch.setattr("rmray.benchmark.plots_plan.print_plan", lambda report: None)
    monkeypatch.setattr("rmray.benchmark.plots_plan.plot_plan", lambda report, directory: None)
    words = "--pairs 9 --ranks 2 --planned 4 --task-pairs 0 --model 4b --peak-flops 1e12 --utilisation 1 --seed 3"
    assert main(["benchmark", "plan", *words.split(), "--output", str(tmp_path)]) == 0
    assert main(["benchmark", "plan", "--output", str(tmp_path)]) == 0
    assert seen == [
        {
            "num_pairs": 9,
            "num_ranks": 2,
            "pairs_planned": 4,
            "task_pairs": 0,
            "model": "4b",
            "peak_flops": 1e12,
            "utilisation": 1.0,
            "seed": 3,
        },
        {},
    ]
    assert json.loads((tmp_path / "plan.json").read_text()) == {"kind": "fake"}
    assert main(["benchmark", "plan", "--model", "9b", "--output", str(tmp_path)]) == 2


def test_options_of_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rmray.benchmark import workers

    seen: list[Any] = []
    monkeypatch.setattr(workers, "run_workers", lambda settings, **k: seen.append((settings, k["rows"])) or Told())
    monkeypatch.setattr(workers, "print_workers", lambda report: None)
    assert main(["benchmark", "workers", "--output", str(tmp_path)]) == 0
    words = ["--zero-stage", "2", "--steps", "9", "--without", workers.BARE]
    assert main(["benchmark", "workers", *words, "--output", str(tmp_path)]) == 0
    assert seen[0] == (workers.WorkersSettings(), (workers.BARE, workers.ONE, workers.MANY))
    assert seen[1] == (workers.WorkersSettings(num_steps=9, zero_stage=2), (workers.ONE, workers.MANY))


def test_options_of_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rmray.benchmark.serve import run, settings

    seen: list[Any] = []
    monkeypatch.setattr(run, "run_serve", lambda settings, **k: seen.append((settings, k["whole"])) or Told())
    monkeypatch.setattr("rmray.benchmark.serve.show.print_serve", lambda report: None)
    monkeypatch.setattr("rmray.benchmark.serve.show.plot_serve", lambda report, directory: None)
    assert main(["benchmark", "serve", "--output", str(tmp_path)]) == 0
    assert main(["benchmark", "serve", "--quick", "--output", str(tmp_path)]) == 0
    words = "--grid --model 30m --callers 4 --sweep 1 2 --replicas --seconds 0.5 --prompt-chars 900"
    assert main(["benchmark", "serve", *words.split(), "--output", str(tmp_path)]) == 0
    assert seen[:2] == [(settings.ServeSettings(), False), (settings.QUICK, False)]
    given = {"models": ("30m",), "group_callers": 4, "sweep": (1, 2), "replicas": (), "seconds": 0.5}
    assert seen[2] == (settings.ServeSettings(**given, prompt_chars=900), True)


def test_options_of_growth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rmray.benchmark import growth
    from rmray.benchmark.growth_data import DataSettings
    from rmray.benchmark.growth_sweeps import QUICK_SWEEPS, SWEEPS

    seen: list[Any] = []
    monkeypatch.setattr(growth, "run_growth", lambda settings, **k: seen.append((settings, k["sweeps"])) or Told())
    monkeypatch.setattr("rmray.benchmark.plots_growth.print_growth", lambda report: None)
    monkeypatch.setattr("rmray.benchmark.plots_growth.plot_growth", lambda report, directory: None)
    assert main(["benchmark", "growth", "--output", str(tmp_path)]) == 0
    assert seen[0] == (growth.GrowthSettings(), dict(SWEEPS))
    words = ["--quick", "--sweep", "K", "data", "--rows", "50", "--threads", "1", "--output", str(tmp_path)]
    assert main(["benchmark", "growth", *words]) == 0
    settings, sweeps = seen[1]
    assert sweeps == {"K": QUICK_SWEEPS["K"]}
    assert (settings.rounds, settings.threads, settings.data) == (1, 1, DataSettings(rows=(50,), prepare=False))
    assert main(["benchmark", "growth", "--sweep", "model", "--output", str(tmp_path)]) == 0
    assert seen[2][0].data.rows == ()
    assert main(["benchmark", "growth", "--sweep", "kay"]) == 2


def test_options_of_scaling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rmray.benchmark.scaling import grid, plots, serve_compare, serve_validation, validation

    seen: list[Any] = []
    monkeypatch.setattr(grid, "run_grid", lambda *a, **k: seen.append((a, k)) or Told())
    monkeypatch.setattr(validation, "validate", lambda settings, **k: seen.append(settings) or Told())
    monkeypatch.setattr(serve_compare, "validate_serve", lambda settings, **k: seen.append(settings) or Told())
    for name in ("print_grid", "print_validation", "print_serve_validation"):
        monkeypatch.setattr(plots, name, lambda report: None)
    monkeypatch.setattr(plots, "plot_grid", lambda report, directory: None)
    words = "--actors 9 --max-replicas 2 --start-s 3 --targets 0.5 2 --workload rollouts-8"
    assert main(["benchmark", "scaling", *words.split(), "--output", str(tmp_path)]) == 0
    (settings, cost, workload, groups), options = seen[0]
    assert settings == grid.GridSettings(num_actors=9, max_replicas=2, start_s=3.0)
    assert (cost.name, workload, groups[0].completions) == ("8b on an H100", "rollouts-8", 8)
    assert (options["targets"], options["processes"]) == ([0.5, 2.0], 1)
    words = "--validate --model 30m --rounds 2 --run-s 1"
    assert main(["benchmark", "scaling", *words.split(), "--output", str(tmp_path)]) == 0
    assert seen[1] == validation.ValidationSettings(model="30m", rounds=2, run_s=1.0)
    words = "--validate --serve --rounds 1 --run-s 2"
    assert main(["benchmark", "scaling", *words.split(), "--output", str(tmp_path)]) == 0
    assert seen[2] == serve_validation.ServeValidationSettings(rounds=1, run_s=2.0)
    assert main(["benchmark", "scaling", "--workload", "none", "--output", str(tmp_path)]) == 2
