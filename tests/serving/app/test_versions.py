"""Back and forth between versions, a canary beside one, and what comes back on the next cluster: on a real Serve."""

import json
import sys
from dataclasses import replace
from functools import partial

import httpx
import pytest

from rmray.cli import main
from rmray.client import RewardClient
from rmray.config import load_config
from rmray.config.serve import GATEWAY_APP, SERVED_DIR_ENV, ServeConfig, serve_options
from rmray.errors import ClusterError, ConfigError
from tests.serving.app.versions import QUICK, apps_of, arithmetic, deploy, raws
from tests.waiting import wait_for

SMALL = {"timeout_s": 60, "max_call_completions": 64}


@pytest.fixture
def served_dir(tmp_path, monkeypatch):
    """Where what is served is written down."""
    monkeypatch.setenv(SERVED_DIR_ENV, str(tmp_path))
    return tmp_path


def deploy_recorded(version, **options):
    from rmray.serving.app.deploy import deploy_recipe
    from rmray.serving.app.recipes import Recipe

    recipe = Recipe(partial(arithmetic, version), version, source={"remote": {"url": version, "bundle_rules": "b"}})
    return deploy_recipe(recipe, name="share", **{**QUICK, "drain_s": 0.0, **options})


def versions(client):
    """Of 20 calls that travel as several messages each, none of which may mix them."""
    calls = [client.score_group("p", ["x" * i for i in range(1, 301)]) for _ in range(20)]
    assert all(len({r.model_version for r in results}) == 1 for results in calls), "an answer mixes versions"
    return {results[0].model_version for results in calls}


def versions_of_bare_requests(url):
    bare = {"model": "share", "items": [{"prompt": "p", "completions": ["a", "b"]}]}
    answers = [httpx.post(f"{url}/v1/rewards", json=bare, timeout=30).json() for _ in range(20)]
    found = [{c["model_version"] for c in answer["results"][0]["completions"]} for answer in answers]
    assert all(len(each) == 1 for each in found), "an answer mixes versions"
    return set().union(*found)


