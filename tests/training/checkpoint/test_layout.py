"""Plans, names, manifests and what is kept: decided without a file."""

from __future__ import annotations

import io
import json

import pytest
import torch
from safetensors.torch import load
from safetensors.torch import save as save_to_bytes

from rmray.training.checkpoint.layout import (
    Attempt,
    Facts,
    checkpoint_name,
    is_layout,
    is_work,
    manifest_text,
    parse_manifest,
    plan_model,
    plan_shards,
    rank_by_quality,
    step_of,
    superseded,
)
from rmray.training.checkpoint.tensors import pieces


def test_shards_are_bounded_and_keep_the_order() -> None:
    sizes = {"a": 4, "b": 4, "c": 9, "d": 1, "e": 4, "f": 4}
    assert plan_shards(sizes, 8) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert plan_shards(sizes, 100) == [list(sizes)]
    assert plan_shards({}, 8) == []


def test_a_model_of_one_shard_has_no_index_and_one_of_several_has() -> None:
    assert plan_model({"a": 4, "b": 4}, 8) == ({"model/model.safetensors": ["a", "b"]}, None)
    files, index = plan_model({"a": 4, "b": 4}, 4)
    assert list(files) == ["model/model-00001-of-00002.safetensors", "model/model-00002-of-00002.safetensors"]
    assert index is not None
    assert json.loads(index) == {
        "metadata": {"total_size": 8},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }


def test_names() -> None:
    assert checkpoint_name(50) == "step-00000050"
    assert [step_of(name) for name in ("step-00000050", "step-123456789", "step-50", ".step-00000050.ab")] == [
        50,
        123456789,
        None,
        None,
    ]
    attempt = Attempt(50, "ab")
    assert is_work(attempt.work)
    assert not is_work("step-00000050")
    assert attempt.folder(renames=False) == "step-00000050"
    assert attempt.folder(renames=True).startswith(attempt.work)
    assert all(map(is_layout, ("model/config.json", "optimizer-00001-of-00001.safetensors", "state.json", "COMPLETE")))
    assert not is_layout("pytorch_model.bin")


def test_a_manifest_is_read_back_and_one_that_points_elsewhere_is_refused() -> None:
    facts = {"model/a": Facts(3, "ab"), "state.json": Facts(2, "cd")}
    assert parse_manifest(manifest_text(facts)) == facts
    for name in ("../x", "/etc/passwd", "model/../../x"):
        with pytest.raises(ValueError, match="names"):
            parse_manifest(manifest_text({name: Facts(1, "a")}))


@pytest.mark.parametrize(
    ("steps", "saved", "keep", "best", "gone"),
    [
        ([30, 20, 10], 30, 2, None, [10]),
        ([30, 20, 10], 30, 2, 10, []),
        ([30, 20, 10], 30, 1, 30, [20, 10]),
        ([40, 30, 20, 10], 20, 1, None, [40, 30, 10]),  # later ones are of a future that was given up
        ([40, 30, 20, 10], 20, 1, 40, [40, 30, 10]),
        ([10], 10, 1, None, []),
    ],
)
def test_what_is_superseded(steps: list[int], saved: int, keep: int, best: int | None, gone: list[int]) -> None:
    assert superseded(steps, saved, keep=keep, best=best) == gone


def test_quality_is_accuracy_then_loss_then_age() -> None:
    evaluations = {
        1: {"eval_accuracy": 0.5},
        2: {"eval_accuracy": 0.7, "eval_loss": 0.5},
        3: {"eval_accuracy": 0.7, "eval_loss": 0.4},
        4: {"eval_accuracy": 0.7, "eval_loss": 0.4},
        5: None,
        6: {"eval_accuracy": float("nan")},
        7: {"eval_accuracy": 0.7},
        8: {"eval_loss": 0.1},
    }
    assert rank_by_quality(evaluations) == [3, 4, 2, 7, 1]


def test_a_file_is_what_safetensors_would_write() -> None:
    tensors = {"b": torch.randn(3, 4), "a": torch.randn(5), "scalar": torch.tensor(2.0), "é": torch.zeros(0, 3)}
    written = b"".join(bytes(piece) for piece in pieces(tensors))
    assert written == save_to_bytes(tensors, metadata={"format": "pt"})


def test_tensors_of_other_dtypes_come_back() -> None:
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "weights": torch.randn(2, 3),
    }
    stream = io.BytesIO()
    for piece in pieces(tensors):
        stream.write(piece)
    back = load(stream.getvalue())
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())
