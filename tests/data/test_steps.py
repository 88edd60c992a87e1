"""Steps and reasoning traces: which tokens end a step, the same whether steps come as text, as a list or as ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from rmray.data.render import RenderedPath, Renderer, RenderRules
from rmray.data.render.reasoning import ids_without_traces, without_traces
from rmray.data.render.steps import find_steps, step_tokens
from rmray.errors import ModelError, RowError
from rmray.schema import Content, Steps, TokenIds
from tests.data.tokenizers import byte_level, llama_like, plain_like, qwen_like

PROMPT = "What is two plus three?\n"
CHAT = ({"role": "user", "content": "What is two plus three?"},)
STEPS = Steps(("Two is a number.", "Three is one too.", "So it is five."))
TEXT = "Two is a number.\nThree is one too.\nSo it is five.\n"
FAMILIES = (qwen_like, llama_like, plain_like)


def renderer_of(tokenizer: Any, separator: str | None = "\n", **rules: Any) -> Renderer:
    return Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, max_length=200, step_separator=separator, **rules))


def one(renderer: Renderer, prompt: Content, completion: Content, **options: Any) -> RenderedPath:
    [path] = renderer.render_paths(prompt, [completion], **options)
    assert isinstance(path, RenderedPath), path
    return path


def refused(renderer: Renderer, prompt: Content, completion: Content, **options: Any) -> str:
    [error] = renderer.render_paths(prompt, [completion], **options)
    assert isinstance(error, RowError), error
    return error.code


def until(renderer: Renderer, path: RenderedPath) -> list[str]:
    """The completion's text up to the end of each step."""
    return [renderer.tokenizer.decode(path.ids[path.prompt_len : end + 1]) for end in path.step_ends]


WHOLE = ["Two is a number.\n", "Two is a number.\nThree is one too.\n", TEXT]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_step_ends_with_its_separator(family: Callable[[], Any]) -> None:
    renderer = renderer_of(family())
    path = one(renderer, PROMPT, STEPS)
    assert until(renderer, path) == WHOLE
    assert path.ids[-1] == renderer.rules.eos_id
    assert path.step_ends[-1] == len(path.ids) - 2


@pytest.mark.parametrize("family", FAMILIES)
def test_text_a_list_and_ids_render_alike(family: Callable[[], Any]) -> None:
    renderer = renderer_of(family())
    path = one(renderer, PROMPT, STEPS)
    for text in (TEXT, TEXT.removesuffix("\n")):
        assert one(renderer, PROMPT, text) == path
    prompt, completion = TokenIds(tuple(path.ids[: path.prompt_len])), path.ids[path.prompt_len :]
    for ids in (completion, completion[:-1], completion[:-2]):  # with its EOS, without it, without its last line feed
        assert one(renderer, prompt, TokenIds(tuple(ids))) == path


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_found_in_a_chat(family: Callable[[], Any]) -> None:
    renderer = renderer_of(family())
    as_turn = ({"role": "assistant", "content": TEXT},)
    path = one(renderer, CHAT, STEPS)
    assert one(renderer, CHAT, TEXT) == one(renderer, CHAT, as_turn) == path
    trimmed = family is llama_like  # its template cuts white space off, so that the last step ends with its full stop
    assert [u.lstrip(" ") for u in until(renderer, path)] == [*WHOLE[:2], TEXT.rstrip() if trimmed else TEXT]


def test_blank_lines_end_nothing_and_a_last_step_that_is_cut_off_is_none() -> None:
    renderer = renderer_of(plain_like())
    text = "\nTwo.\n\n \nThree.\nSo it"
    assert [u.strip() for u in until(renderer, one(renderer, "", text))] == ["Two.", "Two.\n\n \nThree.", text.strip()]
    cut = one(renderer, "", text, finished=[False])
    assert [u.strip() for u in until(renderer, cut)] == ["Two.", "Two.\n\n \nThree."]
    assert cut.ids[-1] != renderer.rules.eos_id
    assert refused(renderer, "p", "So it", finished=[False]) == "no_step"
    assert until(renderer, one(renderer, "p ", "So it")) == ["So it\n"]
    # Steps that are given one by one are whole, whoever goes on from there.
    assert len(one(renderer, "p ", STEPS, finished=[False]).step_ends) == 3


