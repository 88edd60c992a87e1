"""Balance over ranks and micro-batches: costs by hand, and the promises that hold for every step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmray.data.packing import (
    ATTENDED_PER_TOKEN,
    Shapes,
    StepPlan,
    attended_per_token_of,
    measure_shapes,
    plan_step,
)


def shapes_of(tokens: list[int]) -> Shapes:
    """Comparisons whose cost is their tokens alone."""
    tokens_N = np.array(tokens, dtype=np.int64)
    return Shapes(tokens_N, np.ones_like(tokens_N), np.zeros_like(tokens_N))


def micro_batches(plan: StepPlan, world_size: int) -> list[tuple[tuple[int, ...], ...]]:
    return [plan.micro_batches(rank) for rank in range(world_size)]


def test_a_shared_prefix_is_counted_once():
    # Prefix 3, suffixes 2 and 4; prefix 0, suffixes 1, 1 and 2.
    shapes = measure_shapes(np.array([3, 0]), np.array([2, 4, 1, 1, 2]), np.array([2, 3]))
    assert shapes.tokens.tolist() == [9, 4]
    # Causal pairs: prefix 3 * 4 / 2; each suffix token sees the prefix and its own past.
    assert shapes.attended_N.tolist() == [6 + (2 * 3 + 3) + (4 * 3 + 10), 1 + 1 + 3]


def test_a_forward_that_pads_computes_every_path_as_wide_as_the_longest():
    shapes = measure_shapes(np.array([3, 0]), np.array([2, 4, 1, 1, 2]), np.array([2, 3]), shared_prefix=False)
    assert (shapes.rows_N.tolist(), shapes.width_N.tolist()) == ([2, 3], [7, 2])
    assert shapes.tokens.tolist() == [14, 6]
    assert shapes.attended_N.tolist() == [2 * 28, 3 * 3]


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_no_comparison_has_no_shape(shared_prefix):
    empty = np.zeros(0, dtype=np.int64)
    assert measure_shapes(empty, empty, empty, shared_prefix=shared_prefix).tokens.tolist() == []


def test_dearest_first_to_the_rank_with_least():
    plan = plan_step(shapes_of([7, 6, 5, 4, 3]), world_size=2, max_micro_batch_tokens=100)
    assert micro_batches(plan, 2) == [((0, 3, 4),), ((1, 2),)]  # 7 + 4 + 3 and 6 + 5
    assert plan.num_micro_batches == 1


def test_attention_counts_in_the_balance():
    # As many tokens each, but one long comparison attends much more than the two short ones put together.
    tokens, attended = np.array([100, 100, 100, 100]), np.array([3, 1, 1, 1]) * 200 * ATTENDED_PER_TOKEN
    plan = plan_step(Shapes(tokens, np.ones_like(tokens), attended), world_size=2, max_micro_batch_tokens=1000)
    assert sorted(map(sorted, (plan.share(0).tolist(), plan.share(1).tolist()))) == [[0], [1, 2, 3]]


def test_micro_batches_keep_to_the_budget_with_like_lengths_together():
    plan = plan_step(shapes_of([10, 40, 12, 38, 11, 39]), world_size=1, max_micro_batch_tokens=80)
    assert micro_batches(plan, 1) == [((1, 5), (3, 2, 4, 0))]


def test_micro_batches_are_even_where_the_budget_allows():
    # Filling up would give 90 and 10.
    plan = plan_step(shapes_of([10] * 10), world_size=1, max_micro_batch_tokens=90)
    assert [len(m) for m in plan.micro_batches(0)] == [5, 5]


def test_padded_micro_batches_are_as_wide_as_their_longest_path():
    # Paths of at most 30, 20 and 10 tokens: six rows of 30 are 180 tokens, two of 30 and four of 20 are 60 and 80.
    shapes = measure_shapes(np.array([0] * 3), np.array([10, 9, 30, 1, 20, 20]), np.array([2] * 3), shared_prefix=False)
    cuts = {budget: plan_step(shapes, world_size=1, max_micro_batch_tokens=budget) for budget in (180, 179, 79)}
    assert [plan.micro_batches(0) for plan in cuts.values()] == [
        ((1, 2, 0),),
        ((1,), (2, 0)),
        ((1,), (2,), (0,)),
    ]


def test_a_comparison_over_the_budget_gets_a_micro_batch_of_its_own():
    plan = plan_step(shapes_of([10, 500, 20]), world_size=1, max_micro_batch_tokens=100)
    assert micro_batches(plan, 1) == [((1,), (2, 0))]


def test_ranks_with_less_to_do_get_empty_micro_batches():
    plan = plan_step(shapes_of([90, 90, 90]), world_size=2, max_micro_batch_tokens=100)
    assert micro_batches(plan, 2) == [((0,), (2,)), ((1,), ())]


def test_more_ranks_than_comparisons_and_none_at_all():
    assert sorted(micro_batches(plan_step(shapes_of([5, 5]), world_size=4, max_micro_batch_tokens=9), 4)) == [
        ((),),
        ((),),
        ((0,),),
        ((1,),),
    ]
    assert micro_batches(plan_step(shapes_of([]), world_size=2, max_micro_batch_tokens=9), 2) == [(), ()]


steps = st.lists(st.integers(1, 200), min_size=1, max_size=80)


@settings(max_examples=300, deadline=None)
@given(tokens=steps, world_size=st.integers(1, 9), budget=st.integers(1, 600))
def test_every_comparison_once_and_no_forward_over_the_budget(tokens, world_size, budget):
    plan = plan_step(shapes_of(tokens), world_size=world_size, max_micro_batch_tokens=budget)
    planned = micro_batches(plan, world_size)
    assert sorted(i for share in planned for micro in share for i in micro) == list(range(len(tokens)))
    assert {len(share) for share in planned} == {plan.num_micro_batches}
    for share in planned:
        for micro in share:
            assert sum(tokens[i] for i in micro) <= budget or len(micro) == 1
    assert any(micro for share in planned for micro in share[-1:])  # no micro-batch that is empty on every rank
    for rank, share in enumerate(planned):
        assert plan.share(rank).tolist() == [i for micro in share for i in micro]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=5), min_size=1, max_size=40),
    prefixes=st.lists(st.integers(0, 60), min_size=40, max_size=40),
    world_size=st.integers(1, 5),
    budget=st.integers(1, 600),
)
def test_no_padded_forward_is_over_the_budget(lengths, prefixes, world_size, budget):
    shapes = measure_shapes(
        np.array(prefixes[: len(lengths)]),
        np.array([n for group in lengths for n in group]),
        np.array([len(group) for group in lengths]),
        shared_prefix=False,
    )
    planned = micro_batches(plan_step(shapes, world_size=world_size, max_micro_batch_tokens=budget), world_size)
    assert sorted(i for share in planned for micro in share for i in micro) == list(range(len(lengths)))
    assert len({len(share) for share in planned}) == 1
    for share in planned:
        widths = [shapes.width_N[i] for micro in share for i in micro]
        assert widths == sorted(widths, reverse=True)  # like lengths together, whatever pace that costs
    for micro in (micro for share in planned for micro in share if len(micro) > 1):
        paths = [prefixes[i] + n for i in micro for n in lengths[i]]
        assert len(paths) * max(paths) <= budget


def test_attention_costs_what_a_layer_of_the_model_spends_on_it():
    # Qwen3-8B: a token's products with 4 h^2 + 3 h i weights, against 4 h operations for each token it attends to.
    hidden, intermediate = 4096, 12288
    per_token = 2 * (4 * hidden**2 + 3 * hidden * intermediate)
    assert attended_per_token_of(hidden, intermediate) == per_token // (4 * hidden)
    assert attended_per_token_of(1024, 3072) == ATTENDED_PER_TOKEN


def test_what_attention_costs_decides_the_balance():
    # Costs 45 against 10, 10, 10; then 15,030 against 10,000 each.
    shapes = Shapes(np.array([15, 10, 10, 10]), np.ones(4, dtype=np.int64), np.array([30, 0, 0, 0]))
    plans = {p: plan_step(shapes, world_size=2, max_micro_batch_tokens=99, attended_per_token=p) for p in (1, 1000)}
    assert micro_batches(plans[1], 2) == [((0,),), ((1, 2, 3),)]
    assert micro_batches(plans[1000], 2) == [((0, 3),), ((1, 2),)]


def test_micro_batches_mix_lengths_where_ranks_would_wait_for_each_other():
    # Ranks get 70 + 30 + 20 and 50 + 50 + 20. In falling order that is 70 | 50 and 50 | 70: 140 where they wait.
    plan = plan_step(shapes_of([70, 50, 50, 30, 20, 20]), world_size=2, max_micro_batch_tokens=70)
    assert micro_batches(plan, 2) == [((0,), (3, 4)), ((1, 5), (2,))]


def test_micro_batches_keep_like_lengths_together_where_ranks_keep_pace_anyway():
    plan = plan_step(shapes_of([30] * 4 + [10] * 12), world_size=2, max_micro_batch_tokens=60)
    assert [[len(micro) for micro in share] for share in micro_batches(plan, 2)] == [[2, 6], [2, 6]]


@settings(max_examples=300, deadline=None)
@given(tokens=steps, world_size=st.integers(1, 9), budget=st.integers(1, 600))
def test_ranks_and_numbers_are_those_of_the_plain_algorithms(tokens, world_size, budget):
    plan = plan_step(shapes_of(tokens), world_size=world_size, max_micro_batch_tokens=budget)
    loads, shares = [0] * world_size, [[] for _ in range(world_size)]
    for index in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        rank = loads.index(min(loads))
        loads[rank] += tokens[index]
        shares[rank].append(index)
    assert [sorted(plan.share(rank).tolist()) for rank in range(world_size)] == [sorted(share) for share in shares]
    assert plan.num_micro_batches == max(_fill_up([tokens[i] for i in share], budget) for share in shares)


def _fill_up(tokens: list[int], budget: int) -> int:
    """How many micro-batches falling tokens fill one after the other."""
    num, room = 0, 0
    for count in tokens:
        if num and count <= room:
            room -= count
        else:
            num, room = num + 1, budget - count
    return num


@pytest.mark.parametrize(("ranks", "pairs_per_rank"), [(8, 32), (64, 16)])
def test_ranks_keep_pace_inside_a_step_of_uneven_rows(ranks, pairs_per_rank):
    num_pairs = ranks * pairs_per_rank
    rng = np.random.default_rng(0)
    prefix_N, suffixes_M = rng.lognormal(5, 0.9, num_pairs), rng.lognormal(5, 0.9, 2 * num_pairs)
    shapes = measure_shapes(np.ceil(prefix_N), np.ceil(suffixes_M), np.full(num_pairs, 2))
    budget = int(shapes.tokens.sum() / ranks / 2.5)
    plan = plan_step(shapes, world_size=ranks, max_micro_batch_tokens=budget)
    assert plan.num_micro_batches >= 3
    cost_N = shapes.tokens * ATTENDED_PER_TOKEN + shapes.attended_N
    costs = [[cost_N[list(micro)].sum() for micro in plan.micro_batches(rank)] for rank in range(ranks)]
    assert np.max(costs, axis=0).sum() <= 1.03 * cost_N.sum() / ranks  # cut in falling order: 1.04 and 1.10


@settings(max_examples=200, deadline=None)
@given(tokens=steps, world_size=st.integers(1, 9))
def test_no_rank_has_more_than_an_even_share_and_one_comparison(tokens, world_size):
    plan = plan_step(shapes_of(tokens), world_size=world_size, max_micro_batch_tokens=10**6)
    loads = [sum(tokens[i] for i in plan.share(rank)) for rank in range(world_size)]
    assert max(loads) <= sum(tokens) / world_size + max(tokens)


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_ranks_of_a_common_step_are_within_two_per_cent(world_size):
    rng = np.random.default_rng(0)
    prefix, suffixes = rng.integers(50, 300, 128), rng.lognormal(5, 0.5, 256).astype(np.int64) + 1
    shapes = measure_shapes(prefix, suffixes, np.full(128, 2))
    plan = plan_step(shapes, world_size=world_size, max_micro_batch_tokens=4096)
    cost = shapes.tokens * ATTENDED_PER_TOKEN + shapes.attended_N
    loads = np.array([cost[plan.share(rank)].sum() for rank in range(world_size)])
    assert loads.max() <= 1.02 * loads.mean()
