"""Find the prompt that two whole texts, chats or id lists begin with. Pure; called by `records`."""

from __future__ import annotations

import os

from rmray.errors import RowError
from rmray.schema import Content, Messages, TokenIds, check_messages

# Transcripts in the form of Anthropic's HH data: where both hold the mark, the common beginning must reach it.
ANSWER_MARK = "\n\nAssistant:"

ANSWERING = ("assistant", "tool")  # roles that an answer may begin with


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and the two completions: the common prefix cut back to white space; a single space before the
    completion belongs to it, as in TRL. Raises RowError `prompts_differ` or `identical_completions`."""
    if chosen == rejected:
        raise RowError("identical_completions", "`chosen` equals `rejected`")
    common = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 (of characters, not of paths)
    end = max((i + 1 for i, c in enumerate(common) if c.isspace()), default=0)
    if end and common[end - 1] == " ":
        end -= 1
    if not common[:end].strip():
        raise _differ("they have no common beginning")
    if ANSWER_MARK in chosen and ANSWER_MARK in rejected and ANSWER_MARK not in common:
        raise _differ(f"they part before the first {ANSWER_MARK.strip()!r}")
    return common[:end], chosen[end:], rejected[end:]


def split_chats(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """The equal leading turns are the prompt; both go on with the assistant."""
    check_messages(chosen, name="chosen", starts=True)
    check_messages(rejected, name="rejected", starts=True)
    if chosen == rejected:
        raise RowError("identical_completions", "`chosen` equals `rejected`")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == min(len(chosen), len(rejected)):
        shared -= 1  # one chat goes on where the other ends: the last common turn begins the answers
    answers = chosen[shared:], rejected[shared:]
    if shared <= 0 or any(answer[0]["role"] not in ANSWERING for answer in answers):
        raise _differ("the turns before the first different answer are not equal")
    return chosen[:shared], *answers


def split_ids(chosen: TokenIds, rejected: TokenIds) -> tuple[TokenIds, TokenIds, TokenIds]:
    """The common beginning of both id lists, which leaves each at least one token."""
    if chosen == rejected:
        raise RowError("identical_completions", "`chosen_ids` equals `rejected_ids`")
    limit = min(len(chosen.ids), len(rejected.ids)) - 1
    shared = 0
    while shared < limit and chosen.ids[shared] == rejected.ids[shared]:
        shared += 1
    if shared <= 0:
        raise _differ("the token ids have no common beginning")
    return TokenIds(chosen.ids[:shared]), TokenIds(chosen.ids[shared:]), TokenIds(rejected.ids[shared:])


def strip_prompt(prompt: Content, answer: Messages) -> Messages:
    """The answer's own messages, without the prompt's where it repeats them. Raises RowError `prompts_differ`."""
    if isinstance(prompt, tuple) and prompt and answer[: len(prompt)] == prompt:
        answer = answer[len(prompt) :]
    if answer and answer[0]["role"] not in ANSWERING:
        raise _differ(f"an answer begins with the {answer[0]['role']}")
    return answer


def _differ(why: str) -> RowError:
    return RowError(
        "prompts_differ",
        "`chosen` and `rejected` do not answer the same prompt",
        why=why,
        next_step="give the prompt in a column of its own (it may be empty)",
    )
