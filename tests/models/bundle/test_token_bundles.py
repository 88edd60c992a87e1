"""Bundles of outcome and process models: plain transformers gives their probabilities, and results carry them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from rmray.data.sharing import share_prefixes
from rmray.errors import BundleError
from rmray.evaluation.score_file import score_file
from rmray.models.bundle import import_bundle, load_bundle, read_manifest
from rmray.models.bundle.manifest import PLAIN_TOKENS
from rmray.models.remote import open_remote
from rmray.models.scorer import score_requests
from rmray.models.token_scorer import TokenScorer
from rmray.schema import ScoreFailure, ScoreRequest
from tests.models.bundle.conftest import REFERENCE, reseal
from tests.models.bundle.token_requests import KINDS, PROMPT, SOLUTIONS, STEPS, results_of


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_says_what_it_is(token_bundles: dict[str, Path], kind: str) -> None:
    manifest = read_manifest(token_bundles[kind])
    assert (manifest.kind, manifest.pooling, manifest.loads_with) == (kind, KINDS[kind], PLAIN_TOKENS)
    assert manifest.render_rules["step_separator"] == ("\n" if kind == "process" else None)
    assert isinstance(load_bundle(token_bundles[kind]), TokenScorer)


def test_an_outcome_is_read_at_every_completion_token(token_bundles: dict[str, Path]) -> None:
    scorer = load_bundle(token_bundles["outcome"])
    request = ScoreRequest(prompt=PROMPT, completions=("It is five.", "No."))
    [encoded] = scorer.encode([request])
    model = AutoModelForTokenClassification.from_pretrained(token_bundles["outcome"]).eval()
    for k, result in enumerate(results_of(token_bundles["outcome"], request)):
        path = torch.from_numpy(encoded.group.path(k).astype(np.int64))
        with torch.no_grad():
            expected = model(input_ids=path[None]).logits[0, encoded.group.prompt_lens[k] :, 0].sigmoid()
        assert path[-1] == scorer.renderer.rules.eos_id  # the end of sequence is a completion token too
        assert result.token_scores == pytest.approx(expected.tolist(), abs=1e-5)
        assert result.completion_tokens == len(result.token_scores)
        assert result.raw == result.prob_mean == pytest.approx(expected.mean().item(), abs=1e-5)
        assert result.prob_product == pytest.approx(math.exp(expected.double().log().sum().item()), rel=1e-3)
        assert result.prob_product <= result.prob_min <= result.prob_mean <= max(result.token_scores)
        assert result.first_error is None


def test_a_process_is_read_where_its_steps_end(token_bundles: dict[str, Path]) -> None:
    scorer = load_bundle(token_bundles["process"])
    given = (STEPS, "Two is a number.\nSo is three.\nIt is five.", "Two is a number.\nIt is")
    request = ScoreRequest(prompt=PROMPT, completions=given, finished=(True, True, False))
    listed, text, cut = results_of(token_bundles["process"], request)
    assert text.token_scores == pytest.approx(listed.token_scores, abs=1e-5)
    assert cut.token_scores == pytest.approx(listed.token_scores[:1], abs=1e-5)
    [encoded] = scorer.encode([request])
    model = AutoModelForTokenClassification.from_pretrained(token_bundles["process"]).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(encoded.group.path(0).astype(np.int64))[None]).logits[0]
    classes = logits[list(encoded.group.step_ends[0])].softmax(-1)
    assert listed.token_scores == pytest.approx(classes[:, 2].tolist(), abs=1e-5)
    assert listed.raw == listed.prob_min == min(listed.token_scores)
    wrong = [i for i, step in enumerate(classes.argmax(-1).tolist()) if step == 0]
    assert listed.first_error == (wrong[0] if wrong else -1)


def test_the_first_failing_step_is_one_that_is_most_likely_wrong(
    token_bundles: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(token_bundles["process"], tmp_path / "bundle"))
    weights = copy / "model.safetensors"
    for bias, expected in (([9.0, 0.0, 0.0], 0), ([0.0, 0.0, 9.0], -1)):
        tensors = load_file(weights)
        tensors["score.bias"], tensors["score.weight"] = torch.tensor(bias), torch.zeros_like(tensors["score.weight"])
        save_file(tensors, weights, metadata={"format": "pt"})
        scorer = load_bundle(copy, check=False)
        [response] = score_requests(scorer, [ScoreRequest(prompt=PROMPT, completions=(STEPS,))])
        assert response.results[0].first_error == expected


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_and_shared_prompts_change_nothing(token_bundles: dict[str, Path], kind: str) -> None:
    request = ScoreRequest(prompt=PROMPT, completions=("It is five.\nYes.", "It is five.\nNo, six.", "No."))
    together = results_of(token_bundles[kind], request, *(SOLUTIONS if kind == "process" else REFERENCE))[:3]
    apart = [
        results_of(token_bundles[kind], ScoreRequest(prompt=PROMPT, completions=(c,)))[0] for c in request.completions
    ]
    for one, other in zip(together, apart, strict=True):
        assert one.token_scores == pytest.approx(other.token_scores, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_callers_of_one_prompt_share_it_and_change_nothing(token_bundles: dict[str, Path], kind: str) -> None:
    begun = "It is five, I think.\nYes, five.\n"
    requests = [ScoreRequest(prompt=PROMPT * 3, completions=(begun + end,)) for end in ("So five.", "So six.\nNo.")]
    scorer = load_bundle(token_bundles[kind])
    groups = [e.group for e in scorer.encode(requests)]
    assert len(share_prefixes(groups)[0]) == 1
    if kind == "process":  # a step that ends in what is shared is read for both
        assert groups[0].step_ends[0][0] == groups[1].step_ends[0][0]
    together = [r.results[0] for r in score_requests(scorer, requests)]
    apart = [results_of(token_bundles[kind], request)[0] for request in requests]
    for one, other in zip(together, apart, strict=True):
        assert one.token_scores == pytest.approx(other.token_scores, abs=1e-5)


def test_bad_completions_fail_alone(token_bundles: dict[str, Path]) -> None:
    request = ScoreRequest(prompt=PROMPT, completions=(" ", "Two", "Two.\n"), finished=(True, False, False))
    [response] = score_requests(load_bundle(token_bundles["process"]), [request])
    codes = [r.code if isinstance(r, ScoreFailure) else "" for r in response.results]
    assert codes == ["blank_completion", "no_step", ""]
    [response] = score_requests(
        load_bundle(token_bundles["outcome"]), [ScoreRequest(prompt=PROMPT, completions=(STEPS, "Two."))]
    )
    assert [isinstance(r, ScoreFailure) for r in response.results] == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_loads_and_a_head_turned_round_does_not(
    token_bundles: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    exact, rough = load_bundle(token_bundles[kind]), load_bundle(token_bundles[kind], dtype=torch.bfloat16)
    request = ScoreRequest(prompt=PROMPT, completions=("It is five.", "No."))
    one, other = (score_requests(scorer, [request])[0].results[0].token_scores for scorer in (exact, rough))
    assert one == pytest.approx(other, abs=0.15)
    assert one != pytest.approx(other, abs=1e-6)
    copy = Path(shutil.copytree(token_bundles[kind], tmp_path / "bundle"))
    tensors = load_file(copy / "model.safetensors")
    tensors["score.weight"] = -tensors["score.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    reseal(copy)
    with pytest.raises(BundleError, match="score differently"):
        load_bundle(copy, dtype=torch.bfloat16)


def test_of_the_product_the_logarithm_is_the_score(token_bundles: dict[str, Path]) -> None:
    scorer = load_bundle(token_bundles["outcome"])
    scorer.aggregate = "product"
    long = "It is five. " * 30
    [response] = score_requests(scorer, [ScoreRequest(prompt=PROMPT, completions=(long, long + "No."))])
    for result in response.results:
        assert result.raw == pytest.approx(sum(map(math.log, result.token_scores)), rel=1e-9)
        assert result.prob_product == pytest.approx(math.exp(result.raw))


def test_weights_that_are_not_finite_are_no_number(token_bundles: dict[str, Path]) -> None:
    scorer = load_bundle(token_bundles["process"])
    with torch.no_grad():
        scorer.backbone.model.score.bias[0] = math.nan
    [response] = score_requests(scorer, [ScoreRequest(prompt=PROMPT, completions=(STEPS,))])
    assert response.results[0].code == "non_finite"


def edit_golden(bundle: Path, **changes: Callable[[Any], Any]) -> None:
    path = bundle / "goldens.json"
    raw = json.loads(path.read_text())
    for name, change in changes.items():
        raw["items"][0][name] = change(raw["items"][0][name])
    path.write_text(json.dumps(raw))
    reseal(bundle)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": lambda s: [[s[0][0] + 2e-5, *s[0][1:]], *s[1:]]}, "score differently here: 1 of"),
        ({"step_ends": lambda e: [[e[0][0] - 1, *e[0][1:]], *e[1:]]}, "steps that end at"),
    ],
)
def test_goldens_hold_each_step(token_bundles: dict[str, Path], tmp_path: Path, changes: Any, words: str) -> None:
    copy = Path(shutil.copytree(token_bundles["process"], tmp_path / "bundle"))
    edit_golden(copy, **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(copy)


def test_what_makes_the_score_is_part_of_the_version(token_bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(token_bundles["process"], tmp_path / "bundle"))
    manifest = json.loads((copy / "rmray.json").read_text())
    (copy / "rmray.json").write_text(json.dumps({**manifest, "aggregate": "mean"}))
    with pytest.raises(BundleError, match="calls itself"):
        load_bundle(copy)


def test_a_file_of_scores_carries_the_steps(token_bundles: dict[str, Path], tmp_path: Path) -> None:
    rows = [
        {"prompt": PROMPT, "steps": list(STEPS.texts)},
        {"prompt": PROMPT, "completions": [list(STEPS.texts), "Two."]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(token_bundles["process"], str(tmp_path / "rows.jsonl"), tmp_path / "out")
    first, second = (
        json.loads(line)["results"] for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()
    )
    assert [len(r["token_scores"]) for r in (*first, *second)] == [3, 3, 1]
    assert {"prob_mean", "prob_min", "prob_product", "first_error"} <= first[0].keys()
    assert "member_scores" not in first[0]


def test_what_cannot_be_done_with_them_is_refused(token_bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="one score a text"):
        open_remote("http://127.0.0.1:9", token_bundles["process"])
    with pytest.raises(BundleError, match="what it reads as a step"):
        import_bundle(token_bundles["process"], tmp_path / "again", reference_file=tmp_path / "rows.jsonl")
