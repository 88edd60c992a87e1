"""A served model as a source of scores: the same as its scorer, and never two versions in one evaluation."""

from __future__ import annotations

import pytest

from rmray.client import HttpTransport, InProcessTransport, RewardClient
from rmray.client import source as module
from rmray.client.source import ClientSource, open_served
from rmray.errors import ConfigError, RequestError
from rmray.evaluation.source import ScorerSource
from rmray.schema import ScoreFailure, ScoreRequest
from tests.client.loopback import Serve
from tests.client.test_http import Backend
from tests.fakes import ArithmeticScorer

REQUESTS = [
    ScoreRequest(prompt="p", completions=("a", "bb", ""), id="f:1"),
    ScoreRequest(prompt="q", completions=("x" * 700, "y"), id="f:2"),
]


@pytest.mark.parametrize("by_http", [False, True])
def test_a_served_model_scores_as_its_scorer(by_http: bool, serve: Serve) -> None:
    backend = Backend()
    way = HttpTransport(serve(backend.app())) if by_http else InProcessTransport(backend.scorer)
    source, own = ClientSource(RewardClient(way)), ScorerSource(backend.scorer)
    assert source.score(REQUESTS) == own.score(REQUESTS)
    assert isinstance(source.score(REQUESTS)[1].results[0], ScoreFailure)
    for field in ("kind", "model_version", "reference", "tokenizer_hash", "max_length"):
        assert getattr(source.info, field) == getattr(own.info, field)
    source.close()


def test_a_model_that_is_replaced_in_between_is_an_error(serve: Serve) -> None:
    backend = Backend()
    source = ClientSource(RewardClient(HttpTransport(serve(backend.app()))))
    source.score(REQUESTS)
    backend.scorer = ArithmeticScorer(version="fake-2")
    with pytest.raises(RequestError, match=r"'helpful' was replaced while it was evaluated(.|\n)*fake-1.*fake-2"):
        source.score(REQUESTS)
    source.close()


def test_open_served_takes_an_address_or_the_cluster_that_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Client(RewardClient):
        @classmethod
        def connect(cls, *args, **options):
            asked.append((args, options))
            return RewardClient.in_process(ArithmeticScorer())

        @classmethod
        def connect_http(cls, *args, **options):
            return cls.connect("http", *args, **options)

    monkeypatch.setattr(module, "RewardClient", Client)
    open_served("http://host", "helpful", api_key="k").close()
    open_served(None, "helpful").close()
    assert asked == [(("http", "http://host", "helpful"), {"api_key": "k"}), (("helpful",), {})]
    with pytest.raises(ConfigError, match="which served model"):
        open_served(None)
