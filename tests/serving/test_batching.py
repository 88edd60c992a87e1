"""The planner: budget, whole groups, like lengths, nobody starved, deadlines."""

from hypothesis import given
from hypothesis import strategies as st

from rmray.serving.batching import BatchLimits, Waiting, plan_batch

LIMITS = BatchLimits(max_batch_tokens=100, patience_s=1.0)


def waiting(key, num_tokens, *, length=10, arrived_s=0.0, **deadline):
    return Waiting(key, num_tokens, length, arrived_s, **deadline)


def test_nothing_waits():
    plan = plan_batch([], LIMITS, 0.0)
    assert (plan.batch, plan.expired) == ((), ())


def test_takes_whatever_waits_up_to_the_budget():
    plan = plan_batch([waiting(0, 40), waiting(1, 40), waiting(2, 40)], LIMITS, 0.0)
    assert plan.batch == (0, 1)


def test_passes_over_what_does_not_fit():
    plan = plan_batch([waiting(0, 60), waiting(1, 50), waiting(2, 40)], LIMITS, 0.0)
    assert plan.batch == (0, 2)


def test_a_group_over_the_budget_goes_whole_and_alone():
    plan = plan_batch([waiting(0, 250), waiting(1, 1)], LIMITS, 0.0)
    assert plan.batch == (0,)


def test_like_lengths_go_together():
    queue = [waiting(0, 40, length=30), waiting(1, 40, length=90), waiting(2, 40, length=33)]
    assert plan_batch(queue, LIMITS, 0.0).batch == (0, 2)


def test_over_patience_order_of_arrival_beats_length():
    queue = [
        waiting(0, 40, length=30, arrived_s=0.0),
        waiting(1, 40, length=90, arrived_s=0.5),
        waiting(2, 40, length=30, arrived_s=0.9),
    ]
    assert plan_batch(queue, LIMITS, 1.0).batch == (0, 2)
    assert plan_batch(queue, LIMITS, 1.5).batch == (0, 1)


def test_a_deadline_within_patience_beats_length_and_does_not_pass_the_oldest():
    queue = [
        waiting(0, 40, length=30),
        waiting(1, 40, length=30),
        waiting(2, 40, length=90, deadline_s=0.9),
        waiting(3, 40, length=90, deadline_s=9.0),
    ]
    assert plan_batch(queue, LIMITS, 0.0).batch == (0, 2)


def test_requests_of_the_oldests_prompt_come_first_and_cost_what_they_add():
    queue = [
        waiting(0, 60, length=50, prompt="p", prompt_tokens=50),
        waiting(1, 40, length=50),
        waiting(2, 80, length=80, prompt="p", prompt_tokens=50),
        waiting(3, 70, length=70, prompt="q", prompt_tokens=50),
        waiting(4, 60, length=60, prompt="p", prompt_tokens=50),
    ]
    assert plan_batch(queue, LIMITS, 0.0).batch == (0, 2, 4)


def test_two_prompts_in_one_batch_are_each_computed_once():
    limits = BatchLimits(max_batch_tokens=130)
    queue = [waiting(k, 60, prompt="pq"[k % 2], prompt_tokens=50) for k in range(5)]
    assert plan_batch(queue, limits, 0.0).batch == (0, 2, 4)
    assert plan_batch(queue[:4], limits, 0.0).batch == (0, 2, 1)
    assert plan_batch(queue[:4], BatchLimits(max_batch_tokens=140), 0.0).batch == (0, 2, 1, 3)


def test_expired_requests_are_named_and_cost_nothing():
    queue = [waiting(0, 90, deadline_s=1.0), waiting(1, 90, deadline_s=1.1)]
    plan = plan_batch(queue, LIMITS, 1.0)
    assert (plan.batch, plan.expired) == ((1,), (0,))


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 99), st.floats(0, 3), st.floats(0, 9)), max_size=40),
    st.floats(0, 5),
)
def test_every_plan_keeps_the_rules(rows, now_s):
    queue = [Waiting(k, tokens, length, at, until) for k, (tokens, length, at, until) in enumerate(rows)]
    plan = plan_batch(queue, LIMITS, now_s)
    tokens = {w.key: w.num_tokens for w in queue}
    alive = [w for w in queue if w.deadline_s > now_s]
    assert set(plan.expired) == {w.key for w in queue} - {w.key for w in alive}
    assert set(plan.batch) <= {w.key for w in alive}
    assert len(set(plan.batch)) == len(plan.batch)
    assert len(plan.batch) == 1 or sum(tokens[k] for k in plan.batch) <= LIMITS.max_batch_tokens
    if alive:
        assert plan.batch[0] == min(alive, key=lambda w: (w.arrived_s, w.key)).key
        # Nothing that would still fit is left behind.
        left = LIMITS.max_batch_tokens - sum(tokens[k] for k in plan.batch)
        assert all(tokens[w.key] > left for w in alive if w.key not in plan.batch)


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.integers(1, 60)), max_size=30))
def test_what_a_batch_computes_is_within_the_budget_however_prompts_are_shared(rows):
    lengths = {"p": 5, "q": 30, "r": 60}
    queue = [
        Waiting(k, lengths[p] + own, own, k, prompt=p, prompt_tokens=lengths[p]) for k, (p, own) in enumerate(rows)
    ]
    batch = [rows[key] for key in plan_batch(queue, LIMITS, 0.0).batch]
    computed = sum(own for _, own in batch) + sum(lengths[p] for p in {p for p, _ in batch})
    assert computed <= LIMITS.max_batch_tokens or len(batch) == 1


def test_the_oldest_waits_for_no_more_batches_than_were_before_it():
    queue = [waiting(k, 60, length=10 if k % 2 else 90, arrived_s=k) for k in range(10)]
    order = []
    while queue:
        taken = plan_batch(queue, LIMITS, 0.0).batch
        order += taken
        queue = [w for w in queue if w.key not in taken]
    assert order == list(range(10))
