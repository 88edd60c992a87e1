"""What stops a job, without Ray: manifests with known counts."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from rmray.config.train import DataConfig
from rmray.data.ledger import check_content, check_kept, check_quarantined, check_sum, format_ledger, write_quarantine
from rmray.data.prepared import PREPARED_FORMAT, Manifest, Split, Window
from rmray.errors import DataError, TrainingError

MANIFEST = Manifest(
    format=PREPARED_FORMAT,
    key="0123456789abcdef",
    inputs=(),
    tokenizer_hash="",
    render_rules={},
    rows_in=2000,
    quarantined={"broken_json": 30, "missing_field": 70},
    dropped={"over_length": 5},
    notes={"prompts": 900, "duplicate_rows": 4},
    train=Split(
        (Window("train/window-00000.parquet", 1000, 50_000), Window("train/window-00001.parquet", 795, 40_000))
    ),
    eval=Split((Window("eval/window-00000.parquet", 100, 5_000),)),
)
CONFIG = DataConfig(train=["train.jsonl"], eval=["eval.jsonl"])
OVERLAP = replace(MANIFEST, notes={"overlapping_prompts": 7, "overlapping_eval_rows": 20})


@pytest.fixture
def quarantine(tmp_path: Path) -> Path:
    entries = [
        {"file": "f", "line": 9, "code": "broken_json", "reason": "no JSON"},
        {"file": "f", "line": 4, "code": "missing_field", "reason": "no `chosen` (the row has: better, worse)"},
    ]
    write_quarantine(entries, tmp_path / "quarantine.jsonl")
    return tmp_path / "quarantine.jsonl"


def test_the_ledger_is_the_sum_its_reasons_and_the_notes() -> None:
    assert format_ledger(MANIFEST).splitlines() == [
        "rows in 2,000 = train 1,795 + eval 100 + quarantined 100 + dropped 5",
        "  train                90,000 tokens in 2 windows",
        "  eval                  5,000 tokens in 1 windows",
        "  quarantined              30 broken_json",
        "  quarantined              70 missing_field",
        "  dropped                   5 over_length",
        "  note                      4 rows repeat another one (kept)",
    ]


def test_a_lost_row_is_found() -> None:
    check_sum(MANIFEST)
    for rows_in in (1999, 2001):
        with pytest.raises(TrainingError, match=f"{rows_in} rows came in, but 2000 are accounted for"):
            check_sum(replace(MANIFEST, rows_in=rows_in))


def test_quarantined_rows_are_listed_by_file_and_line(quarantine: Path) -> None:
    assert [json.loads(line)["line"] for line in quarantine.read_text().splitlines()] == [4, 9]


def test_the_limit_of_bad_rows_is_inclusive_and_says_what_is_wrong(quarantine: Path, tmp_path: Path) -> None:
    counts = {"broken_json": 30, "missing_field": 70}
    check_quarantined(CONFIG.model_copy(update={"max_quarantined": 0.05}), counts, 2000, quarantine)
    keep = tmp_path / "kept.jsonl"
    with pytest.raises(DataError, match=r"5.0% of the rows are bad, 4.9% are allowed") as error:
        check_quarantined(CONFIG.model_copy(update={"max_quarantined": 0.049}), counts, 2000, quarantine, keep)
    assert "`missing_field` (70 rows), first in f line 4" in error.value.why
    assert "the row has: better, worse" in error.value.why
    assert error.value.where == str(keep)
    assert keep.read_text() == quarantine.read_text()


@pytest.mark.parametrize("split", ["train", "eval"])
def test_an_empty_split_stops_the_job(split: str) -> None:
    check_kept(CONFIG, MANIFEST)
    with pytest.raises(DataError, match=f"no row is left in {split}") as error:
        check_kept(CONFIG, replace(MANIFEST, **{split: Split(())}))
    assert "5 over_length" in error.value.why
    assert error.value.where == f"{split}.jsonl"


def test_no_eval_is_no_empty_eval() -> None:
    check_kept(DataConfig(train=["train.jsonl"]), replace(MANIFEST, eval=Split(())))


# Bad input 10: warned of.


def test_written_out_tokens_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_content(CONFIG, replace(MANIFEST, notes={"rows_with_escaped_special_tokens": 3}))
    assert "3 rows hold special tokens in their text" in caplog.text


# Bad input 13: warned with counts, an error in strict mode.


def test_shared_prompts_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_content(CONFIG, MANIFEST)
        assert not caplog.records
        check_content(CONFIG, OVERLAP)
    assert "train and eval share 7 prompts: 20 of 100 eval rows" in caplog.text


def test_shared_prompts_are_an_error_in_strict_mode() -> None:
    strict = CONFIG.model_copy(update={"strict_overlap": True})
    check_content(strict, MANIFEST)
    with pytest.raises(DataError, match="share 7 prompts: 20 of 100 eval rows"):
        check_content(strict, OVERLAP)
