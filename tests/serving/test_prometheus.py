"""A real Prometheus takes the shipped files and scrapes a running app; alerts fire and stay silent. `make chaos`."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml

from rmray.serving.app.cluster import free_port
from tests.serving.live_metrics import load_the_app, node_endpoint
from tests.serving.shutdown import shut_serve_down
from tests.serving.test_metrics import alerts, dashboard_expressions

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
NEEDS_FAULTS = ("ray_rmray_http_retries_total",)
"""Expressions of these alone are empty while nothing is wrong."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not (shutil.which("prometheus") and shutil.which("promtool")), reason="needs a Prometheus"),
]


@pytest.fixture(scope="module")
def deployed(ray_cluster, bundle_dir):
    from rmray.serving.app import deploy, undeploy
    from rmray.serving.app.cluster import ensure_http

    ensure_http(free_port("127.0.0.1"))
    yield deploy(bundle_dir, name="tiny", cpus=1, drain_s=0.0, start_timeout_s=120)
    undeploy("tiny")
    shut_serve_down()


@pytest.fixture
def ask(deployed, tmp_path):
    """ask(expression) -> what a Prometheus with the shipped config finds. Its discovery file is written here: a Ray
    without a dashboard writes none."""
    discovery = tmp_path / "discovery.json"
    discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [node_endpoint()]}]))
    config = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(discovery)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(CLUSTER / "prometheus-rules.yml", tmp_path)
    url = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--web.listen-address={url}"]
    process = subprocess.Popen([*command, f"--storage.tsdb.path={tmp_path}/data"], stderr=subprocess.DEVNULL)

    def query(expression):
        answer = httpx.get(f"http://{url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]

    try:
        until(lambda: httpx.get(f"http://{url}/-/ready").status_code == 200, ignore=httpx.TransportError)
        yield query
    finally:
        process.terminate()
        process.wait(30)


def until(condition, *, timeout_s=120, ignore=()):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if condition():
                return
        except ignore:
            pass
        time.sleep(1.0)
    raise AssertionError("not within the time")


def filled_in(expression):
    for variable, value in (("$__rate_interval", "1m"), ("$model", ".*"), ("$version", ".*")):
        expression = expression.replace(variable, value)
    return expression


def test_every_expression_finds_its_series_in_a_real_prometheus(deployed, ask):
    """Under load, because rates need two scrapes that differ."""
    wanted = [filled_in(e) for e in dashboard_expressions() if not any(name in e for name in NEEDS_FAULTS)]

    def all_found():
        load_the_app(deployed)
        return all(ask(expression) for expression in wanted)

    until(all_found)
    assert [ask(filled_in(e)) for e in dashboard_expressions() if filled_in(e) not in wanted] == [[]]
    # Of a sound app no alert is due but that its rewards are not the reference's: they are of other texts.
    due = {rule["alert"] for rule in alerts() if ask(rule["expr"])}
    assert due <= {"RmrayRewardDrift", "RmrayRewardsBeyondReference"}


def test_the_shipped_files_pass_promtool():
    for command, name in (("rules", "prometheus-rules.yml"), ("config", "prometheus.yml")):
        checked = subprocess.run(["promtool", "check", command, str(CLUSTER / name)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


MODEL = 'model="m",version="v"'
SOUND = {
    f"ray_rmray_completions_total{{{MODEL}}}": "0+600x60",
    f'ray_rmray_failures_total{{{MODEL},code="over_length"}}': "0+300x60",
    f'ray_rmray_failures_total{{{MODEL},code="non_finite"}}': "0+1x60",
    f'ray_rmray_failures_total{{{MODEL},code="overloaded"}}': "0+1x60",
    f"ray_rmray_queue_tokens{{{MODEL}}}": "5000x60",
    f"ray_rmray_tokens_computed_total{{{MODEL}}}": "0+960000x60",
    f"ray_rmray_batched_tokens_total{{{MODEL}}}": "0+60000x60",
    f'ray_rmray_call_seconds_bucket{{{MODEL},le="1.0"}}': "0+60x60",
    f'ray_rmray_call_seconds_bucket{{{MODEL},le="10.0"}}': "0+60x60",
    f'ray_rmray_call_seconds_bucket{{{MODEL},le="+Inf"}}': "0+60x60",
    'ray_rmray_http_requests_total{route="/v1/rewards",status="200"}': "0+600x60",
    'ray_rmray_http_requests_total{route="/v1/rewards",status="503"}': "0+600x60",
    'ray_rmray_http_requests_total{route="/v1/rewards",status="500"}': "0+1x60",
    f"ray_rmray_reward_stability_index{{{MODEL}}}": "0.2x60",
    f'ray_rmray_reward_outside_ratio{{{MODEL},side="above"}}': "0.01x60",
    f'ray_rmray_reward_outside_ratio{{{MODEL},side="below"}}': "0.9x60",
    f"ray_rmray_reward_std{{{MODEL}}}": "0.9x60",
    f"ray_rmray_reward_window{{{MODEL}}}": "4096x60",
    'ray_serve_autoscaling_target_replicas{deployment="scorer",application="m-v"}': "2x60",
    'ray_serve_deployment_replica_healthy{deployment="scorer",application="m-v",replica="a"}': "1x60",
}
"""A model in order, for an hour, a sample a minute."""
FAULTS = {
    "RmrayScorerFails": {f'ray_rmray_failures_total{{{MODEL},code="non_finite"}}': "0+10x60"},
    "RmrayNoReplica": {
        'ray_serve_deployment_replica_healthy{deployment="scorer",application="m-v",replica="a"}': "0x60"
    },
    "RmrayOverloaded": {f'ray_rmray_failures_total{{{MODEL},code="overloaded"}}': "0+60x60"},
    "RmrayQueueLong": {f"ray_rmray_queue_tokens{{{MODEL}}}": "20000x60"},
    "RmraySlowCalls": {f'ray_rmray_call_seconds_bucket{{{MODEL},le="1.0"}}': "0+30x60"},
    "RmrayHttpErrors": {'ray_rmray_http_requests_total{route="/v1/rewards",status="500"}': "0+60x60"},
    "RmrayRewardDrift": {f"ray_rmray_reward_stability_index{{{MODEL}}}": "0.3x60"},
    "RmrayRewardsBeyondReference": {f'ray_rmray_reward_outside_ratio{{{MODEL},side="above"}}': "0.06x60"},
    "RmrayRewardsCollapsed": {f"ray_rmray_reward_std{{{MODEL}}}": "0.05x60"},
}
"""What differs where the alert is due."""


def fired(tmp_path, series):
    """Names of the alerts that fire after 50 minutes of these series."""
    names = [rule["alert"] for rule in alerts()]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [{"eval_time": "50m", "alertname": name, "exp_alerts": []} for name in names],
        }
    ]
    path = tmp_path / "tests.yml"
    files = {"rule_files": [str(CLUSTER / "prometheus-rules.yml")], "tests": tests}
    path.write_text(yaml.safe_dump(files))
    told = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    return {name for name in names if f"alertname: {name}," in told.stdout + told.stderr}


def test_alerts_fire_and_stay_silent(tmp_path):
    assert set(FAULTS) == {rule["alert"] for rule in alerts()}
    assert fired(tmp_path, SOUND) == set()
    for name, changed in FAULTS.items():
        assert fired(tmp_path, SOUND | changed) == {name}
    few = {f"ray_rmray_reward_window{{{MODEL}}}": "600x60"}  # of 37 groups of 16: chance alone makes such an index
    assert fired(tmp_path, SOUND | FAULTS["RmrayRewardDrift"] | few) == set()
