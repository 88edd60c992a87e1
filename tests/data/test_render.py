"""Rendering: what a prompt and a completion become, known from the tokenizer's own answer to the text one expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from rmray.data.render import RenderedPath, Renderer, RenderRules
from rmray.data.tokenizer import choose_pad_token
from rmray.errors import ModelError, RowError
from rmray.schema import Content, TokenIds
from tests.data.rendering import ANSWER, FAMILIES, QUESTION, code, good, one, renderer_of
from tests.data.tokenizers import bert_like, byte_level, llama_like, plain_like, qwen_like


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_text_is_tokenised_whole_and_ends_with_one_eos(family: Callable[[], Any]) -> None:
    tokenizer = family()
    prompt, completion = "What is two", " plus three? Two"
    path = one(renderer_of(tokenizer), prompt, completion)
    assert path.ids == [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
    assert path.ids[: path.prompt_len] == tokenizer(prompt)["input_ids"]  # with BOS where the tokenizer has one
    assert not path.truncated


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [(QUESTION, ANSWER), (QUESTION, "five"), ("What is two plus three?", ANSWER)],
    ids=["chat", "text-after-chat", "chat-after-text"],
)
def test_a_chat_goes_through_the_template_whole(
    family: Callable[[], Any], prompt: Content, completion: Content
) -> None:
    tokenizer = family()
    path = one(renderer_of(tokenizer), prompt, completion)
    whole = tokenizer.apply_chat_template(QUESTION + ANSWER, tokenize=False)
    opening = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    expected = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token not in whole:
        expected = [*expected, tokenizer.eos_token_id]
    assert path.ids == expected
    assert tokenizer.decode(path.ids[: path.prompt_len]) == opening


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_one_eos_ends_the_last_turn(family: Callable[[], Any]) -> None:
    tokenizer = family()
    for prompt in ("Name it.", QUESTION):
        path = one(renderer_of(tokenizer), prompt, "five")
        completion = path.ids[path.prompt_len :]
        assert completion.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(completion).rstrip().endswith(tokenizer.eos_token)


def test_qwen_keeps_the_line_feed_behind_its_turn() -> None:
    tokenizer = qwen_like()
    path = one(renderer_of(tokenizer), QUESTION, "five")
    assert tokenizer.decode(path.ids).endswith("five<|im_end|>\n")


def test_llama_begins_with_one_bos() -> None:
    tokenizer = llama_like()
    for prompt in ("Name it.", QUESTION):
        path = one(renderer_of(tokenizer), prompt, "five")
        assert path.ids[0] == tokenizer.bos_token_id
        assert path.ids.count(tokenizer.bos_token_id) == 1


def test_an_encoder_ends_with_its_separator_once() -> None:
    tokenizer = bert_like()
    path = one(renderer_of(tokenizer), "What is", " two")
    assert path.ids == tokenizer("What is two")["input_ids"]
    assert path.ids[-1] == tokenizer.sep_token_id
    assert path.ids[: path.prompt_len] == tokenizer("What is")["input_ids"][:-1]


def test_a_token_over_the_boundary_belongs_to_the_completion() -> None:
    tokenizer = plain_like()
    text = "the capital of France"
    whole = tokenizer(text, return_offsets_mapping=True)
    i, (start, end) = next((i, span) for i, span in enumerate(whole["offset_mapping"]) if i and span[1] - span[0] >= 2)
    for boundary in range(start + 1, end):
        path = one(renderer_of(tokenizer), text[:boundary], text[boundary:])
        assert path.ids[:-1] == whole["input_ids"]
        assert path.prompt_len == i
    assert one(renderer_of(tokenizer), text[:end], text[end:]).prompt_len == i + 1


def test_a_letter_of_many_bytes_over_no_boundary() -> None:
    tokenizer = plain_like()
    path = one(renderer_of(tokenizer), "é", "ü")
    assert path.prompt_len == 2
    assert tokenizer.decode(path.ids[2:-1]) == "ü"


def test_paths_do_not_depend_on_their_neighbours() -> None:
    for family in FAMILIES:
        renderer = renderer_of(family())
        completions: list[Content] = ["five", "six", ANSWER, "Paris is it"]
        for prompt in ("Two plus three is ", QUESTION):
            together = renderer.render_paths(prompt, completions)
            assert together == [renderer.render_paths(prompt, [c])[0] for c in completions]


def test_one_bad_completion_fails_alone() -> None:
    renderer = renderer_of(qwen_like())
    results = renderer.render_paths("Two ", ["five", " ", TokenIds((5,)), "x" * 500, "six"])
    assert [code(r) for r in results[1:4]] == ["blank_completion", "mixed_content", "over_length"]
    assert good(results[0]) == one(renderer, "Two ", "five")
    assert good(results[4]) == one(renderer, "Two ", "six")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unfinished_completion_gets_no_eos_and_no_end_of_turn(family: Callable[[], Any]) -> None:
    tokenizer = family()
    renderer = renderer_of(tokenizer)
    for prompt in ("Name it. ", QUESTION):
        cut, whole = (good(p) for p in renderer.render_paths(prompt, ["The capital"] * 2, finished=[False, True]))
        assert tokenizer.eos_token_id not in cut.ids[cut.prompt_len :]
        assert tokenizer.decode(cut.ids).endswith("The capital")
        assert whole.ids[: len(cut.ids)] == cut.ids
        assert cut.prompt_len == whole.prompt_len


def test_an_unfinished_text_loses_the_end_that_the_tokenizer_writes() -> None:
    tokenizer = bert_like()
    path = one(renderer_of(tokenizer), "What is ", "two", finished=[False])
    assert path.ids == tokenizer("What is two")["input_ids"][:-1]


def test_a_written_out_eos_at_the_very_end_is_the_eos() -> None:
    tokenizer = qwen_like()
    renderer = renderer_of(tokenizer)
    for prompt in ("Name it. ", QUESTION):
        assert one(renderer, prompt, "five<|im_end|>") == one(renderer, prompt, "five")
    assert code(renderer.render_paths("Name it. ", ["<|im_end|>"])[0]) == "blank_completion"


# Token ids.


def test_token_ids_are_joined_and_end_with_one_eos() -> None:
    renderer = renderer_of(qwen_like())
    eos, line_feed = renderer.rules.eos_id, renderer.tokenizer("\n")["input_ids"][0]
    prompt = TokenIds((10, 11))
    cases = {(20, 21): [20, 21, eos], (20, eos): [20, eos], (20, eos, line_feed): [20, eos, line_feed]}
    for ids, expected in cases.items():
        assert one(renderer, prompt, TokenIds(ids)) == RenderedPath([10, 11, *expected], 2, False)
    assert one(renderer, prompt, TokenIds((20,)), finished=[False]).ids == [10, 11, 20]
    assert one(renderer, "", TokenIds((20,))).prompt_len == 0


def test_ids_of_rendered_text_render_to_themselves() -> None:
    for family in FAMILIES:
        renderer = renderer_of(family())
        for prompt in ("Name it. ", QUESTION):
            path = one(renderer, prompt, "five")
            ids = TokenIds(tuple(path.ids[: path.prompt_len])), TokenIds(tuple(path.ids[path.prompt_len :]))
            assert one(renderer, *ids) == path


def test_ids_outside_the_vocabulary_are_refused() -> None:
    renderer = renderer_of(qwen_like())
    size = len(renderer.tokenizer)
    assert code(renderer.render_paths("", [TokenIds((size,))])[0]) == "bad_token_ids"
    assert good(renderer.render_paths("", [TokenIds((size - 1,))])[0])


def test_a_group_shares_the_common_prefix_of_ids() -> None:
    renderer = renderer_of(qwen_like())
    group = renderer.render_group(QUESTION, ["The capital of France", "The capital is Paris"])
    paths = [good(p) for p in renderer.render_paths(QUESTION, ["The capital of France", "The capital is Paris"])]
    assert [group.path(k).tolist() for k in range(2)] == [p.ids for p in paths]
    assert len(group.prefix) > paths[0].prompt_len  # it reaches into the completions
    with pytest.raises(RowError, match="blank"):
        renderer.render_group(QUESTION, ["five", " "])


# Rules.


def test_rules_survive_json_and_refuse_another_tokenizer() -> None:
    rules = RenderRules.for_tokenizer(qwen_like(), max_length=64, over_length="truncate_prompt")
    assert RenderRules(**asdict(rules)) == rules
    with pytest.raises(ModelError, match="another tokenizer"):
        Renderer(llama_like(), rules)
    with pytest.raises(ModelError, match="version 99"):
        Renderer(qwen_like(), replace(rules, version=99))


def test_rules_need_a_pad_token_that_is_not_the_eos() -> None:
    for tokenizer in (
        byte_level(["<eos>"], eos_token="<eos>"),
        byte_level(["<eos>"], eos_token="<eos>", pad_token="<eos>"),
    ):
        with pytest.raises(ModelError, match="pad token"):
            RenderRules.for_tokenizer(tokenizer, max_length=64)
        choice = choose_pad_token(tokenizer, len(tokenizer))
        assert RenderRules.for_tokenizer(tokenizer, max_length=64).pad_id == choice.id


def test_a_tokenizer_without_any_end_is_refused() -> None:
    with pytest.raises(ModelError, match="no EOS"):
        RenderRules.for_tokenizer(byte_level(["<pad>"], pad_token="<pad>"), max_length=64)


def test_choosing_a_pad_token_changes_no_ids() -> None:
    bare, padded = (byte_level(["<eos>"], eos_token="<eos>", pad_token="<eos>") for _ in range(2))
    choose_pad_token(padded, len(padded))
    path = one(renderer_of(padded), "What is ", "two <|rmray_pad|>")
    assert padded.pad_token_id not in path.ids
    plain = one(renderer_of(padded), "What is ", "two")
    assert plain.ids == [*bare("What is two")["input_ids"], bare.eos_token_id]
