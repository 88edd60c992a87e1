"""Runs that train a part, adapters or upper layers: on one rank and on two, resumed; their checkpoints and groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rmray.config.train import TrainConfig
from rmray.errors import BundleError
from rmray.models.backbone import RewardBackbone
from rmray.models.base import load_reward_model
from rmray.models.depth import depths
from rmray.training.auto import Buckets
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.model import make_model
from tests.data.prepared_sets import random_rows, write_prepared
from tests.models.batches import random_batch
from tests.spawn import run_ranks
from tests.training.runs import distances, make_job, run_job, same, saved_tensors, steps_of, untimed

STEPS = 4
LORA: dict[str, Any] = {"lora": {"r": 4, "alpha": 8.0, "dropout": 0.1}, "head_dropout": 0.1}
EXACT: dict[str, Any] = {"lora": {"r": 4, "alpha": 8.0, "dropout": 0.0}}
FROZEN: dict[str, Any] = {"freeze": 1}
SHARED = {"optim": {"max_steps": STEPS, "layer_decay": 0.5}, "evaluate": {"every_steps": 100}}
TOLERANCE = 1e-5  # fp32, sums in another order: of each figure, and norm-wise of each tensor


def section(every_steps: int = 2) -> dict[str, Any]:
    return SHARED | {"checkpoint": {"every_steps": every_steps, "background": False, "keep_best": False}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("set")
    write_prepared(directory, random_rows(6 * STEPS))
    return directory


@pytest.mark.parametrize("model", [LORA, FROZEN], ids=["lora", "frozen"])
def test_a_resumed_run_is_bitwise_the_run_left_alone(
    model: dict[str, Any], tiny_base: Path, prepared: Path, tmp_path: Path
) -> None:
    whole, broken = (
        make_job(tmp_path / name, tiny_base, prepared, model=model, **section()) for name in ("whole", "broken")
    )
    lines = run_job(whole, deepspeed=False)
    run_job(broken, deepspeed=False, killed_at=3)
    again = run_job(broken, deepspeed=False)
    assert untimed(steps_of(again)) == untimed(steps_of(lines))
    assert same(*(saved_tensors(tmp_path / name, STEPS) for name in ("whole", "broken")))
    assert len({line["loss"] for line in steps_of(lines)}) == STEPS


def test_a_checkpoint_of_adapters_holds_what_is_trained_and_no_more(
    tiny_base: Path, prepared: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run", tiny_base, prepared, model=LORA, **section())
    run_job(job, deepspeed=False)
    names = {n for n in saved_tensors(tmp_path / "run", STEPS) if not n.endswith((".exp_avg", ".exp_avg_sq"))}
    fresh = make_model(job.config, pad_id=job.pad_id, device="cpu")
    assert names == {name for name, p in fresh.named_parameters() if p.requires_grad}
    moments = {n for n in saved_tensors(tmp_path / "run", STEPS) if n.endswith((".exp_avg", ".exp_avg_sq"))}
    assert moments == {f"{name}.{key}" for name in names for key in ("exp_avg", "exp_avg_sq")}

    wider = TrainConfig.model_validate(
        {**job.config.model_dump(), "model": {"base": str(tiny_base), "lora": {"r": 4, "targets": ["q_proj"]}}}
    )
    (directory,) = (tmp_path / "run" / "checkpoints").glob(f"*{STEPS}/model")
    with pytest.raises(BundleError, match="does not hold this run's adapters"):
        make_model(wider, pad_id=0, device="cpu", checkpoint_dir=directory)


def test_frozen_weights_are_bit_for_bit_those_of_the_base(tiny_base: Path, prepared: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", tiny_base, prepared, model=FROZEN, **section())
    run_job(job, deepspeed=False)
    after, before = saved_tensors(tmp_path / "run", STEPS), load_file(tiny_base / "model.safetensors")
    model = load_reward_model(tiny_base, dtype=torch.float32, pad_id=0, seed=0, device="cpu")
    depth_of, _ = depths(model)
    assert len(before) > 10
    for name in before:
        assert torch.equal(after[name], before[name]) == (depth_of[name] <= 1), name
        assert (f"{name}.exp_avg" in after) == (depth_of[name] > 1), name


def train_on(rank: int, world_size: int, directory: Path, base: Path, prepared: Path) -> dict[str, Any]:
    """Adapters at stage 3, recomputed, no parameter whole, broken off and resumed; upper layers at stage 2."""
    adapters = make_job(
        directory / "lora-3", base, prepared, stage=3, gradient_checkpointing=True, model=EXACT, **section()
    )
    adapters = replace(adapters, choices=replace(adapters.choices, buckets=Buckets(whole_below=0)))
    run_job(adapters, killed_at=3)
    frozen = make_job(directory / "frozen-2", base, prepared, stage=2, model=FROZEN, **section(STEPS))
    return {"lora": steps_of(run_job(adapters)), "frozen": steps_of(run_job(frozen))}


def test_two_ranks_equal_one(tiny_base: Path, prepared: Path, tmp_path: Path) -> None:
    alone = {}
    for name, model in (("lora", EXACT), ("frozen", FROZEN)):
        job = make_job(tmp_path / f"alone-{name}", tiny_base, prepared, model=model, **section(STEPS))
        alone[name] = steps_of(run_job(job, deepspeed=False))
    runs = run_ranks(train_on, 2, tmp_path, tiny_base, prepared)[0]
    for name, directory in (("lora", "lora-3"), ("frozen", "frozen-2")):
        assert [line["row_ids_hash"] for line in runs[name]] == [line["row_ids_hash"] for line in alone[name]]
        for field in ("loss", "grad_norm", "mean_chosen"):
            assert [line[field] for line in runs[name]] == pytest.approx(
                [line[field] for line in alone[name]], rel=TOLERANCE, abs=TOLERANCE
            )
        got, want = (saved_tensors(tmp_path / n, STEPS) for n in (directory, f"alone-{name}"))
        assert got.keys() == want.keys()
        weights = [n for n in want if ".exp_avg" not in n]
        assert max(d for _, d in distances(*({n: t[n] for n in weights} for t in (got, want)))) < TOLERANCE


def test_the_learning_rate_of_each_layer_is_that_of_the_one_above_it_times_the_decay(tiny_base: Path) -> None:
    backbone = RewardBackbone(load_reward_model(tiny_base, dtype=torch.float32, pad_id=0, seed=0, device="cpu"))
    engine = TorchEngine(lambda gather: backbone, EngineSettings(layer_decay=0.5, weight_decay=0.1, eps=1e-30))
    names = {id(p): name for name, p in backbone.model.named_parameters()}
    before = {name: p.detach().clone() for name, p in backbone.model.named_parameters()}
    engine.backward(engine.forward(random_batch(200)).sum(), last=True)
    engine.step(1e-2)
    rates = {names[id(p)]: group["lr"] for group in engine._optimizer.param_groups for p in group["params"]}
    assert rates.keys() == before.keys()
    assert rates["score.weight"] == rates["model.norm.weight"] == 1e-2
    assert {rate for name, rate in rates.items() if ".layers.1." in name} == {5e-3}
    assert {rate for name, rate in rates.items() if ".layers.0." in name} == {2.5e-3}
    assert rates["model.embed_tokens.weight"] == 1.25e-3
    # AdamW's first step moves each element that has a gradient by the whole rate (biases and norms do not decay).
    for name in ("model.norm.weight", "model.layers.0.input_layernorm.weight"):
        moved = (backbone.model.get_parameter(name).detach() - before[name]).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, rates[name]), rtol=1e-3, atol=0)


def test_without_a_decay_the_groups_are_those_of_any_module(tiny_base: Path) -> None:
    backbone = RewardBackbone(load_reward_model(tiny_base, dtype=torch.float32, pad_id=0, seed=0, device="cpu"))
    engine = TorchEngine(lambda gather: backbone, EngineSettings(weight_decay=0.1))
    assert [(g["weight_decay"], g["lr_scale"]) for g in engine._optimizer.param_groups] == [(0.1, 1.0), (0.0, 1.0)]
