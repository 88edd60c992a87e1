"""A judge behind the engine, without Ray: its scores, its backend away and back, its key, and which app it is."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmray.config.serve import serve_options
from rmray.errors import BundleError, ConfigError, RequestError
from rmray.models import model_server
from rmray.models.judge import PairwiseJudge, open_judge
from rmray.models.judge.chat_server import ChatServer
from rmray.retry import RETRY_CODES, Backoff
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse
from rmray.serving.app.health import MAX_FAILED_FORWARDS
from rmray.serving.app.recipes import Recipe, judge_recipe, load_judge
from rmray.serving.app.replica import ScorerReplica
from rmray.serving.engine import EngineLimits
from rmray.serving.source_scorer import MOST_TOKENS, SourceScorer, grade_cost, pair_cost
from tests.models.judge.stand_ins import Server, StubModel, completion, gullible, serving

REQUESTS = [
    ScoreRequest(prompt="p", completions=("good", "bad", ""), id="one"),
    ScoreRequest(prompt="q", completions=("bad", "good good"), id="two"),
]
KEY = "sk-very-secret"


def answer(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    material = body["messages"][-1]["content"]
    return 200, {}, completion(gullible(material) if "<answer_a>" in material else {"A": 0.0, "B": 0.0})


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(answer) as served:
        yield served


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model server is asked once: the next try would come after any deadline. So outages take no time here."""
    monkeypatch.setattr(model_server, "Backoff", lambda **_: Backoff(first_s=1e6, most_s=1e6))


def judge_file(directory: Path, **fields: Any) -> Path:
    path = directory / "judge.yaml"
    path.write_text("judge:\n" + "".join(f"  {name}: {value}\n" for name, value in fields.items()))
    return path


def on_a_replica(recipe: Recipe, scenario: Any) -> Any:
    """scenario(replica), of a replica that got the recipe as Serve would give it: pickled."""
    recipe = pickle.loads(pickle.dumps(recipe))

    async def main() -> Any:
        replica = ScorerReplica.__new__(ScorerReplica)
        await replica.__init__(recipe.factory, recipe.model_version, EngineLimits())  # type: ignore[misc]
        return await scenario(replica)

    return asyncio.run(main())


def codes(responses: list[ScoreResponse]) -> set[str]:
    return {r.code if isinstance(r, ScoreFailure) else "scored" for response in responses for r in response.results}


def test_a_served_judge_scores_as_one_that_is_opened(server: Server, tmp_path: Path) -> None:
    path = judge_file(tmp_path, backend="openai", url=server.url, model="m")

    async def scenario(replica: ScorerReplica) -> Any:
        return await replica.score(REQUESTS, 60.0), await replica.info()

    responses, info = on_a_replica(judge_recipe(path, 0), scenario)
    judge = open_judge(path)
    assert (responses, info) == (judge.score(REQUESTS), judge.info)
    assert codes(responses) == {"scored", "blank_completion"}


@pytest.mark.usefixtures("one_try")
def test_a_backend_that_goes_away_fails_items_and_no_replica(server: Server, tmp_path: Path) -> None:
    path = judge_file(tmp_path, backend="openai", url=server.url, model="m")

    async def scenario(replica: ScorerReplica) -> None:
        assert codes(await replica.score(REQUESTS[1:], 60.0)) == {"scored"}
        for status, code in ((500, "replica_lost"), (503, "overloaded"), (401, "unauthorized")):
            server.answer = lambda body, status=status: (status, {}, {})
            for _ in range(MAX_FAILED_FORWARDS):
                assert codes(await replica.score(REQUESTS[1:], 60.0)) == {code}
            await replica.check_health()
        for _ in range(20):  # beyond what `raise_if_fatal` takes for a slip
            [refused] = await replica.score(REQUESTS[1:], 60.0)
            assert codes([refused]) == {"unauthorized"}
            assert server.url not in str(refused), "the caller need not know where the model is"
        await replica.check_health()
        server.answer = lambda body: (500, {}, {})
        replica._health._check()  # were it probed just then
        server.answer = answer
        assert codes(await replica.score(REQUESTS[1:], 60.0)) == {"scored"}

    on_a_replica(judge_recipe(path, 0), scenario)
    assert {"replica_lost", "overloaded"} <= RETRY_CODES


def test_a_judge_with_nothing_to_do_is_asked_nothing(server: Server, tmp_path: Path) -> None:
    path = judge_file(tmp_path, backend="openai", url=server.url, model="m")

    async def scenario(replica: ScorerReplica) -> None:
        replica._health._every_s = 0.0
        asked = len(server.headers)
        await replica.check_health()
        assert len(server.headers) == asked

    on_a_replica(judge_recipe(path, 0), scenario)


