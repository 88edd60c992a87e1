"""Deployed for real on a local Ray: scores by handle and HTTP, groups, faults alone, the alias moved and kept."""

import asyncio
import json
import sys
from dataclasses import replace

import httpx
import pytest

from rmray.aliases import KnownAliases
from rmray.client import ItemError, RewardClient
from rmray.client.handle import HandleTransport
from rmray.errors import BundleError, ClusterError, ConfigError, RequestError
from rmray.schema import ScoreRequest, TokenIds
from tests.serving.app.versions import broken, deploy, raws
from tests.waiting import wait_for


def test_a_group_by_handle_scores_as_the_scorer_does(alpha):
    results = alpha.score_group("prompt", ["a", "bb", "ccc"])
    assert raws(results) == [2.0, 3.0, 4.0]
    assert {(r.model_version, r.reference) for r in results} == {("v1", "fake-reference")}
    chat = alpha.score_group([{"role": "user", "content": "hi"}], [[{"role": "assistant", "content": "four"}], "five5"])
    assert raws(chat) == [5.0, 6.0]
    ids = alpha.score_group(TokenIds((65,)), [TokenIds((66, 67))], tokenizer_hash="fake-tokenizer")
    assert raws(ids) == [3.0]


def test_many_requests_come_back_in_order(alpha):
    requests = [ScoreRequest(prompt="p", completions=("x" * i, "y" * (i + 1)), id=str(i)) for i in range(1, 300)]
    responses = alpha.score(requests)
    assert [r.id for r in responses] == [r.id for r in requests]
    assert [raws(r.results) for r in responses] == [[i + 1.0, i + 2.0] for i in range(1, 300)]


def test_async_in_a_loop_of_ones_own(alpha):
    async def main():
        return await asyncio.gather(*(alpha.ascore_group("p", ["x" * k]) for k in range(1, 9)))

    assert [raws(r) for r in asyncio.run(main())] == [[k + 1.0] for k in range(1, 9)]


def test_one_bad_completion_fails_alone(alpha):
    assert raws(alpha.score_group("p", ["a", "b" * 2000, ""], errors="return")) == [
        2.0,
        "over_length",
        "blank_completion",
    ]
    with pytest.raises(ItemError) as caught:
        alpha.score_group("p", ["a", "b" * 2000])
    assert caught.value.code == "over_length"
    assert raws(caught.value.results) == [2.0, "over_length"]


def test_http_gives_the_same_scores(url):
    body = {"model": "alpha", "items": [{"prompt": "p", "completions": ["a", "bb", "c" * 2000]}]}
    answer = httpx.post(f"{url}/v1/rewards", json=body, timeout=30)
    assert answer.status_code == 200
    one, two, three = answer.json()["results"][0]["completions"]
    assert (one["raw"], two["raw"], one["model_version"]) == (2.0, 3.0, "v1")
    assert three == {"error": {"code": "over_length", "message": "too long"}}


def test_http_names_models_faults_and_readiness(url):
    assert {m["id"]: m["model_version"] for m in httpx.get(f"{url}/v1/models").json()["data"]} == {"alpha": "v1"}
    assert httpx.get(f"{url}/readyz").status_code == httpx.get(f"{url}/healthz").status_code == 200
    body = {"model": "gamma", "items": [{"prompt": "p", "completions": ["a"]}]}
    unknown = httpx.post(f"{url}/v1/rewards", json=body)
    assert unknown.status_code == 404
    assert "served: alpha" in unknown.json()["error"]["message"]
    wrong = httpx.post(f"{url}/v1/rewards", json={"model": "alpha", "items": [{"prompt": 3, "completions": ["a"]}]})
    assert wrong.status_code == 422
    assert wrong.json()["error"]["fields"][0]["field"] == "items[0].prompt"


def test_an_unknown_name_is_told_the_known_ones(url):
    with pytest.raises(RequestError, match="served: alpha") as caught:
        RewardClient.connect("gamma")
    assert caught.value.code == "unknown_model"


