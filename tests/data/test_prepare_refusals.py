"""What stops prepare or has it warn: too many bad rows, overlap, damaged files, another tokenizer, nowhere to write."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from rmray.config.train import TrainConfig
from rmray.data.prepare import format_ledger, prepare_for
from rmray.errors import DataError, ModelError
from tests.data.preparing import Preparing, pair, write_rows
from tests.data.tokenizers import llama_like

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_too_many_bad_rows_stop_the_job_and_leave_their_list(preparing: Preparing, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*(pair(i) for i in range(8)), b"{broken", {"prompt": "p", "text": "a"}])
    with pytest.raises(DataError, match=r"20.0% of the rows are bad, 10.0% are allowed") as error:
        preparing(train=[path], holdout=99)  # which too would be refused: what is wrong with the rows comes first
    assert "broken_json" in error.value.why
    assert f"{path} line 9" in error.value.why
    kept = Path(error.value.where)
    assert [json.loads(line)["line"] for line in kept.read_text().splitlines()] == [9, 10]
    assert list((tmp_path / "prepared").iterdir()) == [kept]  # no half-made set is left


# Bad input 13: train and eval overlap.


def test_prompts_in_train_and_eval_are_warned_of(
    preparing: Preparing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = write_rows(tmp_path / "train.jsonl", [pair(i) for i in range(30)])
    held_out = write_rows(tmp_path / "eval.jsonl", [pair(i, source="e") for i in range(24, 36)])
    for _ in range(2):  # made, then found
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rmray"):
            prepared = preparing(train=[train], eval=[held_out])
        assert "train and eval share 2 prompts: 6 of 12 eval rows" in caplog.text
    assert prepared.cached
    assert "2 prompts are in train and in eval" in format_ledger(prepared.manifest)
    with pytest.raises(DataError, match="share 2 prompts"):
        preparing(train=[train], eval=[held_out], strict_overlap=True)


# Bad input 12: an empty or cut-off file stops the job, named, whoever finds it.


def test_a_damaged_file_comes_out_of_ray_as_itself(preparing: Preparing, tmp_path: Path) -> None:
    good = write_rows(tmp_path / "good.jsonl", [pair(i) for i in range(9)])
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(pair(1)).encode() * 100)[:-20])
    with pytest.raises(DataError, match="cut off") as error:
        preparing(train=[good, str(cut)])
    assert type(error.value) is DataError
    assert error.value.where == str(cut)
    assert not list((tmp_path / "prepared").iterdir())
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="empty"):
        preparing(train=[good, str(tmp_path / "empty.jsonl")])


def test_a_file_given_twice_is_refused(preparing: Preparing, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [pair(0)])
    copy = write_rows(tmp_path / "copy.jsonl", [pair(0)])
    with pytest.raises(DataError, match=r"given twice in data.train"):
        preparing(train=[path, copy])


def test_rules_of_another_tokenizer_are_refused(preparing: Preparing, tmp_path: Path) -> None:
    llama_like().save_pretrained(tmp_path / "llama")
    path = write_rows(tmp_path / "rows.jsonl", [pair(0)])
    with pytest.raises(ModelError, match="another tokenizer"):
        Preparing(tmp_path, str(tmp_path / "llama"), preparing.rules)(train=[path])


def test_a_base_without_a_config_and_a_place_not_to_write_stop_the_job(tmp_path: Path, tokenizer_dir: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(tokenizer_dir).iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    settings = {"data": {"train": [str(rows)]}, "model": {"base": str(base)}, "run": {"storage": str(rows)}}
    with pytest.raises(ModelError, match="no config that can be read"):
        prepare_for(TrainConfig.model_validate(settings))
    (base / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 1000}')
    with pytest.raises(DataError, match="cannot be written here"):
        prepare_for(TrainConfig.model_validate(settings))
