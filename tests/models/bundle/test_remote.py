"""A reward model behind a vLLM-like server that runs the bundle's own weights: scores are those of the bundle."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rmray.cli import main
from rmray.errors import BundleError, RequestError
from rmray.evaluation.source import RewardSource, ScorerSource
from rmray.models.bundle import load_bundle
from rmray.models.remote import open_remote
from rmray.retry import Backoff
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult
from rmray.serving.app.recipes import remote_recipe
from rmray.serving.engine import ScoringEngine
from tests.models.judge.stand_ins import Server, serving

QUICK = {"backoff": Backoff(first_s=0.001, most_s=0.002), "timeout_s": 10.0}
REQUESTS = [
    ScoreRequest(prompt="Question: what is two plus three? ", completions=("Five.", "", "It is the weather."), id="a"),
    ScoreRequest(prompt="The quick ", completions=("fox " * 100, "brown fox"), id="b"),
    ScoreRequest(
        prompt=({"role": "user", "content": "Please write."},), completions=("Thank you.",), finished=(False,)
    ),
    ScoreRequest(prompt="x", completions=("",), id="none"),
]


class Classifier:
    """Answers /classify and /pooling as vLLM does, with the weights in `directory`. refuses: ids it has no room for."""

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
        self.lock = threading.Lock()
        self.refused_ids: set[int] = set()
        self.activation = False

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        assert body["add_special_tokens"] is False
        assert body["use_activation"] is False
        if any(len(ids) in self.refused_ids for ids in body["input"]):
            return 400, {}, {"error": {"message": "longer than the maximum context length"}}
        with self.lock, torch.no_grad():
            scores = [self.model(torch.tensor([ids])).logits[0, 0] for ids in body["input"]]
        raw = [float(s.sigmoid() if self.activation else s) for s in scores]
        field = "data" if "encoding_format" in body else "probs"
        entries = [{"index": i, field: [score], "label": "LABEL_0"} for i, score in enumerate(raw)]
        return 200, {}, {"object": "list", "model": "m", "data": entries[::-1]}  # an index says which it is


@pytest.fixture(scope="module")
def classifier(bundle_dir: Path) -> Classifier:
    return Classifier(bundle_dir)


@pytest.fixture
def server(classifier: Classifier) -> Iterator[Server]:
    classifier.refused_ids, classifier.activation = set(), False
    with serving(classifier) as served:
        yield served


@pytest.fixture
def rules_only(bundle_dir: Path, tmp_path: Path) -> Path:
    """The bundle without its weights."""
    copy = tmp_path / "rules"
    shutil.copytree(bundle_dir, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


@pytest.mark.parametrize("route", ["", "/classify", "/pooling"])
def test_remote_scores_are_the_bundles(server: Server, bundle_dir: Path, rules_only: Path, route: str) -> None:
    remote: RewardSource = open_remote(server.url + route, rules_only, api_key="k", **QUICK)
    own = ScorerSource(load_bundle(bundle_dir, check=False))
    assert remote.info == own.info
    for got, expected in zip(remote.score(REQUESTS), own.score(REQUESTS), strict=True):
        assert got.id == expected.id
        for mine, its in zip(got.results, expected.results, strict=True):
            if isinstance(its, ScoreFailure):
                assert mine == its
                continue
            assert isinstance(mine, ScoreResult)
            assert mine.raw == pytest.approx(its.raw, abs=1e-5)  # float32: packed here, one path at a time there
            assert mine.reward == pytest.approx(its.reward, abs=1e-4)
            assert (mine.num_tokens, mine.completion_tokens, mine.model_version, mine.reference) == (
                its.num_tokens, its.completion_tokens, its.model_version, its.reference,
            )  # fmt: skip
    assert set(server.paths) == {route or "/classify"}
    assert {headers["authorization"] for headers in server.headers} == {"Bearer k"}


def test_a_text_that_the_server_refuses_fails_alone(server: Server, classifier: Classifier, rules_only: Path) -> None:
    remote = open_remote(server.url, rules_only, **QUICK)
    whole = remote.score(REQUESTS[:2])
    [encoded] = remote.encode(REQUESTS[:1])
    assert encoded.group is not None
    classifier.refused_ids = {len(encoded.group.path(0))}
    first, second = remote.score(REQUESTS[:2])
    assert [r.code for r in first.results if isinstance(r, ScoreFailure)] == ["over_length", "blank_completion"]
    assert first.results[2] == whole[0].results[2]
    assert second == whole[1]


def test_another_model_or_an_activation_is_refused_at_once(
    server: Server, classifier: Classifier, rules_only: Path
) -> None:
    classifier.activation = True
    with pytest.raises(BundleError, match="the goldens score differently here"):
        open_remote(server.url, rules_only, **QUICK)


def test_busy_servers_are_asked_again_and_gone_ones_fail_item_by_item(
    server: Server, classifier: Classifier, rules_only: Path
) -> None:
    remote = open_remote(server.url, rules_only, **QUICK)
    whole = remote.score(REQUESTS[:1])
    busy = iter([(503, {}, {}), (429, {"retry-after": "0"}, {})])
    server.answer = lambda body: next(busy, None) or classifier(body)
    assert remote.score(REQUESTS[:1]) == whole
    server.answer = lambda body: (500, {}, {})
    hasty = open_remote(server.url, rules_only, check=False, timeout_s=0.2, backoff=Backoff(first_s=0.05))
    [response] = hasty.score(REQUESTS[:1])
    assert [getattr(r, "code", None) for r in response.results] == ["replica_lost", "blank_completion", "replica_lost"]
    for status, body, code in ((401, {}, "unauthorized"), (404, {}, "not_found")):
        server.answer = lambda sent, status=status, body=body: (status, {}, body)
        with pytest.raises(RequestError) as caught:
            hasty.score(REQUESTS[:1])
        assert caught.value.code == code


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "probs": [0.5]}],
        [{"index": 0, "probs": [0.5, 0.5]}, {"index": 1, "probs": [0.5, 0.5]}],
        [{"index": 0, "data": [0.5]}, {"index": 1, "data": [0.5]}],
        [{"index": 0, "probs": [0.5]}, {"index": 0, "probs": [0.5]}],
        [{"index": 0, "probs": [0.5]}, {"index": 1, "probs": [True]}],
        [{"index": 0, "probs": [0.5]}, {"index": 1, "probs": ["0.5"]}],
        None,
    ],
)
def test_an_answer_of_another_shape_is_no_score(server: Server, rules_only: Path, data: Any) -> None:
    remote = open_remote(server.url, rules_only, check=False, **QUICK)
    server.answer = lambda body: (200, {}, {"data": data})
    [response] = remote.score([ScoreRequest(prompt="p ", completions=("a", "b"))])
    assert [getattr(r, "code", None) for r in response.results] == ["bad_response"] * 2


def test_a_remote_model_is_evaluated(
    server: Server, rules_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {i}? ", "chosen": "It is five.", "rejected": "The weather " * (1 + i)} for i in range(6)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", "--remote", server.url, "--data", str(data)]
    assert main([*words, "--bundle-rules", str(rules_only), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pairs"] == 6
    assert main(words) == 2
    assert "--remote and --bundle-rules go together" in capsys.readouterr().err
    assert main([*words, "--bundle-rules", str(rules_only), "--remote-key-env", "NO_SUCH_KEY"]) == 2
    assert "NO_SUCH_KEY is not set" in capsys.readouterr().err
    rules = ["--data", str(data), "--bundle-rules", str(rules_only)]
    for options in (
        ["--remote", "http://u:secret@host"],
        ["--remote", "http://host:secret"],
        ["--remote", "secret/classify"],
        ["--remote", server.url, "--remote-key-env", "sk-live-secret"],
        ["--remote", server.url, "--remote-key-env", "sk_live_secret"],
    ):
        assert main(["evaluate", *options, *rules]) == 2
        message = capsys.readouterr().err
        assert "--remote" in message
        assert "secret" not in message


def test_a_remote_model_behind_the_serving_engine_scores_as_the_bundle(server: Server, bundle_dir: Path) -> None:
    recipe = remote_recipe(server.url, bundle_dir, None)
    scorer = recipe.factory()
    assert scorer.info.model_version == recipe.model_version
    expected = ScorerSource(load_bundle(bundle_dir)).score(REQUESTS)

    async def served() -> list[ScoreResponse]:
        engine = ScoringEngine(scorer)
        engine.start()
        try:
            return await engine.score(REQUESTS)
        finally:
            await engine.aclose()

    for response, same in zip(asyncio.run(served()), expected, strict=True):
        assert response.id == same.id
        for result, bundles in zip(response.results, same.results, strict=True):
            if isinstance(bundles, ScoreFailure):
                assert result == bundles
            else:
                assert isinstance(result, ScoreResult)
                assert result.reward == pytest.approx(bundles.reward, abs=1e-4)