def test_actors_reach_it_and_a_client_travels(alpha):
    import ray

    @ray.remote(num_cpus=0)
    class Loop:
        def __init__(self, client):
            self.given = client
            self.own = RewardClient.connect("alpha")

        def rewards(self):
            return [raws(c.score_group("p", ["a", "bb"])) for c in (self.given, self.own)]

    assert ray.get(Loop.remote(alpha).rewards.remote()) == [[2.0, 3.0]] * 2


class NeverLooks(HandleTransport):
    """Trusts what it knew first until it is told that this is stale."""

    first = None

    async def resolve(self, *, refresh, timeout_s):
        if refresh or self.first is None:
            self.first = await super().resolve(refresh=refresh, timeout_s=timeout_s)
        return self.first


def test_the_alias_moves_and_the_old_app_goes(url):
    from ray import serve

    from rmray.serving.app import served_models, undeploy

    def apps():
        return sorted(a for a in serve.status().applications if a.startswith("moving"))

    def by_http():
        body = {"model": "moving", "items": [{"prompt": "p", "completions": ["a"]}]}
        answer = httpx.post(f"{url}/v1/rewards", json=body, timeout=30)
        return answer.json()["results"][0]["completions"][0]["model_version"]

    deploy("moving", "v1")
    never_looks = RewardClient(NeverLooks("moving"), timeout_s=30)
    with RewardClient.connect("moving", timeout_s=30) as client, never_looks:
        assert raws(client.score_group("p", ["a"])) == raws(never_looks.score_group("p", ["a"])) == [2.0]
        assert by_http() == "v1"

        deployed = deploy("moving", "v2")
        assert (deployed.replaced, deployed.model.app, apps()) == ("v1", "moving-v2", ["moving-v2"])
        results = client.score_group("p", ["a"])
        assert (raws(results), results[0].model_version) == ([3.0], "v2")
        assert by_http() == "v2"
        # Its handle is stale, and it finds out by itself, within the call.
        assert raws(never_looks.score_group("p", ["a"])) == [3.0]

        # A version that does not load never gets the alias, and leaves nothing behind.
        with pytest.raises(BundleError, match="a golden differs"):
            deploy("moving", "v3", broken)
        assert raws(client.score_group("p", ["a"])) == [3.0]
        assert (served_models()["moving"].model_version, apps()) == ("v2", ["moving-v2"])

        # The same version again is no new app; with other options it is one, under a name of its own.
        assert deploy("moving", "v2").model.app == "moving-v2"
        assert deploy("moving", "v2", max_batch_tokens=100).model.app == "moving-v2-1"
        assert raws(client.score_group("p", ["a"])) == [3.0]

        undeploy("moving")
        with pytest.raises(RequestError) as caught:
            client.score_group("p", ["a"])
        assert caught.value.code == "unknown_model"
    with pytest.raises(ConfigError, match="served: alpha"):
        undeploy("moving")


def test_rollout_actors_measure_and_whiten(alpha):
    from rmray.client.handle import run_rollouts
    from rmray.client.rollouts import RolloutPrompt, RolloutSettings

    prompts = [RolloutPrompt(f"prompt {i}", tuple("x" * (i + k + 1) for k in range(6))) for i in range(3)]
    report = run_rollouts("alpha", prompts, RolloutSettings(steps=3, groups_per_step=4, group_size=4), num_actors=2)
    assert (report.num_groups, report.num_completions, report.num_failed) == (24, 96, 0)
    assert report.model_versions == {"v1": 96}
    assert report.advantage_std == pytest.approx(1.0, abs=1e-6)
    assert 0 < report.latency_median_s <= report.latency_p95_s <= report.latency_p99_s
    assert report.completions_per_s == pytest.approx(96 / report.took_s)


