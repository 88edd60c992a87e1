"""A base without a pad token, or one whose pad is its EOS, is trained with one that is neither: one rule, recorded.

The rule itself is tested in tests/data/test_tokenizer.py, the bundle of such a model in test_import_model.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rmray.data.render import RenderRules
from rmray.data.tokenizer import PAD_TOKEN, choose_pad_token, embedding_rows, load_tokenizer
from tests.data.prepared_sets import random_rows, write_prepared
from tests.training.runs import make_job, run_job


@pytest.fixture(params=[None, "<eos>"], ids=["no pad", "pad is EOS"])
def base(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base with that pad token, and with no token to spare for another."""
    directory = tmp_path / "base"
    shutil.copytree(tiny_base, directory)
    eos_id = json.loads((directory / "config.json").read_text())["eos_token_id"]
    edit(directory / "tokenizer.json", lambda content: content["added_tokens"].pop(0))
    edit(directory / "tokenizer_config.json", lambda content: content.update(pad_token=request.param))
    edit(directory / "config.json", lambda content: content.update(pad_token_id=request.param and eos_id))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.pad_token, tokenizer.eos_token) == (request.param, "<eos>")
    return directory


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_pad_is_chosen_before_training_and_kept_with_every_checkpoint(base: Path, tmp_path: Path) -> None:
    tokenizer, rows = load_tokenizer(str(base)), embedding_rows(str(base))
    assert choose_pad_token(tokenizer, rows).rule == "added"  # as prepare does
    rules = RenderRules.for_tokenizer(tokenizer, max_length=64)
    assert rules.pad_id == rows != tokenizer.eos_token_id

    write_prepared(tmp_path / "set", random_rows(12), eval_rows=random_rows(4, seed=1))
    job = make_job(tmp_path / "run", base, tmp_path / "set", max_tokens=200, model={"packed": False})
    run_job(replace(job, pad_id=rules.pad_id), deepspeed=False)
    (saved,) = (tmp_path / "run").glob("checkpoints/*/model")

    config = json.loads((saved / "config.json").read_text())
    assert (config["pad_token_id"], config["vocab_size"]) == (rows, rows + 1)
    kept = AutoTokenizer.from_pretrained(saved)
    assert (kept.pad_token, kept.pad_token_id) == (PAD_TOKEN, rows)
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert len(model.get_input_embeddings().weight) == rows + 1
