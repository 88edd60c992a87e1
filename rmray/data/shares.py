"""A rank's share of some steps as one Arrow payload, checked where it is read. Written and read by `chunks`, `stream`.

The payload is an Arrow IPC stream of the rank's rows with two more columns, `step` and `micro_batch`; a header in its
schema says which steps it holds and what each must come to. A share that went astray is an error, never a wrong curve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from rmray.data.order import hash_row_ids
from rmray.data.prepared import ROW_COLUMNS, Row, rows_from_table
from rmray.errors import TrainingError

SHARE_COLUMNS = ROW_COLUMNS.append(pa.field("step", pa.int64())).append(pa.field("micro_batch", pa.int64()))

_HEADER = b"rmray_share"


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What all ranks know of a step.

    step: of the whole run, from 0. row_ids_hash: `hash_row_ids` of its rows. num_comparisons, num_tokens: of all ranks;
    num_tokens: computed tokens of each comparison alone, a shared prefix once. num_micro_batches: of every rank.
    """

    step: int
    epoch: int
    row_ids_hash: str
    num_comparisons: int
    num_tokens: int
    num_micro_batches: int


@dataclass(frozen=True, slots=True)
class StepShare:
    """What one rank does in one step: the facts of the step (as in StepFacts) and the rank's own rows.

    micro_batches: as many on every rank, some perhaps empty.
    """

    step: int
    epoch: int
    micro_batches: tuple[tuple[Row, ...], ...]
    row_ids_hash: str
    num_comparisons: int
    num_tokens: int


def encode_share(table: pa.Table, facts: Sequence[StepFacts], *, rank: int, world_size: int) -> bytes:
    """The payload of one rank. table: its rows with SHARE_COLUMNS, step after step, micro-batch after micro-batch;
    facts: of every step of the payload, those in which the rank has no row among them."""
    row_ids_of: dict[int, list[str]] = {fact.step: [] for fact in facts}
    for step, row_id in zip(table["step"].to_pylist(), table["row_id"].to_pylist(), strict=True):
        row_ids_of[step].append(row_id)
    header = {
        "rank": rank,
        "world_size": world_size,
        "steps": [asdict(fact) | {"share_hash": hash_row_ids(row_ids_of[fact.step])} for fact in facts],
    }
    sink = pa.BufferOutputStream()
    schema = SHARE_COLUMNS.with_metadata({_HEADER: json.dumps(header).encode()})
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(SHARE_COLUMNS).replace_schema_metadata(schema.metadata))
    return bytes(sink.getvalue())


def decode_share(payload: bytes | pa.Buffer, *, rank: int, world_size: int, next_step: int) -> list[StepShare]:
    """The shares of one payload, step after step.

    Raises TrainingError where it is another rank's, of another world size, does not begin with `next_step`, or where
    its rows are not those that were planned.
    """
    table = pa.ipc.open_stream(payload).read_all()
    header = json.loads(table.schema.metadata[_HEADER])
    _check("rank", header["rank"], rank, rank, next_step)
    _check("world size", header["world_size"], world_size, rank, next_step)
    rows = rows_from_table(table.select(ROW_COLUMNS.names))
    cells = zip(table["step"].to_pylist(), table["micro_batch"].to_pylist(), rows, strict=True)
    rows_of: dict[tuple[int, int], list[Row]] = {}
    for step, micro_batch, row in cells:
        rows_of.setdefault((step, micro_batch), []).append(row)
    shares = []
    for offset, entry in enumerate(header["steps"]):
        step, share_hash, num_micro_batches = entry["step"], entry.pop("share_hash"), entry.pop("num_micro_batches")
        _check("step", step, next_step + offset, rank, next_step)
        micro_batches = tuple(tuple(rows_of.pop((step, m), ())) for m in range(num_micro_batches))
        received = hash_row_ids(row.row_id for micro_batch in micro_batches for row in micro_batch)
        _check("hash of row ids", received, share_hash, rank, step)
        shares.append(StepShare(micro_batches=micro_batches, **entry))
    _check("number of rows of no step", sum(map(len, rows_of.values())), 0, rank, next_step)
    return shares


def first_step(payload: bytes | pa.Buffer) -> int:
    """The first step that a payload holds."""
    header = json.loads(pa.ipc.open_stream(payload).schema.metadata[_HEADER])
    return int(header["steps"][0]["step"])


def _check(name: str, received: int | str, expected: int | str, rank: int, step: int) -> None:
    if received != expected:
        raise TrainingError(
            f"rank {rank} received a share that is not its own: {name} {received}, expected {expected}",
            where=f"step {step}, rank {rank}",
            why="batches must arrive in the planned order, and this one did not",
            next_step="resume from the last checkpoint; should it happen again, report it with the version of ray",
        )
