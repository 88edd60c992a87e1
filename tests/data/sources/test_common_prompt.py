from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmray.data.sources.common_prompt import split_chats, split_ids, split_texts
from rmray.errors import RowError
from rmray.schema import TokenIds


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Is it so? Yes", "Is it so? No", "Is it so?"),  # the space belongs to the completion, as in TRL
        ("Is it so?\nYes", "Is it so?\nNo", "Is it so?\n"),
        ("The cat sat", "The car sat", "The"),  # cut back to white space: "ca" is common
        ("\n\nHuman: a\n\nAssistant: b c", "\n\nHuman: a\n\nAssistant: b d", "\n\nHuman: a\n\nAssistant: b"),
        ("a b c", "a b", "a"),  # one goes on where the other ends
    ],
)
def test_texts(chosen: str, rejected: str, prompt: str) -> None:
    found, better, worse = split_texts(chosen, rejected)
    assert found == prompt
    assert (found + better, found + worse) == (chosen, rejected)


@given(st.text("ab ", max_size=20), st.text("ab ", max_size=9), st.text("ab ", max_size=9))
def test_what_is_split_joins_again(beginning: str, left: str, right: str) -> None:
    try:
        prompt, better, worse = split_texts(beginning + left, beginning + right)
    except RowError:
        return  # the examples above say when
    assert (prompt + better, prompt + worse) == (beginning + left, beginning + right)
    assert prompt.strip()


def turns(*contents: str) -> tuple[dict[str, str], ...]:
    return tuple({"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents))


def test_chats_part_at_the_first_different_answer() -> None:
    chosen, rejected = turns("a", "b", "c", "d"), turns("a", "x", "c", "d")
    assert split_chats(chosen, rejected) == (chosen[:1], chosen[1:], rejected[1:])
    longer, shorter = turns("a", "b", "c", "d"), turns("a", "b")
    assert split_chats(longer, shorter) == (longer[:1], longer[1:], shorter[1:])


IDS = st.lists(st.integers(0, 3), min_size=1)


@given(IDS, IDS, IDS)
def test_ids_leave_each_side_a_token(beginning: list[int], left: list[int], right: list[int]) -> None:
    chosen, rejected = TokenIds((*beginning, *left)), TokenIds((*beginning, *right))
    if chosen == rejected:
        return
    prompt, better, worse = split_ids(chosen, rejected)
    assert (prompt.ids + better.ids, prompt.ids + worse.ids) == (chosen.ids, rejected.ids)
    assert len(prompt.ids) >= len(beginning)
    assert better.ids
    assert worse.ids
