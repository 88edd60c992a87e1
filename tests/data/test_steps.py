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
from tests.data.rendering import one
from tests.data.tokenizers import byte_level, llama_like, plain_like, qwen_like

PROMPT = "What is two plus three?\n"
CHAT = ({"role": "user", "content": "What is two plus three?"},)
STEPS = Steps(("Two is a number.", "Three is one too.", "So it is five."))
TEXT = "Two is a number.\nThree is one too.\nSo it is five.\n"
FAMILIES = (qwen_like, llama_like, plain_like)


def renderer_of(tokenizer: Any, separator: str | None = "\n", **rules: Any) -> Renderer:
    return Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, max_length=200, step_separator=separator, **rules))


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


def test_a_separator_that_holds_a_token_of_its_own_is_read_in_text_and_in_lists() -> None:
    tokenizer = byte_level(["<pad>", "<eos>", "<|step|>"], eos_token="<eos>", pad_token="<pad>")
    renderer = renderer_of(tokenizer, "<|step|>\n")
    path = one(renderer, "Two ", Steps(("a", "b")))
    assert one(renderer, "Two ", "a<|step|>\nb<|step|>\n") == path
    assert path.ids.count(tokenizer.convert_tokens_to_ids("<|step|>")) == 2
    assert refused(renderer, "Two ", Steps(("a <|step|> b",))) == "separator_in_step"


@pytest.mark.parametrize("steps", [(), ("a", " "), ("a", "<|step|>", "b")])
def test_no_step_a_blank_one_or_a_bare_separator_is_refused(steps: tuple[str, ...]) -> None:
    tokenizer = byte_level(["<pad>", "<eos>", "<|step|>"], eos_token="<eos>", pad_token="<pad>")
    assert refused(renderer_of(tokenizer, "<|step|>"), "Two ", Steps(steps)) == "blank_completion"


def test_an_answer_that_goes_on_ends_its_steps_as_they_end_within() -> None:
    renderer = renderer_of(llama_like())  # whose template cuts white space off
    whole = one(renderer, CHAT, STEPS)
    begun = one(renderer, CHAT, Steps(STEPS.texts[:2]), finished=[False])
    assert begun.step_ends == whole.step_ends[:2]
    assert begun.ids == whole.ids[: whole.step_ends[1] + 1]


def test_an_end_of_sequence_that_a_sampler_wrote_out_is_no_step() -> None:
    renderer = renderer_of(plain_like())
    eos = renderer.tokenizer.eos_token
    assert one(renderer, PROMPT, Steps((*STEPS.texts[:-1], STEPS.texts[-1] + eos))) == one(renderer, PROMPT, STEPS)
    alone = TokenIds((renderer.rules.eos_id,))
    assert refused(renderer, TokenIds((5,)), alone) == "blank_completion"
    assert refused(renderer_of(plain_like(), None), TokenIds((5,)), alone) == "blank_completion"


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


@pytest.mark.parametrize("separator", ["", "<eos>", "<pad>", "<eos>\n"])
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


def test_a_trace_that_is_to_be_kept_and_is_dropped_by_the_template_is_refused() -> None:
    tokenizer = qwen_like()
    answer = ({"role": "assistant", "content": "<think>Two and three.</think>\nFive."},)
    assert len(one(renderer_of(tokenizer, None), CHAT, answer).ids) > 0
    beside = ({"role": "assistant", "content": "Five.", "reasoning_content": "Two and three."},)
    assert refused(renderer_of(tokenizer, None), CHAT, beside) == "trace_dropped"  # the template reads content alone
    tokenizer.chat_template = str(tokenizer.chat_template).replace("m['content']", "m['content'].split('</think>')[-1]")
    assert refused(renderer_of(tokenizer, None), CHAT, answer) == "trace_dropped"
    stripping = renderer_of(tokenizer, None, think="strip")
    assert one(stripping, CHAT, answer) == one(stripping, CHAT, "Five.")


def test_traces_and_steps_do_not_mix_unseen() -> None:
    tokenizer = qwen_like()
    beside = ({"role": "assistant", "content": TEXT, "reasoning_content": "Let me see."},)
    assert refused(renderer_of(tokenizer), CHAT, beside) == "not_text"
    strips = renderer_of(tokenizer, think="strip")
    assert one(strips, CHAT, beside) == one(strips, CHAT, TEXT)
    assert refused(strips, PROMPT, Steps(("<think>Two.", "hm</think>", "Five."))) == "trace_in_steps"