def test_a_canary_a_promotion_and_the_way_back(url, served_dir, capsys):
    from rmray.serving.app import promote, roll_back, undeploy

    def recorded():
        config = load_config(ServeConfig, served_dir / "share.yaml")
        return config.remote.url, config.options.max_batch_tokens

    with pytest.raises(ConfigError, match="nothing is served as 'share'"):
        deploy("share", "v2", canary=0.5)
    deploy_recorded("v1", max_batch_tokens=100)
    with pytest.raises(ConfigError, match="nothing was served as 'share' before v1"):
        roll_back("share")
    with pytest.raises(ConfigError, match="has no canary"):
        promote("share")
    with RewardClient.connect("share", **SMALL) as client, RewardClient.connect_http(url, "share", **SMALL) as by_http:
        deploy_recorded("v2", canary=0.5)
        assert apps_of("share") == ["share-v1", "share-v2"]
        assert versions(client) == versions(by_http) == versions_of_bare_requests(url) == {"v1", "v2"}
        cards = {card["id"]: card for card in httpx.get(f"{url}/v1/models").json()["data"]}
        assert cards["share"]["canary"] == {"model_version": "v2", "share": 0.5}
        assert recorded() == ("v1", 100), "a canary is on trial"

        assert promote("share").replaced == "v1"
        assert (apps_of("share"), versions(client), versions(by_http)) == (["share-v2"], {"v2"}, {"v2"})
        assert recorded() == ("v2", 16384)

        assert main(["serve", "--rollback", "--name", "share", "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (told["model_version"], told["replaced"]) == ("v1", "v2")
        assert (raws(client.score_group("p", ["a"])), recorded()) == ([2.0], ("v1", 100))
        assert roll_back("share").model.model_version == "v2"

        deploy_recorded("v1", canary=0.1)
        assert roll_back("share").replaced == "v1"
        assert (apps_of("share"), versions(client), versions(by_http)) == (["share-v2"], {"v2"}, {"v2"})
    undeploy("share")
    assert list(served_dir.iterdir()) == []
    with pytest.raises(ConfigError, match="served: alpha"):
        roll_back("share")


def test_one_process_at_a_time_deploys_under_a_name(alpha):
    from rmray.serving.app import promote
    from rmray.serving.app.claim import claimed

    with claimed("alpha"):
        for attempt in (partial(deploy, "alpha", "v2"), partial(promote, "alpha")):
            with pytest.raises(ClusterError, match="another deployment of 'alpha' is under way"):
                attempt()
    assert apps_of("alpha") == ["alpha-v1"]
    assert deploy("alpha", "v1").model.app == "alpha-v1"


@pytest.mark.usefixtures("url")
def test_an_app_that_nobody_resolves_to_goes_and_its_name_is_not_taken():
    from rmray.serving.app.apps import app_status, choose_app, start_app
    from rmray.serving.app.recipes import Recipe

    start_app("left-v1", Recipe(partial(arithmetic, "v1"), "v1"), serve_options(cpus=0.1))
    assert choose_app("left", "v1", "digest", []) == "left-v1-1"
    wait_for(lambda: app_status("left-v1") is None, timeout_s=40, what="the end of an app")


def test_what_another_cluster_wrote_down_stays_where_the_name_is_not_served_here(url, served_dir):
    from rmray.serving.app import undeploy

    (served_dir / "elsewhere.yaml").write_text("name: elsewhere\nbundle: b\n")
    with pytest.raises(ConfigError, match="nothing is served as 'elsewhere'"):
        undeploy("elsewhere")
    assert (served_dir / "elsewhere.yaml").exists()


def test_what_was_served_comes_back_by_itself_on_a_cluster_that_declares_it(url, bundle_dir, served_dir, capsys):
    """As KubeRay does it: Serve is given a config, with the models' app in it."""
    import ray
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    from rmray.serving.app import served_models, undeploy
    from rmray.serving.app.aliases import alias_actor, set_canary
    from rmray.serving.app.recipes import bundle_recipe
    from rmray.serving.app.record import restore, write_record

    recipe = bundle_recipe(bundle_dir, 0.0)
    write_record("again", recipe, serve_options(cpus=0.1))
    declared = {
        "name": "rmray-models",
        "route_prefix": None,
        "import_path": "rmray.serving.app.record:declared_models",
        "args": {"directory": str(served_dir)},
        "runtime_env": {"env_vars": {"PYTHONPATH": ":".join(path for path in sys.path if path)}},
    }
    client = _get_global_client()
    client.deploy_apps(ServeDeploySchema.parse_obj({"applications": [declared]}), _blocking=True)
    sources = {app: client.get_serve_details()["applications"][app]["source"] for app in ("rmray-models", GATEWAY_APP)}
    assert sources == {"rmray-models": "declarative", GATEWAY_APP: "imperative"}, "by which it is told who mends one"
    assert served_models()["again"].model_version == recipe.model_version
    with RewardClient.connect("again", timeout_s=30) as again:
        assert again.score_group("The quick brown fox ", ["rests."])[0].model_version == recipe.model_version
    assert set(served_models()) == {"alpha", "again"}, "what is not declared is left alone"
    app = served_models()["again"].app
    assert main(["serve", "--restore", str(served_dir), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out.splitlines()[-1])["served"]
    assert (told["app"], served_models()["again"].app) == (app, app), "what is served already stays as it is"
    set_canary(replace(served_models()["again"], app="alpha-v1"), b"", 0.5)
    restore(served_dir)
    assert served_models()["again"].apps == {app, "alpha-v1"}, "a canary's trial goes on"
    ray.get(alias_actor().drop_canary.remote("again", "alpha-v1"))
    undeploy("again")