def test_aliases_outlive_their_actor_and_so_do_questions_that_wait_there(alpha):
    import ray

    from rmray.serving.app import served_models
    from rmray.serving.app.aliases import alias_actor, move_name

    before = served_models()
    known = KnownAliases(alias_actor)
    asyncio.run(known.ask())
    ray.kill(alias_actor(), no_restart=False)
    assert served_models() == before
    assert alpha.model().model_version == "v1"
    ghost = replace(alpha.model(), name="ghost", app="ghost-v1")
    move_name(ghost, b"")
    wait_for(lambda: known.trusted() == {**before, "ghost": ghost}, timeout_s=40, what="word of the move")
    assert set(served_models()) == {"alpha"}, "of an alias whose app is gone nothing stays"
    with pytest.raises(RequestError, match="served: alpha"):
        RewardClient.connect("ghost")


def test_a_rollout_job_of_an_unknown_name_says_so(alpha, tmp_path, capsys):
    from rmray.client.rollouts import main

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "p", "completions": ["a", "b"]}\n')
    assert main(["--name", "gamma", "--prompts", str(prompts)]) == 2
    assert "served: alpha" in capsys.readouterr().err
    assert main(["--name", "alpha", "--prompts", str(prompts), "--steps", "1", "--actors", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_completions"] == 64


def test_a_canary_whose_app_is_gone_is_forgotten(alpha):
    import ray

    from rmray.serving.app import served_models
    from rmray.serving.app.aliases import alias_actor, set_canary

    ghost = replace(alpha.model(), app="alpha-v9", model_version="v9")
    set_canary(ghost, b"", 0.5)
    assert served_models()["alpha"].apps == {"alpha-v1"}
    assert ray.get(alias_actor().find.remote("alpha")).model.canary is None


def test_no_name_is_forgotten_while_serve_has_no_controller(alpha, monkeypatch):
    from ray.serve import context

    from rmray.serving.app import served_models

    with monkeypatch.context() as gone:
        gone.setattr(context, "_get_global_client", lambda **_: None)
        assert served_models() == {}
    assert set(served_models()) == {"alpha"}


def test_a_name_that_moved_meanwhile_is_not_forgotten(alpha):
    from rmray.serving.app.aliases import remove_name

    assert remove_name("alpha", "alpha-before") is None
    assert alpha.model().model_version == "v1"


def test_a_deployment_that_breaks_off_takes_down_its_own_app_and_no_other(alpha, monkeypatch):
    from ray import serve

    def interrupted(*_):
        raise KeyboardInterrupt

    # By its name in sys.modules: as an attribute of the package, `deploy` is the function.
    monkeypatch.setattr(sys.modules["rmray.serving.app.deploy"], "wait_until_sound", interrupted)
    for version in ("v1", "v2"):
        with pytest.raises(KeyboardInterrupt):
            deploy("alpha", version)
    assert [a for a in serve.status().applications if a.startswith("alpha")] == ["alpha-v1"]
    assert raws(alpha.score_group("p", ["a"])) == [2.0]


def test_a_replaced_app_that_a_name_points_to_again_stays(alpha):
    from rmray.serving.app.aliases import retire

    retire(alpha.model().app)
    assert raws(alpha.score_group("p", ["a"])) == [2.0]


def test_a_replica_that_never_fits_is_refused_at_once(url):
    with pytest.raises(ClusterError, match="no room for 1 replicas of 64 CPU"):
        deploy("huge", "v1", cpus=64)
    with pytest.raises(ClusterError, match="GPU"):
        deploy("huge", "v1", gpus=1)


def test_another_http_port_than_the_running_one_is_refused(url):
    with pytest.raises(ClusterError, match=f"on port {url.rpartition(':')[2]}"):
        deploy("alpha", "v1", http_port=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_replicas": 0}, "max_replicas"), ({"min_replicas": 3}, "max_replicas"), ({"cpu": 1}, "cpu: Extra inputs")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        deploy("alpha", "v1", **options)


def test_a_name_that_is_no_name_is_refused(url):
    with pytest.raises(ConfigError, match="no name"):
        deploy("no/name", "v1")
