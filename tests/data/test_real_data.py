"""Reading real preference data: a folder named by RMRAY_REAL_DATA, whose sets are public and no part of the project.

Without the variable these tests are skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from rmray.config.train import DataConfig
from rmray.data.prepare import prepare
from rmray.data.prepared import read_window
from rmray.data.render import RenderRules
from rmray.data.sources import read_records
from rmray.data.tokenizer import load_tokenizer
from rmray.errors import RowError
from tests.data.tokenizers import plain_like

FOLDER = Path(os.environ.get("RMRAY_REAL_DATA", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("RMRAY_REAL_DATA"), reason="RMRAY_REAL_DATA names no folder")


@pytest.mark.parametrize(
    ("name", "objective", "counts"),
    [
        ("gsm8k_pairs.jsonl.gz", "bradley_terry", {"good": 2429}),
        ("gsm8k_kwise.jsonl.gz", "all_pairs", {"good": 729, "identical_completions": 2}),
        ("gsm8k_outcome.jsonl.gz", "outcome", {"good": 5276}),
        ("alpaca_eval_train.jsonl.gz", "bradley_terry", {"good": 5071}),
        ("alpaca_eval_test.jsonl.gz", "bradley_terry", {"good": 1000}),
    ],
)
def test_every_row_is_read(name: str, objective: str, counts: dict[str, int]) -> None:
    records = read_records(str(FOLDER / name), objective=objective)
    assert Counter(r.code if isinstance(r, RowError) else "good" for _, _, r in records) == counts


@pytest.mark.usefixtures("ray_cluster")
def test_pairs_are_prepared_and_their_prompts_held_out(tmp_path: Path) -> None:
    plain_like().save_pretrained(tmp_path / "tokenizer")
    rules = RenderRules.for_tokenizer(load_tokenizer(str(tmp_path / "tokenizer")), max_length=4096)
    prepared = prepare(
        DataConfig(train=[str(FOLDER / "gsm8k_pairs.jsonl.gz")], holdout=0.1),
        tokenizer_dir=str(tmp_path / "tokenizer"),
        output_root=str(tmp_path),
        rules=rules,
        objective="bradley_terry",
    )
    ledger = prepared.manifest.ledger()
    assert ledger["rows_in"] == 2429 == ledger["train"] + ledger["eval"]
    train, held_out = (
        {row.prompt_key for w in split.windows for row in read_window(prepared.directory, w)}
        for split in (prepared.manifest.train, prepared.manifest.eval)
    )
    assert not train & held_out
    assert len(held_out) == round(0.1 * (len(train) + len(held_out)))