@pytest.mark.usefixtures("one_try")
def test_a_backend_that_is_away_at_the_start_is_told_at_once(tmp_path: Path) -> None:
    with serving(answer) as server:
        path = judge_file(tmp_path, backend="openai", url=server.url, model="m")
    with pytest.raises(RequestError, match="connection failed"):
        on_a_replica(judge_recipe(path, 0), None)


def test_a_local_model_that_breaks_takes_its_replica_with_it() -> None:
    stub = StubModel(gullible)
    judge = PairwiseJudge(stub, name="j", model_version="v", rubric="r")

    async def scenario(replica: ScorerReplica) -> None:
        stub._answer = lambda material: 1 / 0
        for _ in range(MAX_FAILED_FORWARDS):
            assert codes(await replica.score(REQUESTS[1:], 60.0)) == {"forward_failed"}
        with pytest.raises(BundleError, match="can't score a probe"):
            await replica.check_health()

    async def main() -> None:
        replica = ScorerReplica.__new__(ScorerReplica)
        await replica.__init__(lambda: SourceScorer(judge, pair_cost), "v", EngineLimits())  # type: ignore[misc]
        await scenario(replica)

    asyncio.run(main())


def test_questions_that_are_asked_together_share_one_deadline() -> None:
    def slow(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        time.sleep(0.06)
        return answer(body)

    with serving(slow) as server:
        backend = ChatServer(server.url, "m", timeout_s=0.3, concurrency=1, together=True)
        judge = PairwiseJudge(backend, name="j", model_version="v", rubric="r")
        responses = judge.score([ScoreRequest(prompt="p", completions=tuple("abcdef"))])
        # 30 questions of 0.06 s, one at a time, are 1.8 s.
        assert {"overloaded"} <= codes(responses) <= {"scored", "overloaded", "deadline"}
        backend.close()


def test_the_key_is_the_replicas_own_and_travels_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    recipe = judge_recipe(judge_file(tmp_path, backend="openai", url=server.url, model="m", api_key_env="JUDGE_KEY"), 0)
    assert KEY.encode() not in pickle.dumps(recipe)
    assert KEY not in repr(recipe)
    config, gpus = recipe.factory.args  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="replica's node"):
        load_judge(config, gpus, environment={})
    load_judge(config, gpus, environment={"JUDGE_KEY": KEY})
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_a_local_judges_version_is_known_before_its_weights_are_loaded(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"backend": "transformers", "min_verdict_mass": 0}
    opened = open_judge(judge_file(tmp_path, **fields, model=tiny_base)).info.model_version
    monkeypatch.setattr("rmray.models.judge.causal_lm._load", lambda *_: pytest.fail("loaded"))
    assert judge_recipe(judge_file(tmp_path, **fields, model=tiny_base), 0).model_version == opened
    monkeypatch.chdir(tiny_base.parent)
    relative = judge_recipe(judge_file(tmp_path, **fields, model=tiny_base.name), 0)
    assert relative.model_version == opened
    assert relative.factory.args[0].model == os.fspath(tiny_base)  # type: ignore[attr-defined]
    assert judge_recipe(judge_file(tmp_path, **fields, model=tiny_base), 1).model_version != opened, "bfloat16"


def test_another_address_is_another_app_of_the_same_version(tmp_path: Path) -> None:
    from rmray.serving.app.apps import options_digest

    fields = {"backend": "openai", "model": "m"}
    one, other = (judge_recipe(judge_file(tmp_path, **fields, url=url), 0) for url in ("http://a", "http://b"))
    assert one.model_version == other.model_version
    assert len({options_digest(serve_options(), recipe.settings) for recipe in (one, other)}) == 2


def test_a_request_counts_by_its_questions_and_is_never_too_large() -> None:
    request = ScoreRequest(prompt="x" * 30, completions=("a" * 3, "b" * 6, "c" * 9))
    assert grade_cost(request) == [511, 512, 513]
    # Three answers are six questions: each of the prompt, the judge's words and two answers.
    assert sum(pair_cost(request)) == 6 * 510 + 4 * (1 + 2 + 3)
    judge = PairwiseJudge(StubModel(gullible), name="j", model_version="v", rubric="r")
    small, large = SourceScorer(judge, pair_cost).encode(
        [request, ScoreRequest(prompt="x" * 30, completions=("a" * 3000,) * 32)]
    )
    assert small.num_tokens == sum(pair_cost(request))
    assert MOST_TOKENS - 32 <= large.num_tokens <= MOST_TOKENS
