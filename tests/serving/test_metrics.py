"""Readings without Ray, and that code, docs, dashboard and alerts name the same metrics."""

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from rmray.config.serve import app_name, name_of_app
from rmray.models.reward import reference_of_scores
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse
from rmray.serving.app.metrics import ReplicaMetrics
from rmray.serving.engine import ScoringEngine
from rmray.serving.metrics import GATEWAY, REPLICA, exported_name, read_answer, read_seen
from rmray.serving.observed import Observed, Seen, SeenBatch
from tests.fakes import ArithmeticScorer

ROOT = Path(__file__).resolve().parents[2]
TABLES = REPLICA | GATEWAY
EXPORTED = {exported_name(name, metric) for name, metric in TABLES.items()}


def dashboard():
    return json.loads((ROOT / "cluster" / "grafana" / "rmray-serving.json").read_text())


def dashboard_expressions():
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def alerts():
    groups = yaml.safe_load((ROOT / "cluster" / "prometheus-rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_in(expression):
    """Names of metrics in a PromQL expression, a histogram's without its `_bucket`."""
    return {name.removesuffix("_bucket") for name in re.findall(r"\bray_\w+", expression)}


def used_metrics():
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in alerts())]
    expressions += [v["definition"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    return set().union(*map(metrics_in, expressions))


def test_a_panel_of_a_model_shows_its_apps_and_no_other_models():
    matchers = [m for e in dashboard_expressions() for m in re.findall(r'application=~"([^"]*)"', e)]
    hashes, others = ("0123456789abcdef", "123456789012345"), ("helpful-v2", "very-helpful", "helpful2")
    assert len(matchers) == 4
    for matcher in matchers:
        of_helpful = re.compile(matcher.replace("$model", "helpful"))
        assert all(of_helpful.fullmatch(app_name("helpful", h, attempt)) for h in hashes for attempt in (0, 1, 12))
        assert of_helpful.fullmatch(app_name("helpful", "v1")), "a version that somebody's own scorer calls itself"
        assert not any(of_helpful.fullmatch(app_name(m, h, a)) for m in others for h in hashes for a in (0, 1))
        of_all = re.compile(matcher.replace("$model", ".*"))
        assert all(of_all.fullmatch(app_name(name, hashes[0])) for name in ("helpful", *others))


def test_a_look_at_a_replica_gives_all_it_saw():
    scorer = ArithmeticScorer(lambda prompt, completion: float(len(completion)), mean=2.0)
    scorer.reference = reference_of_scores(np.linspace(0.0, 4.0, 101).tolist(), hash="r", source="even")
    readings, observed = [], Observed()
    request = ScoreRequest(prompt="p", completions=("x", "xxxx", ""), finished=(True, False, True))

    async def main():
        engine = ScoringEngine(scorer, observer=observed)
        engine.start()
        metrics = ReplicaMetrics(engine, observed, readings.append)
        for _ in range(300):
            observed.call([request], await engine.score([request]), 0.25)
        await metrics.push()
        first = list(readings)
        readings.clear()
        await metrics.push()
        await engine.aclose()
        return first

    first = asyncio.run(main())
    values = {(r.metric, *r.labels.values()): r.value for r in first}
    assert values["rmray_calls",] == values["rmray_requests",] == values["rmray_batches",] == 300
    assert (values["rmray_completions",], values["rmray_unfinished",]) == (900, 300)
    assert values["rmray_failures", "blank_completion"] == 300
    # A prompt of one token before completions of one and four; one token of the first is shared.
    assert (values["rmray_tokens_asked",], values["rmray_tokens_computed",]) == (300 * 7, 300 * 6)
    assert values["rmray_batched_tokens",] == 300 * 6
    assert [r.value for r in first if r.metric == "rmray_call_seconds"] == [0.25] * 300
    # Rewards -1 and 2, beside a reference whose own go from -1.7 to 1.7.
    assert (values["rmray_reward_mean",], values["rmray_reward_window",]) == (0.5, 600)
    assert values["rmray_reward_quantile", "0.95"] == 2.0
    assert values["rmray_reward_outside_ratio", "above"] == 0.5
    assert values["rmray_reward_stability_index",] > 1
    assert sum(r.value for r in first if r.metric == "rmray_rewards") == 600
    # Afterwards nothing new is added, and gauges are told again: Ray forgets those that nobody sets.
    assert {r.metric for r in readings} == {name for name, metric in REPLICA.items() if metric.kind == "gauge"}
    for reading in first:
        assert set(reading.labels) == set(REPLICA[reading.metric].labels)
    assert {r.metric for r in first} == set(REPLICA) - {"rmray_tokens_padding"}


def test_a_batch_has_the_requests_that_it_ran_and_not_those_that_were_refused():
    observed = Observed()
    observed.batch(SeenBatch(2, 8, 10, 8, 0, forward_s=0.5, oldest_wait_s=0.0))
    refused = ScoreFailure(code="overloaded", message="")
    for _ in range(7):
        observed.call([ScoreRequest(prompt="p", completions=("x",))], [ScoreResponse(results=(refused,))], 0.0)
    values = {reading.metric: reading.value for reading in read_seen(observed.take())}
    assert (values["rmray_batches"], values["rmray_batched_requests"], values["rmray_requests"]) == (1, 2, 7)


def test_nothing_seen_is_nothing_told():
    assert list(read_seen(Seen())) == []


def test_an_http_answer_is_counted_by_route_and_status():
    requests, seconds = read_answer("/v1/rewards", 503, 0.5)
    assert (requests.value, requests.labels) == (1, {"route": "/v1/rewards", "status": "503"})
    assert (seconds.value, seconds.labels) == (0.5, {"route": "/v1/rewards"})
    assert {r.metric for r in (requests, seconds)} <= set(GATEWAY)


@pytest.mark.parametrize(("name", "attempt"), [("helpful", 0), ("helpful", 2), ("a-b.c", 0)])
def test_the_name_is_read_off_the_app(name, attempt):
    version = "e3a65b147c04eca2"
    assert name_of_app(app_name(name, version, attempt), version) == name
    assert name_of_app("another", version) == "another"


def test_docs_name_the_metrics_of_the_code_with_their_kinds_and_labels():
    rows = re.findall(
        r"^\| `(ray_rmray_\w+)` \| (\w+)[^|]*\| ([^|]*)\|", (ROOT / "docs/monitoring.md").read_text(), re.M
    )
    found = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert found == {exported_name(name, metric): (metric.kind, metric.labels) for name, metric in TABLES.items()}


def test_docs_tell_what_to_do_on_each_alert():
    told = re.findall(r"^\| `(Rmray\w+)` \|", (ROOT / "docs/monitoring.md").read_text(), re.M)
    assert told == [rule["alert"] for rule in alerts()]


def test_dashboard_and_alerts_ask_for_metrics_that_there_are_and_show_all():
    ours = {name for name in used_metrics() if name.startswith("ray_rmray_")}
    assert ours == EXPORTED


def test_the_dashboard_is_one_that_grafana_takes():
    shown = dashboard()
    ids = [panel["id"] for panel in shown["panels"]]
    assert len(ids) == len(set(ids))
    places = set()
    for panel in shown["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & places
        places |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"]
        for target in [panel, *panel["targets"]]:
            assert target["datasource"] == {"type": "prometheus", "uid": "$datasource"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = [v["name"] for v in shown["templating"]["list"]]
    assert variables == ["datasource", "model", "version"]
    used = set(re.findall(r"\$(\w+)", json.dumps([shown["panels"], shown["templating"]])))
    assert used <= {*variables, "__rate_interval", "__all"}


def test_alerts_say_how_bad_and_what():
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert "$value" in rule["annotations"]["summary"]
    config = yaml.safe_load((ROOT / "cluster" / "prometheus.yml").read_text())
    assert [(ROOT / "cluster" / name).is_file() for name in config["rule_files"]] == [True]
