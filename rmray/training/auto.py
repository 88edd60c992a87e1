"""Decide what a config leaves to `auto`, from the model's shape and what a worker's machine has. Pure; called by
`trainer` before anything starts, since the batches are planned with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rmray.config.train import TrainConfig
from rmray.data.packing import ATTENDED_PER_TOKEN, attended_per_token_of
from rmray.errors import ClusterError, ModelError

SHARDING_PAYS_FROM = 2_000_000_000  # parameters: below, plain data parallel is faster than ZeRO-3
FULL_SPEED_TOKENS = 4_096  # of a forward: with fewer, matrix products lose more than recomputation costs
WEIGHT_BYTES = 4  # of a parameter: float32
TRAINED_BYTES = 16  # of one that is trained, beside its weight: ZeRO's master copy of it, gradient, two moments
PROCESS_BYTES = 2**29  # a worker before it holds a model: torch, Ray and DeepSpeed, or the context of a GPU
USED_SHARE = 0.85  # of free memory: what others take meanwhile; Ray stops workers where a node is 95% full
ACTIVATIONS_SHARE = 0.6  # of what that leaves: the CPU's allocator was measured to keep 1.65 bytes for each one in use
FITS_ABOUT = 0.8  # of a budget: within the margin of `micro_batch_tokens`
MAX_AUTO_TOKENS = 65_536  # larger forwards gain nothing
GPU_BUCKETS = (20_000_000, 200_000_000)  # least and most elements of a message between ranks
CPU_BUCKETS = (5_000_000, 20_000_000)
MAX_AUTO_TOKENS_CPU = 8_192  # beyond, activations only leave the caches


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory and time depend on. intermediate: width of the feed-forward layers. longest_packed: longest path, in
    tokens, that the packed forward may take; 0 where the structure allows none. trained_parameters: None for all."""

    num_parameters: int
    hidden: int
    intermediate: int
    layers: int
    longest_packed: int = sys.maxsize
    trained_parameters: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What one worker finds. device: `cuda` or `cpu`. free_bytes: for this worker alone. bfloat16: whether the device
    computes in it. name: for messages."""

    device: str
    free_bytes: int
    bfloat16: bool
    name: str


class Buckets(NamedTuple):
    """elements: of one message between ranks. whole_below: at stage 3, parameters smaller than this stay whole."""

    elements: int = CPU_BUCKETS[0]
    whole_below: int = 100_000


@dataclass(frozen=True, slots=True)
class Choices:
    """What a run is made with once nothing is left to `auto`. shared_prefix: whether the forward is expected to compute
    a prompt once for all its completions, which is what `max_micro_batch_tokens` then counts. attended_per_token: what
    attention costs on this model, for the balance over workers. buckets: of the engine."""

    device: str
    bfloat16: bool
    zero_stage: int
    gradient_checkpointing: bool
    max_micro_batch_tokens: int
    shared_prefix: bool = True
    attended_per_token: int = ATTENDED_PER_TOKEN
    buckets: Buckets = field(default_factory=Buckets)


def check_capacity(config: TrainConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Most workers that share a node. nodes: the resources of each, CPU and GPU.

    Raises ClusterError where not all workers fit: a worker is never cut in two, and must not wait for ever.
    """
    workers = config.workers
    fits = [
        int(min(node.get("CPU", 0.0) // workers.cpus, node.get("GPU", 0.0) // workers.gpus if workers.gpus else 1e9))
        for node in nodes
    ]
    if sum(fits) < workers.min_num:
        cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
        raise ClusterError(
            f"{workers.min_num} workers do not fit in the cluster",
            where="workers",
            why=f"{workers.min_num} x ({workers.cpus} CPUs, {workers.gpus} GPUs) are asked for; {len(nodes)} node(s) "
            f"have {cpus:g} CPUs and {gpus:g} GPUs in all, room for {sum(fits)}",
            next_step="lower workers.num, workers.cpus or workers.gpus, or add nodes",
        )
    return min(max(fits), workers.max_num)


def choose(config: TrainConfig, shape: ModelShape, machine: Machine) -> Choices:
    """Resolve every `auto`. Raises ModelError for bfloat16 where the device has none, and where nothing fits."""
    bfloat16 = choose_bfloat16(config.model.dtype, machine)
    zero_stage = choose_zero_stage(config.workers.zero_stage, shape.num_parameters, config.workers.max_num)
    shards = config.workers.min_num if zero_stage == 3 else 1
    at_least = 2 * config.data.max_length
    tokens = config.workers.max_micro_batch_tokens
    checkpointing = config.model.gradient_checkpointing
    if checkpointing == "auto":
        wanted = max(at_least, FULL_SPEED_TOKENS) if tokens == "auto" else tokens
        checkpointing = wanted > _fitting_tokens(
            shape, machine, shards=shards, gradient_checkpointing=False, bfloat16=bfloat16
        )
    if tokens == "auto":
        tokens = micro_batch_tokens(
            shape,
            machine,
            shards=shards,
            gradient_checkpointing=checkpointing,
            bfloat16=bfloat16,
            at_least=at_least,
        )
    return Choices(
        machine.device,
        bfloat16,
        zero_stage,
        checkpointing,
        tokens,
        choose_shared_prefix(config, shape),
        attended_per_token_of(shape.hidden, shape.intermediate),
        choose_buckets(shape, machine),
    )


def keep_choices(config: TrainConfig, *, before: Choices, now: Choices) -> Choices:
    """The choices of a resumed run. before: at its start; now: on the machines it is resumed on.

    Micro-batches are cut by a budget which `auto` takes from the memory that happens to be free. The one of the start
    is kept where it still about fits, so that a resumed run adds the same numbers in the same order.
    """
    tokens = config.workers.max_micro_batch_tokens
    if (
        tokens != "auto"
        or before.device != now.device
        or FITS_ABOUT * before.max_micro_batch_tokens > (now.max_micro_batch_tokens)
    ):
        return now
    return replace(now, max_micro_batch_tokens=before.max_micro_batch_tokens, shared_prefix=before.shared_prefix)


def choose_bfloat16(dtype: str, machine: Machine) -> bool:
    """Whether the forward runs in bfloat16. auto: on a GPU that has it."""
    if dtype == "bfloat16" and not machine.bfloat16:
        raise ModelError(
            "bfloat16 cannot run on the workers' device",
            where="model.dtype",
            why=f"{machine.name} does not compute in bfloat16",
            next_step="set model.dtype to float32, or to auto",
        )
    return dtype == "bfloat16" or (dtype == "auto" and machine.device == "cuda" and machine.bfloat16)


def choose_shared_prefix(config: TrainConfig, shape: ModelShape) -> bool:
    """Whether batches are planned for the packed forward. Where it is in doubt they are not: that costs some speed, the
    other way round a forward could take several times the memory. Dropout is drawn inside attention, which refuses."""
    model = config.model
    return model.packed is not False and not model.dropout and config.data.max_length <= shape.longest_packed


def choose_zero_stage(stage: int | str, num_parameters: int, num_workers: int) -> int:
    """auto: 3 from 2B parameters on several workers, else 0."""
    if stage != "auto":
        return int(stage)
    return 3 if num_workers > 1 and num_parameters >= SHARDING_PAYS_FROM else 0


def choose_buckets(shape: ModelShape, machine: Machine) -> Buckets:
    """Messages of one square matrix of the model's width, as transformers' own `auto` has it, within bounds: small ones
    cost more calls than bytes, large ones hold memory and overlap with nothing. Parameters of 10 widths (norms, biases)
    stay whole on every rank, for gathering them costs more than holding them."""
    bounds = GPU_BUCKETS if machine.device == "cuda" else CPU_BUCKETS
    return Buckets(min(max(shape.hidden**2, bounds[0]), bounds[1]), 10 * shape.hidden)


def micro_batch_tokens(
    shape: ModelShape,
    machine: Machine,
    *,
    shards: int,
    gradient_checkpointing: bool,
    bfloat16: bool,
    at_least: int,
) -> int:
    """Tokens of one forward and backward that fit beside weights, gradients and moments.

    shards: workers that share those (ZeRO-3), else 1. at_least: tokens that one comparison may take. Scores are read
    from the last hidden state, so that no vocabulary-sized activation appears. Raises ModelError where `at_least` does
    not fit.
    """
    fitting = _fitting_tokens(
        shape, machine, shards=shards, gradient_checkpointing=gradient_checkpointing, bfloat16=bfloat16
    )
    if fitting < at_least:
        state = _state_bytes(shape, shards)
        raise ModelError(
            "a comparison of the greatest length does not fit in a worker's memory",
            where="workers.max_micro_batch_tokens",
            why=f"{machine.name} has {machine.free_bytes / 2**30:.1f} GiB free; weights and optimizer take "
            f"{state / 2**30:.1f} GiB a worker, which leaves room for about {max(0, fitting)} of {at_least} tokens",
            next_step="lower data.max_length, set model.gradient_checkpointing to true, take more workers at "
            "workers.zero_stage 3, or set workers.max_micro_batch_tokens yourself",
        )
    return max(at_least, min(fitting, MAX_AUTO_TOKENS_CPU if machine.device == "cpu" else MAX_AUTO_TOKENS))


def _state_bytes(shape: ModelShape, shards: int) -> float:
    """Weights, gradients and moments of one worker."""
    trained = shape.num_parameters if shape.trained_parameters is None else shape.trained_parameters
    return (WEIGHT_BYTES * shape.num_parameters + TRAINED_BYTES * trained) / shards


def _fitting_tokens(
    shape: ModelShape, machine: Machine, *, shards: int, gradient_checkpointing: bool, bfloat16: bool
) -> int:
    """Tokens whose activations fit beside the state; below 0 where not even that fits."""
    usable = ACTIVATIONS_SHARE * (USED_SHARE * machine.free_bytes - PROCESS_BYTES - _state_bytes(shape, shards))
    return int(usable / _bytes_per_token(shape, gradient_checkpointing, bfloat16))


def _bytes_per_token(shape: ModelShape, gradient_checkpointing: bool, bfloat16: bool) -> float:
    """Activations kept for the backward pass, per token.

    A decoder layer keeps about 14 values of hidden width (two norms, queries, keys, values, attention, residuals, keys
    and values once more beside each completion) and 4 of the feed-forward's width (gate, up, activation, product): a
    Qwen3 was measured to keep 13 and 4. Under autocast about half of them are bfloat16. With checkpointing a layer
    keeps its input alone, and one layer at a time is unfolded, with its gradients.
    """
    width = 3.0 if bfloat16 else 4.0
    layer = 14 * shape.hidden + 4 * shape.intermediate
    values = shape.layers * shape.hidden + 2 * layer if gradient_checkpointing else shape.layers * layer
    return width * (values + 8 * shape.hidden)  # the embedding, the last norm and their gradients
