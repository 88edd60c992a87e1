"""`benchmark train`, whole, at a size of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rmray.benchmark import train
from rmray.benchmark.report import OURS, print_report
from rmray.benchmark.run import Subject, run_train
from rmray.benchmark.sets import Pair, rows_of_groups, write_set
from rmray.benchmark.settings import TrainSettings
from rmray.benchmark.train_rows import RmrayRow, engine_of
from rmray.benchmark.trl_rows import BY_LENGTH, DEFAULT, RANDOM, make_trainer
from rmray.benchmark.words import word_tokenizer
from rmray.benchmark.workloads import WORKLOADS, Workload, count_tokens, make_groups
from rmray.data.chunks import StepSource, local_steps
from rmray.errors import ConfigError
from rmray.training.loop import LoopSettings, run_loop
from rmray.training.objective import Objective
from tests.benchmark.conftest import TINY

SETTINGS = TrainSettings(threads=1, rows=train.ROWS, rounds=1, num_pairs=16, batch_pairs=4)


def test_a_cell_counts_what_each_side_computes(prototype: Any, small_peak: None) -> None:
    workload = Workload("w", 24, 8, 4)
    cell = train.measure_workload(workload, "tiny", prototype, SETTINGS, notify=lambda line: None)
    groups = make_groups(workload, 8, TINY.vocab_size)
    counts = count_tokens(groups, 4)
    rows = {row.name: row for row in cell.rows}
    assert list(rows) == [OURS, RANDOM, BY_LENGTH, DEFAULT]
    assert rows[OURS].tokens == cell.tokens_needed == counts.shared
    assert cell.tokens_given == counts.given
    assert rows[BY_LENGTH].tokens == counts.padded_by_length
    assert counts.given < rows[RANDOM].tokens == rows[DEFAULT].tokens
    assert cell.ideal == pytest.approx(counts.given / counts.shared)
    assert cell.ideal_of_means == pytest.approx(4 * 32 / 56)
    assert cell.num_units == 16
    assert cell.packed
    assert set(cell.distances) == {"scores float32", "gradient float32"}
    for row in cell.rows:
        assert row.speed_up == pytest.approx(row.median_s / rows[OURS].median_s)
        assert row.token_ratio == pytest.approx(row.tokens / counts.shared)
        assert row.kept == pytest.approx((row.speed_up or 0) / (row.token_ratio or 1))
        assert 0 < row.useful_mfu <= row.utilisation
    # The same forwards, and one more of them.
    recomputed = rows[DEFAULT].utilisation * rows[DEFAULT].median_s / (rows[RANDOM].utilisation * rows[RANDOM].median_s)
    assert recomputed == pytest.approx(4 / 3, rel=0.01)  # but for the head


def test_the_whole_benchmark_writes_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_peak: None
) -> None:
    monkeypatch.setattr("rmray.benchmark.run.SHAPES", {"tiny": TINY})
    monkeypatch.setitem(WORKLOADS, "small", Workload("small", 24, 8, 2))
    settings = replace(SETTINGS, rows=(OURS, RANDOM))
    report = run_train(Subject(models=["tiny"], workloads=["small"]), settings, tmp_path, notify=print)
    print_report(report)
    told = capsys.readouterr().out
    assert "equal before timing" in told
    assert "trl random" in told
    saved = json.loads((tmp_path / "train.json").read_text())
    assert saved["cells"][0]["workload"] == "small"
    assert saved["machine"]["threads"] == 1
    assert saved["machine"]["versions"]["trl"]
    assert saved["settings"]["rows"] == [OURS, RANDOM]
    assert (tmp_path / "train.png").stat().st_size > 1000


def test_both_loops_leave_the_same_weights(prototype: Any, tmp_path: Path) -> None:
    """The same pairs in the same order: so optimizer, decay, schedule and clipping are the same too."""
    groups = make_groups(Workload("w", 24, 8, 2), 12, TINY.vocab_size)
    settings = replace(SETTINGS, lr=3e-3, weight_decay=0.3)
    source = StepSource(str(write_set(tmp_path / "set", rows_of_groups(groups))), 0, 4, 10_000)
    shares = list(local_steps(source))
    engine = engine_of(prototype, settings)
    run_loop(engine, shares, LoopSettings(num_steps=3, objective=Objective(), lr=3e-3, warmup_ratio=0.0))
    rows = [row.group for share in shares for batch in share.micro_batches for row in batch]
    trainer = make_trainer(
        prototype,
        [Pair(g.path(0).tolist(), g.path(1).tolist()) for g in rows],
        settings,
        tokenizer=word_tokenizer(TINY.vocab_size),
        output_dir=str(tmp_path / "trl"),
        checkpointing=False,
        keep_order=True,
    )
    trainer.train()
    start = {name: weight.detach() for name, weight in prototype.named_parameters()}
    ours = dict(engine.weights())
    moved = max(float((ours[n] - start[n]).norm()) for n in start)
    assert moved > 0.05
    for name, theirs in trainer.model.named_parameters():
        # Where a gradient is next to nothing, AdamW steps by the rate in the direction of its rounding.
        torch.testing.assert_close(ours[name], theirs, rtol=1e-3, atol=2e-4, msg=name)


def test_steps_are_whole_and_of_whole_groups() -> None:
    groups = make_groups(Workload("w", 4, 2, 8), 5, 9)
    kept, batch_groups = train.whole_steps(groups, 8)
    assert (len(kept), batch_groups) == (4, 2)
    with pytest.raises(ConfigError, match="whole groups"):
        train.whole_steps(groups, 6)
    with pytest.raises(ConfigError, match="not enough pairs"):
        train.whole_steps(groups[:1], 8)


def test_checkpointing_changes_no_token(prototype: Any, tmp_path: Path) -> None:
    groups = make_groups(Workload("w", 24, 8, 2), 8, TINY.vocab_size)
    write_set(tmp_path, rows_of_groups(groups))
    runs = [
        RmrayRow(
            prototype, groups, tmp_path, replace(SETTINGS, checkpointing=on), batch_groups=4, max_micro_batch_tokens=m
        )()
        for on, m in ((False, 10_000), (True, 10_000), (False, 1))
    ]
    assert {run.work.tokens for run in runs} == {sum(g.num_tokens for g in groups)}
