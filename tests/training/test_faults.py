"""What the driver learns of a fault on a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rmray.errors import DataError, ModelError, RowError, TrainingError
from rmray.training.faults import forget_fault, is_of_another_rank, raise_fault, what_failed, write_fault
from tests.spawn import run_ranks


def test_a_fault_of_ours_comes_back_as_it_was_and_the_first_one_counts(tmp_path: Path) -> None:
    raise_fault(tmp_path)
    ours = ModelError("too large", where="model.base", why="because", next_step="do this")
    write_fault(tmp_path, ours)
    write_fault(tmp_path, TrainingError("a later one"))
    with pytest.raises(ModelError) as caught:
        raise_fault(tmp_path)
    assert str(caught.value) == str(ours)
    assert str(what_failed(tmp_path, {0: RuntimeError("gone")}, "failed")) == str(ours)
    forget_fault(tmp_path)
    raise_fault(tmp_path)


def test_a_fault_whose_writer_was_killed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(part: Path, text: str) -> None:
        part.touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            write_fault(tmp_path, DataError("a"))
    raise_fault(tmp_path)
    write_fault(tmp_path, DataError("b"))
    with pytest.raises(DataError, match="b"):
        raise_fault(tmp_path)


def test_any_other_failure_names_its_rank_and_how_to_go_on(tmp_path: Path) -> None:
    error = what_failed(tmp_path, {1: RuntimeError("out of memory")}, "failed")
    assert isinstance(error, TrainingError)
    assert "rank 1: out of memory" in str(error)
    assert "--resume" in str(error)
    assert "the controller died" in str(what_failed(tmp_path, {}, "the controller died"))


def test_a_kind_that_needs_more_than_words_comes_back_as_a_training_error(tmp_path: Path) -> None:
    write_fault(tmp_path, RowError("blank", "a row is blank"))
    with pytest.raises(TrainingError, match="a row is blank"):
        raise_fault(tmp_path)


class LeavesError(Exception):
    """What takes a rank away while the others load."""


def leave_while_loading(rank: int, world_size: int, base: str) -> tuple[str, bool]:
    from rmray.models.backbone import RewardBackbone
    from rmray.models.base import load_reward_model
    from rmray.training.engine import DeepSpeedEngine, EngineSettings

    def load(gather: Any) -> RewardBackbone:
        if rank:
            raise LeavesError
        return RewardBackbone(
            load_reward_model(base, dtype=torch.float32, pad_id=0, seed=5, device="cpu", gather=gather)
        )

    try:
        DeepSpeedEngine(load, EngineSettings(zero_stage=3))
    except Exception as error:
        return type(error).__name__, is_of_another_rank(error)
    return "loaded", False


def test_a_rank_that_goes_while_others_load_is_no_fault_of_the_model(tiny_base: Path) -> None:
    """It breaks off the collective that loads a weight, which looks like a model that cannot be loaded."""
    answers = run_ranks(leave_while_loading, 2, str(tiny_base))
    assert answers == [("ModelError", True), ("LeavesError", False)]


def test_a_model_that_cannot_be_loaded_is_a_fault(tmp_path: Path) -> None:
    from rmray.models.base import load_reward_model

    with pytest.raises(ModelError) as raised:
        load_reward_model(tmp_path, dtype=torch.float32, pad_id=0, seed=5, device="cpu")
    assert not is_of_another_rank(raised.value)
