"""A tokenizer, rules and a `prepare` of their own, which the suites of prepare share."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmray.data.render import RenderRules
from rmray.data.tokenizer import load_tokenizer
from tests.data.preparing import Preparing
from tests.data.tokenizers import qwen_like


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tokenizer")
    qwen_like().save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def rules(tokenizer_dir: str) -> RenderRules:
    return RenderRules.for_tokenizer(load_tokenizer(tokenizer_dir), max_length=64)


@pytest.fixture
def preparing(tmp_path: Path, tokenizer_dir: str, rules: RenderRules) -> Preparing:
    return Preparing(tmp_path, tokenizer_dir, rules)
