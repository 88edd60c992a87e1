"""HeadScorer: encoding faults, decoding, and what unfinished completions get. No subprocess: scored in the process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmray.data.render import Renderer, RenderRules
from rmray.data.tokenizer import load_tokenizer, tokenizer_hash
from rmray.models.backbone import RewardBackbone
from rmray.models.bundle.classifier import load_classifier
from rmray.models.head_scorer import HeadScorer, RequestEncoder
from rmray.models.reward import Unfinished, reference_of_scores
from rmray.models.scorer import Scorer, ScorerInfo, score_requests
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResult, TokenIds
from tests.models.bundle.conftest import save_classifier

REFERENCE = reference_of_scores([-9.0, -6.0, -3.0], hash="ref", source="three scores")


@pytest.fixture(scope="module")
def model_dir(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tiny_base, tmp_path_factory.mktemp("scorer") / "model")


def make(model_dir: Path, *, max_length: int = 60, over_length: Any = "drop", **unfinished: Any) -> HeadScorer:
    tokenizer = load_tokenizer(str(model_dir))
    rules = RenderRules.for_tokenizer(tokenizer, max_length=max_length, over_length=over_length)
    encoder = RequestEncoder(
        Renderer(tokenizer, rules), tokenizer_hash=tokenizer_hash(tokenizer), unfinished=Unfinished(**unfinished)
    )
    info = ScorerInfo("tiny", "scalar", "v1", "ref", encoder.tokenizer_hash, max_length)
    backbone = RewardBackbone(load_classifier(model_dir, dtype=torch.float32))
    return HeadScorer(backbone, encoder, info=info, pooling="last", reference=REFERENCE)


@pytest.fixture(scope="module")
def scorer(model_dir: Path) -> Scorer:
    return make(model_dir)


def only(scorer: Scorer, request: ScoreRequest) -> list[Any]:
    return list(score_requests(scorer, [request])[0].results)


def test_result_carries_all_a_consumer_needs(scorer: Scorer) -> None:
    (result,) = only(scorer, ScoreRequest(prompt="Two plus three is ", completions=("five.",)))
    assert isinstance(result, ScoreResult)
    assert result.reward == pytest.approx((result.raw - REFERENCE.mean) / REFERENCE.std)
    assert result.quantile == REFERENCE.quantile(result.raw)
    assert (result.model_version, result.reference, result.truncated) == ("v1", "ref", False)
    encoded = scorer.encode([ScoreRequest(prompt="Two plus three is ", completions=("five.",))])[0]
    assert encoded.group is not None
    assert result.num_tokens == len(encoded.group.path(0))
    assert result.completion_tokens == result.num_tokens - encoded.group.prompt_lens[0]


def test_one_bad_completion_never_fails_its_neighbours_and_order_is_kept(scorer: Scorer) -> None:
    request = ScoreRequest(prompt="Say it: ", completions=("yes", "  ", "word " * 200, "no"), id="r1")
    response = score_requests(scorer, [request])[0]
    kinds = [r.code if isinstance(r, ScoreFailure) else "ok" for r in response.results]
    assert kinds == ["ok", "blank_completion", "over_length", "ok"]
    assert response.id == "r1"
    alone = only(scorer, ScoreRequest(prompt="Say it: ", completions=("no",)))[0]
    assert response.results[3].raw == pytest.approx(alone.raw, abs=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_callers_with_one_prompt_share_its_forward_and_get_their_own_scores(model_dir: Path, pooling: str) -> None:
    scorer = make(model_dir, max_length=200)
    scorer.pooling = scorer.backbone.pooling = pooling
    prompt = "Question: what is two plus three, and why is it so? Please write a short and polite answer. "
    requests = [
        ScoreRequest(prompt=prompt, completions=("Five.",)),
        ScoreRequest(prompt="Say it: ", completions=("yes", "no")),
        ScoreRequest(prompt=prompt, completions=("",)),
        ScoreRequest(prompt=prompt, completions=("It is five.", "It is six, of course.")),
        ScoreRequest(prompt=prompt, completions=("I do not know it.",)),
    ]
    encoded = scorer.encode(requests)
    computed: list[int] = []
    scorer.backbone.register_forward_pre_hook(lambda _, arguments: computed.append(arguments[0].num_tokens))
    together = scorer.forward(encoded)
    alone = [scorer.forward([e])[0] for e in encoded]
    assert [len(raw) for raw in together] == [1, 2, 0, 2, 1]
    assert np.concatenate(together) == pytest.approx(np.concatenate(alone), abs=1e-5)
    assert len(set(np.concatenate(alone).round(3))) == 6
    assert sum(computed[1:]) - computed[0] >= 2 * 25  # of the prompt's 27 tokens the last is another before "I"


def test_request_without_a_scorable_completion_gets_failures_alone(scorer: Scorer) -> None:
    empty = ScoreRequest(prompt="Say it: ", completions=("", " "))
    whole = ScoreRequest(prompt="Say it: ", completions=("yes",))
    responses = score_requests(scorer, [empty, whole, empty])
    assert [len(r.results) for r in responses] == [2, 1, 2]
    assert isinstance(responses[1].results[0], ScoreResult)
    assert all(isinstance(r, ScoreFailure) for r in responses[0].results)


def test_truncation_when_opted_in_is_marked(scorer: Scorer) -> None:
    request = ScoreRequest(prompt="word " * 100, completions=("yes",), truncate=True)
    (result,) = only(scorer, request)
    assert result.truncated
    assert result.num_tokens <= scorer.info.max_length


def test_token_ids_are_taken_with_the_hash_of_this_tokenizer_only(scorer: Scorer) -> None:
    text = ScoreRequest(prompt="Two plus three is ", completions=("five.",))
    path = scorer.encode([text])[0].group.path(0).tolist()  # type: ignore[union-attr]
    ids = TokenIds(tuple(path[:4])), (TokenIds(tuple(path[4:])),)
    (wanted,) = only(scorer, text)
    (same,) = only(scorer, ScoreRequest(prompt=ids[0], completions=ids[1], tokenizer_hash=scorer.info.tokenizer_hash))
    assert same.raw == pytest.approx(wanted.raw, abs=1e-6)
    for given in (None, "0123456789abcdef"):
        (failure,) = only(scorer, ScoreRequest(prompt=ids[0], completions=ids[1], tokenizer_hash=given))
        assert failure.code == "tokenizer_mismatch"
        assert scorer.info.tokenizer_hash in failure.message


def test_ids_outside_the_vocabulary_are_that_items_error(scorer: Scorer) -> None:
    request = ScoreRequest(
        prompt=TokenIds((5, 6)),
        completions=(TokenIds((7, 10**6)), TokenIds((7, 8))),
        tokenizer_hash=scorer.info.tokenizer_hash,
    )
    bad, good = only(scorer, request)
    assert bad.code == "bad_token_ids"
    assert isinstance(good, ScoreResult)


def test_unfinished_is_scored_without_an_end_by_default(model_dir: Path) -> None:
    scorer = make(model_dir)
    finished, cut = only(scorer, ScoreRequest(prompt="Say: ", completions=("yes", "yes"), finished=(True, False)))
    assert cut.num_tokens == finished.num_tokens - 1
    assert cut.raw != pytest.approx(finished.raw, abs=1e-3)
    assert cut.reward == pytest.approx(REFERENCE.reward(cut.raw))


def test_penalty_is_taken_off_the_reward_of_unfinished_ones_alone(model_dir: Path) -> None:
    request = ScoreRequest(prompt="Say: ", completions=("yes", "yes"), finished=(True, False))
    plain = only(make(model_dir), request)
    finished, cut = only(make(model_dir, policy="penalty", penalty=2.0), request)
    assert finished == plain[0]
    assert cut.raw == plain[1].raw
    assert cut.reward == pytest.approx(plain[1].reward - 2.0)
    assert cut.quantile <= plain[1].quantile


def test_error_policy_refuses_unfinished_ones_alone(model_dir: Path) -> None:
    request = ScoreRequest(prompt="Say: ", completions=("yes", "no"), finished=(True, False))
    good, bad = only(make(model_dir, policy="error"), request)
    assert isinstance(good, ScoreResult)
    assert bad.code == "unfinished"


def test_non_finite_scores_are_errors_never_numbers(scorer: Scorer) -> None:
    request = ScoreRequest(prompt="Say: ", completions=("a", "b", "c"))
    encoded = scorer.encode([request])[0]
    results = scorer.decode(encoded, np.array([np.nan, 1.0, np.inf])).results
    assert [r.code if isinstance(r, ScoreFailure) else r.raw for r in results] == ["non_finite", 1.0, "non_finite"]


def test_forward_holds_no_graph_on_any_thread(scorer: Scorer) -> None:
    encoded = scorer.encode([ScoreRequest(prompt="Say: ", completions=("a",))])
    seen: list[bool] = []
    hook = scorer.backbone.model.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda *_: seen.append(torch.is_inference_mode_enabled())
    )
    base_hook = scorer.backbone.model.base_model.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda *_: seen.append(torch.is_inference_mode_enabled())
    )
    try:
        thread = threading.Thread(target=scorer.forward, args=(encoded,))
        thread.start()
        thread.join()
    finally:
        hook.remove()
        base_hook.remove()
    assert seen
    assert all(seen)


def test_the_last_tokens_score_is_the_completions_own(model_dir: Path) -> None:
    scorer = make(model_dir)
    completions = ("five.", "the answer is wrong — or is it 五?", " ")
    request = ScoreRequest(prompt="Two plus three is ", completions=completions)
    results, tokens = only(scorer, request), scorer.token_scores(request)
    assert isinstance(results[2], ScoreFailure)
    assert tokens[2] == []
    for result, pieces, text in zip(results[:2], tokens[:2], completions[:2], strict=True):
        assert len(pieces) == result.completion_tokens
        joined = "".join(piece for piece, _ in pieces)
        assert joined.strip().startswith(text), "pieces join to the text, with the blank before it and the end mark"
        assert pieces[-1][1] == pytest.approx(result.raw, abs=1e-5)


def test_a_token_score_is_that_of_the_text_that_ends_there(model_dir: Path) -> None:
    scorer = make(model_dir)
    [pieces] = scorer.token_scores(ScoreRequest(prompt="Two plus three is ", completions=("the answer is five.",)))
    cut = "".join(piece for piece, _ in pieces[:3]).lstrip()
    (unfinished,) = only(scorer, ScoreRequest(prompt="Two plus three is ", completions=(cut,), finished=(False,)))
    assert unfinished.raw == pytest.approx(pieces[2][1], abs=1e-5)


def test_it_tells_what_its_forward_computed(model_dir: Path) -> None:
    scorer = make(model_dir)
    one, same, other = scorer.encode(
        [
            ScoreRequest(prompt="Two plus three is ", completions=("five.", "six, or so it seems.")),
            ScoreRequest(prompt="Two plus three is ", completions=("seven.",)),
            ScoreRequest(prompt="The weather was ", completions=("fine.",)),
        ]
    )
    scorer.forward([one, same, other])
    told = scorer.last_forward
    assert told.padding == 0
    assert told.computed < one.num_tokens + same.num_tokens + other.num_tokens  # the first two met
    scorer.backbone.refuse_packed("a test")
    scorer.forward([one, same, other])
    paths = [len(e.group.path(k)) for e in (one, same, other) for k in range(len(e.slots))]  # type: ignore[union-attr]
    assert scorer.last_forward.computed == len(paths) * max(paths)
    assert scorer.last_forward.padding == len(paths) * max(paths) - sum(paths)