def test_a_separator_of_its_own_token_is_written_and_read_but_not_within_a_step() -> None:
    tokenizer = byte_level(["<pad>", "<eos>", "<|step|>"], eos_token="<eos>", pad_token="<pad>")
    renderer = renderer_of(tokenizer, "<|step|>")
    step = tokenizer.convert_tokens_to_ids("<|step|>")
    path = one(renderer, "Two ", Steps(("and <eos> two.\n", "Four.")))
    assert [path.ids[end] for end in path.step_ends] == [step, step]
    assert path.ids.count(step) == 2
    assert path.ids.count(renderer.rules.eos_id) == 1  # the one that text wrote out is no token
    assert path.num_escaped == 1
    assert one(renderer, "Two ", "Four.<|step|>Five.") == one(renderer, "Two ", Steps(("Four.", "Five.")))
    assert refused(renderer, "Two ", Steps(("a <|step|> b",))) == "separator_in_step"


def test_steps_move_with_a_prompt_that_is_cut() -> None:
    rules = {"max_length": 40, "over_length": "truncate_prompt", "step_separator": "\n"}
    tokenizer = plain_like()
    short, whole = Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, **rules)), renderer_of(tokenizer)
    prompt, steps = "What is two plus three? " * 4, Steps(("Two.", "So it is five."))
    cut, path = one(short, prompt, steps), one(whole, prompt, steps)
    assert cut.truncated
    assert until(short, cut) == until(whole, path)


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        (({"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}), "not_text"),
        ("  \n ", "blank_completion"),
    ],
)
def test_what_has_no_steps_is_refused(completion: Any, code: str) -> None:
    assert refused(renderer_of(qwen_like()), CHAT, completion) == code


def test_a_model_that_reads_no_steps_takes_none() -> None:
    assert refused(renderer_of(qwen_like(), None), PROMPT, STEPS) == "no_steps"


def test_two_steps_cannot_end_in_one_token() -> None:
    with pytest.raises(RowError) as error:
        step_tokens((2, 3), [(0, 1), (1, 4), (4, 5)])
    assert error.value.code == "empty_step"
    assert step_tokens((1, 4), [(0, 1), (1, 4), (4, 5)]) == (0, 1)
    assert find_steps("a;b", ";", finished=True).ends == (2, 4)


@pytest.mark.parametrize("separator", ["", "<eos>"])
def test_a_separator_that_separates_nothing_is_refused(separator: str) -> None:
    tokenizer = byte_level(["<pad>", "<eos>"], eos_token="<eos>", pad_token="<pad>")
    with pytest.raises(ModelError, match="cannot be told apart"):
        renderer_of(tokenizer, separator)


def test_the_rules_of_steps_are_recorded() -> None:
    assert asdict(renderer_of(qwen_like(), "\n\n", think="strip").rules)["step_separator"] == "\n\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>so</think>\n\nFive.", "Five."),
        ("so I think</think> Five.", "Five."),  # the template wrote the first tag
        ("<think>never ends", ""),
        ("a <think>b</think>c <think>d</think>e", "a c e"),
        ("no trace at all", "no trace at all"),
    ],
)
def test_traces_are_taken_out(text: str, left: str) -> None:
    assert without_traces(text) == left
    marks = {"<think>": "\1", "</think>": "\2"}
    for tag, mark in marks.items():
        text = text.replace(tag, mark)
    ids = ids_without_traces([ord(c) for c in text], 1, 2)
    assert "".join(map(chr, ids)).split() == left.split()


def test_a_trace_is_scored_or_not_as_the_rules_say() -> None:
    tokenizer = qwen_like()
    keeps, strips = renderer_of(tokenizer, None), renderer_of(tokenizer, None, think="strip")
    thought = "<think>Two and three.</think>\nFive."
    assert one(strips, PROMPT, thought) == one(strips, PROMPT, "Five.") == one(keeps, PROMPT, "Five.")
    assert one(keeps, PROMPT, thought) != one(keeps, PROMPT, "Five.")
    turns = (*CHAT, {"role": "assistant", "content": thought, "reasoning_content": "x"}, *CHAT)
    plain = (*CHAT, {"role": "assistant", "content": "Five."}, *CHAT)
    assert one(strips, turns, thought) == one(keeps, plain, "Five.")
    assert refused(strips, PROMPT, "<think>Two and") == "blank_completion"
    assert refused(strips, TokenIds((5,)), TokenIds((6, 7))) == "needs_text"  # this tokenizer has no such tokens
