"""Groups that begin alike share their beginning: the same paths, fewer tokens, nothing moved where it saves none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmray.data.group import group_paths
from rmray.data.sharing import share_prefixes

PROMPT = list(range(100, 140))


def group(prompt, *completions):
    return group_paths([[*prompt, *c] for c in completions], [len(prompt)] * len(completions))


def paths_of(groups):
    return [(g.path(k).tolist(), g.prompt_lens[k]) for g in groups for k in range(g.num_completions)]


def test_callers_with_one_prompt_share_it():
    groups = [group(PROMPT, [1, 2]), group(range(200, 230), [3]), group(PROMPT, [4, 5, 6], [7])]
    shared, order = share_prefixes(groups)
    assert sorted(g.num_tokens for g in shared) == [31, 40 + 2 + 3 + 1]
    assert paths_of(shared) == paths_of([groups[i] for i in order])


def test_as_many_callers_as_there_are_share_one_prompt():
    groups = [group(PROMPT, [k, 1, 2, 3, 4, 5, 6, 7]) for k in range(200)]
    (merged,), _ = share_prefixes(groups)
    assert merged.num_tokens == 40 + 200 * 8


def test_a_beginning_that_reaches_into_one_callers_completions_is_cut_back_to_what_all_share():
    groups = [group(PROMPT, [1, 2, 3], [1, 2, 4]), group(PROMPT, [1, 5], [1, 6])]
    (merged,), order = share_prefixes(groups)
    assert merged.prefix.tolist() == [*PROMPT, 1]
    assert merged.num_tokens == 41 + 2 + 2 + 1 + 1
    assert paths_of([merged]) == paths_of([groups[i] for i in order])


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [group(PROMPT, [1], [2])],
        [group(PROMPT, [1], [2]), group(range(50), [1], [2])],
        # A word in common: 2 of 43 tokens.
        [group([1, 2, *range(100, 140)], [1]), group([1, 2, *range(200, 240)], [1])],
        # What both share would be computed once, and the rest of each prompt once for each of its completions.
        [group([*PROMPT, *range(60)], *[[k] for k in range(8)]), group([*PROMPT, *range(60, 120)], [1], [2])],
    ],
)
def test_where_sharing_saves_too_little_the_groups_stay_as_they_are(groups):
    shared, order = share_prefixes(groups)
    assert [id(g) for g in shared] == [id(g) for g in groups]
    assert order == list(range(len(groups)))


SMALL = st.lists(
    st.tuples(
        st.lists(st.integers(1, 2), max_size=6),
        st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=4), min_size=1, max_size=3),
    ),
    max_size=8,
)


@given(SMALL)
def test_the_same_paths_in_the_order_that_is_told_and_never_more_tokens(rows):
    groups = [group(prompt, *completions) for prompt, completions in rows]
    shared, order = share_prefixes(groups)
    assert sorted(order) == list(range(len(groups)))
    assert paths_of(shared) == paths_of([groups[i] for i in order])
    assert sum(g.num_tokens for g in shared) <= sum(g.num_tokens for g in groups)
    assert all(len(s) for g in shared for s in g.suffixes)
    assert all(a.dtype == np.int32 for g in shared for a in (g.prefix, *g.suffixes))
