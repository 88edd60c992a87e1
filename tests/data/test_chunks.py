"""Planned steps without Ray: the same batches for any number of ranks, from any step, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmray.data import chunks
from rmray.data.chunks import ChunkPlanner, StepSource, chunk_bounds, count_steps, eval_shares, local_steps
from rmray.data.order import hash_row_ids
from rmray.data.prepared import Row
from rmray.data.shares import StepShare, decode_share
from rmray.errors import DataError, TrainingError
from tests.data.prepared_sets import random_rows, write_prepared

ROWS = random_rows(300, seed=1, rows_per_prompt=4, completions=3)
HELD_OUT = random_rows(50, seed=2, file_hash="fedcba9876543210")


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("prepared")
    write_prepared(directory, ROWS, window_rows=32, eval_rows=HELD_OUT)
    return str(directory)


def source_of(prepared_dir: str, **options: int) -> StepSource:
    return StepSource(prepared_dir, **{"seed": 0, "global_batch_size": 14, "max_micro_batch_tokens": 400, **options})


def row_ids(share: StepShare) -> list[str]:
    return [row.row_id for micro_batch in share.micro_batches for row in micro_batch]


def same_row(one: Row, other: Row) -> bool:
    arrays = (one.group.prefix, *one.group.suffixes), (other.group.prefix, *other.group.suffixes)
    rest = [(r.row_id, r.prompt_key, r.group.prompt_lens, r.num_chars, r.ranks, r.ratings) for r in (one, other)]
    return all(map(np.array_equal, *arrays)) and rest[0] == rest[1]


def global_steps(source: StepSource, world_size: int) -> list[list[StepShare]]:
    """Step after step, the shares of all ranks."""
    ranks = [local_steps(source, rank=rank, world_size=world_size) for rank in range(world_size)]
    return [list(shares) for shares in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_epoch_is_every_row_once_in_batches_that_know_no_world_size(prepared_dir, world_size):
    source = source_of(prepared_dir, epochs=2)
    alone = [row_ids(shares[0]) for shares in global_steps(source, 1)]
    steps = global_steps(source, world_size)
    assert [shares[0].step for shares in steps] == list(range(44))  # 2 x ceil(300 / 14)
    for shares, expected in zip(steps, alone, strict=True):
        ids = [row_id for share in shares for row_id in row_ids(share)]
        assert sorted(ids) == sorted(expected)
        rows = [row for share in shares for micro_batch in share.micro_batches for row in micro_batch]
        for share in shares:
            assert share.epoch == share.step // 22
            assert share.row_ids_hash == hash_row_ids(expected)
            assert share.num_comparisons == len(expected)
            assert share.num_tokens == sum(row.group.num_tokens for row in rows)
            assert len(share.micro_batches) == len(shares[0].micro_batches)
            for micro_batch in share.micro_batches:
                assert sum(row.group.num_tokens for row in micro_batch) <= 400 or len(micro_batch) == 1
    everything = Counter(row.row_id for row in ROWS)
    for epoch in range(2):
        assert Counter(i for ids in alone[22 * epoch : 22 * epoch + 22] for i in ids) == everything
    assert alone[:22] != alone[22:]


def test_where_the_forward_pads_the_same_batches_are_cut_by_their_paths(prepared_dir):
    shared = global_steps(source_of(prepared_dir), 2)
    padded = global_steps(source_of(prepared_dir, shared_prefix=False), 2)
    budget = 400
    over = 0
    for one, other in zip(shared, padded, strict=True):
        assert [s.row_ids_hash for s in one] == [s.row_ids_hash for s in other]
        assert len({len(s.micro_batches) for s in other}) == 1
        over += sum(padded_tokens(rows) > budget for s in one for rows in s.micro_batches)
        for rows in (rows for s in other for rows in s.micro_batches):
            assert padded_tokens(rows) <= budget or len(rows) == 1
        assert other[0].num_tokens == sum(
            padded_tokens([row]) for s in other for rows in s.micro_batches for row in rows
        )
    assert over  # a plan that counts shared prefixes once is no plan for a forward that pads
    held_out = eval_shares(prepared_dir, world_size=1, rank=0, max_micro_batch_tokens=150, shared_prefix=False)
    assert all(padded_tokens(rows) <= 150 or len(rows) == 1 for rows in held_out)


def test_what_attention_costs_changes_the_balance_and_no_batch(prepared_dir):
    cheap, dear = (global_steps(source_of(prepared_dir, attended_per_token=cost), 2) for cost in (10**9, 1))
    assert [s[0].row_ids_hash for s in cheap] == [s[0].row_ids_hash for s in dear]
    assert [sorted(row_ids(s[0])) for s in cheap] != [sorted(row_ids(s[0])) for s in dear]


def padded_tokens(rows: Sequence[Row]) -> int:
    """Tokens of the rectangle that plain transformers is given."""
    return sum(row.group.num_completions for row in rows) * max((row.group.max_path_len for row in rows), default=0)


def test_rows_of_a_prompt_share_a_step_and_arrive_whole(prepared_dir):
    by_id = {row.row_id: row for row in ROWS}
    step_of: dict[int, int] = {}
    for share in local_steps(source_of(prepared_dir)):
        for row in (row for micro_batch in share.micro_batches for row in micro_batch):
            assert step_of.setdefault(row.prompt_key, share.step) == share.step
            assert same_row(row, by_id[row.row_id])


@pytest.mark.parametrize("start_step", [1, 16, 21, 22, 30, 43, 44])
def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(prepared_dir, start_step):
    source = source_of(prepared_dir, epochs=2)
    whole = [(s.step, row_ids(s)) for s in local_steps(source, rank=1, world_size=2)]
    resumed = [(s.step, row_ids(s)) for s in local_steps(source, rank=1, world_size=2, start_step=start_step)]
    assert resumed == whole[start_step:]


@settings(max_examples=60)
@given(
    num_rows=st.integers(1, 60),
    rows_per_prompt=st.integers(1, 7),
    completions=st.integers(2, 4),
    window_rows=st.integers(3, 40),
    batch=st.integers(1, 24),
    budget=st.integers(1, 500),
    seed=st.integers(0, 2**63 - 1),
    start=st.integers(0, 60),
    shared_prefix=st.booleans(),
)
def test_any_set_any_batch_any_ranks(
    tmp_path_factory, num_rows, rows_per_prompt, completions, window_rows, batch, budget, seed, start, shared_prefix
):
    rows = random_rows(num_rows, seed=seed % 1000, rows_per_prompt=rows_per_prompt, completions=completions)
    prepared_dir = tmp_path_factory.mktemp("set")
    write_prepared(prepared_dir, rows, window_rows=window_rows)
    options = {"global_batch_size": batch, "max_micro_batch_tokens": budget, "shared_prefix": shared_prefix}
    source = source_of(str(prepared_dir), seed=seed, epochs=2, **options)
    of_ranks = {world_size: planned_steps(source, world_size) for world_size in (1, 2, 3, 4)}

    alone = [row_ids(share) for (share,) in of_ranks[1]]
    per_epoch = -(-num_rows // batch)
    assert len(alone) == 2 * per_epoch
    for epoch in (alone[:per_epoch], alone[per_epoch:]):  # every row once, those of the last, partial batch too
        assert Counter(i for ids in epoch for i in ids) == Counter(row.row_id for row in rows)
    key_of = {row.row_id: row.prompt_key for row in rows}
    if rows_per_prompt <= batch:
        for epoch in (alone[:per_epoch], alone[per_epoch:]):
            assert sum(len({key_of[i] for i in ids}) for ids in epoch) == len(set(key_of.values()))

    for world_size, steps in of_ranks.items():
        for shares, expected in zip(steps, alone, strict=True):
            assert sorted(i for share in shares for i in row_ids(share)) == sorted(expected)
            assert {share.row_ids_hash for share in shares} == {hash_row_ids(expected)}
            assert len({len(share.micro_batches) for share in shares}) == 1
            for micro_batch in (m for share in shares for m in share.micro_batches):
                assert all(row.group.num_completions == completions for row in micro_batch)  # no group is cut
                tokens = sum(row.group.num_tokens for row in micro_batch)
                assert (tokens if shared_prefix else padded_tokens(micro_batch)) <= budget or len(micro_batch) == 1
        start_step = min(start, len(alone))
        resumed = planned_steps(source, world_size, start_step)
        assert [list(map(by_micro_batch, shares)) for shares in resumed] == [
            list(map(by_micro_batch, shares)) for shares in steps[start_step:]
        ]


def planned_steps(source: StepSource, world_size: int, start_step: int = 0) -> list[list[StepShare]]:
    """As `global_steps`, each chunk planned once for all ranks, by a planner that has planned nothing before."""
    planner = ChunkPlanner(source)
    steps: list[list[StepShare]] = []
    for first, stop in chunk_bounds(start_step, count_steps(source).num_steps):
        shares = [
            decode_share(payload, rank=rank, world_size=world_size, next_step=first)
            for rank, payload in enumerate(planner.plan(first, stop, world_size=world_size))
        ]
        steps += map(list, zip(*shares, strict=True))
    return steps


def by_micro_batch(share: StepShare) -> list[list[str]]:
    return [[row.row_id for row in micro_batch] for micro_batch in share.micro_batches]


def test_max_steps_cuts_the_run_short_and_leaves_its_batches_alone(prepared_dir):
    whole = [row_ids(s) for s in local_steps(source_of(prepared_dir, epochs=2))]
    assert [row_ids(s) for s in local_steps(source_of(prepared_dir, epochs=2, max_steps=25))] == whole[:25]


def test_steps_larger_than_windows_and_the_whole_set(prepared_dir):
    for batch in (100, 300, 1000):
        steps = list(local_steps(source_of(prepared_dir, global_batch_size=batch)))
        assert len(steps) == -(-300 // batch)
        assert Counter(i for s in steps for i in row_ids(s)) == Counter(row.row_id for row in ROWS)


def test_a_seed_is_an_order(prepared_dir):
    orders = {tuple(tuple(row_ids(s)) for s in local_steps(source_of(prepared_dir, seed=seed))) for seed in (0, 1, -1)}
    assert len(orders) == 3


def test_each_window_is_read_once_an_epoch_and_a_few_are_kept(tmp_path, monkeypatch):
    rows = random_rows(2000, seed=3, prompt_tokens=(80, 120), completion_tokens=(80, 120))
    manifest = write_prepared(tmp_path, rows, window_rows=50)
    reads: list[Path] = []
    read_table = pq.read_table
    monkeypatch.setattr(chunks.pq, "read_table", lambda path, **kw: reads.append(path) or read_table(path, **kw))
    window_bytes = max(w.num_rows for w in manifest.train.windows) * 330 * 4
    before = most = pa.total_allocated_bytes()
    for _ in local_steps(source_of(str(tmp_path), global_batch_size=5, epochs=2, max_micro_batch_tokens=5000)):
        most = max(most, pa.total_allocated_bytes())
    assert Counter(reads) == {tmp_path / w.path: 2 for w in manifest.train.windows}
    # Three windows, one chunk of 16 x 5 rows, its payload and its decoded copy; the set is 40 windows.
    assert most - before < 12 * window_bytes


def test_a_share_that_went_astray_is_an_error(prepared_dir):
    planner = ChunkPlanner(source_of(prepared_dir))
    first, second = planner.plan(0, 4, world_size=2)
    assert [s.step for s in decode_share(second, rank=1, world_size=2, next_step=0)] == [0, 1, 2, 3]
    with pytest.raises(TrainingError, match="rank 1, expected 0"):
        decode_share(second, rank=0, world_size=2, next_step=0)
    with pytest.raises(TrainingError, match="world size 2, expected 3"):
        decode_share(first, rank=0, world_size=3, next_step=0)
    with pytest.raises(TrainingError, match="step 0, expected 4"):
        decode_share(first, rank=0, world_size=2, next_step=4)


def test_rows_other_than_the_planned_ones_are_an_error(prepared_dir):
    (payload,) = ChunkPlanner(source_of(prepared_dir)).plan(0, 2, world_size=1)
    table = pa.ipc.open_stream(payload).read_all()

    def with_rows(rows: Iterable[int], column: str = "", values: Iterable[int] = ()) -> bytes:
        changed = table.take(list(rows))
        if column:
            changed = changed.set_column(changed.schema.get_field_index(column), column, pa.array(values))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(changed.cast(table.schema))
        return sink.getvalue().to_pybytes()

    everything = range(table.num_rows)
    decode_share(with_rows(everything), rank=0, world_size=1, next_step=0)
    with pytest.raises(TrainingError, match="hash of row ids"):
        decode_share(with_rows(everything[1:]), rank=0, world_size=1, next_step=0)
    with pytest.raises(TrainingError, match="hash of row ids"):
        decode_share(with_rows([0, *everything]), rank=0, world_size=1, next_step=0)
    with pytest.raises(TrainingError, match="hash of row ids"):
        decode_share(with_rows(everything, "step", [7] * table.num_rows), rank=0, world_size=1, next_step=0)


def test_a_set_that_cannot_be_read_is_named(tmp_path):
    manifest = write_prepared(tmp_path, ROWS, window_rows=32)
    window = tmp_path / manifest.train.windows[3].path
    whole = pq.read_table(window)
    window.write_bytes(window.read_bytes()[:100])
    with pytest.raises(DataError, match=r"window-00003.*\n.*damaged|window-00003.*damaged"):
        list(local_steps(source_of(str(tmp_path))))
    pq.write_table(whole.slice(1), window)
    with pytest.raises(DataError, match=f"holds {whole.num_rows - 1} rows, its manifest says {whole.num_rows}"):
        list(local_steps(source_of(str(tmp_path))))
    window.unlink()
    with pytest.raises(DataError, match="window-00003"):
        list(local_steps(source_of(str(tmp_path))))


def test_a_set_without_rows_or_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a complete prepared set"):
        count_steps(source_of(str(tmp_path)))
    write_prepared(tmp_path, [])
    with pytest.raises(DataError, match="no row to train on"):
        count_steps(source_of(str(tmp_path)))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 1, 20, 33, 1000])
def test_held_out_rows_go_once_to_one_rank_in_equal_counts_of_forwards(prepared_dir, world_size, limit):
    ranks = [
        list(
            eval_shares(
                prepared_dir, world_size=world_size, rank=rank, max_micro_batch_tokens=300, max_comparisons=limit
            )
        )
        for rank in range(world_size)
    ]
    assert len({len(micro_batches) for micro_batches in ranks}) == 1
    ids = [row.row_id for micro_batches in ranks for micro_batch in micro_batches for row in micro_batch]
    assert len(ids) == len(set(ids)) == min(limit or 50, 50)
    assert set(ids) <= {row.row_id for row in HELD_OUT}
    for micro_batch in (m for micro_batches in ranks for m in micro_batches):
        assert sum(row.group.num_tokens for row in micro_batch) <= 300 or len(micro_batch) == 1


def test_the_held_out_sample_does_not_hang_on_the_world_size(prepared_dir):
    samples = [
        {
            row.row_id
            for rank in range(world_size)
            for micro_batch in eval_shares(
                prepared_dir, world_size=world_size, rank=rank, max_micro_batch_tokens=300, max_comparisons=33
            )
            for row in micro_batch
        }
        for world_size in (1, 3)
    ]
    assert samples[0] == samples[1]


def test_nothing_held_out_is_nothing_to_evaluate(tmp_path):
    write_prepared(tmp_path, ROWS)
    assert list(eval_shares(str(tmp_path), world_size=2, rank=0, max_micro_batch_tokens=300)) == []
