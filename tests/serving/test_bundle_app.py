"""A real bundle through the whole path: its goldens by handle and HTTP, damaged copies refused, `rmray serve`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import httpx
import pytest

from rmray.client import RewardClient
from rmray.errors import BundleError
from rmray.models.bundle.goldens import load_goldens
from rmray.models.bundle.request_json import request_to_json
from rmray.schema import ScoreRequest, TokenIds
from tests.serving.live_metrics import load_the_app, metrics_of_the_node
from tests.serving.shutdown import shut_serve_down
from tests.serving.test_metrics import used_metrics

HTTP_FIELDS = ("prompt", "completions", "finished", "tools")
TOLERANCE = 1e-5  # fp32 on the same kind of device: the goldens' own


@pytest.fixture(scope="module")
def deployed(ray_cluster, bundle_dir):
    from rmray.serving.app import deploy, undeploy
    from rmray.serving.app.cluster import ensure_http, free_port

    ensure_http(free_port("127.0.0.1"))
    yield deploy(bundle_dir, name="tiny", cpus=1, drain_s=0.0, start_timeout_s=120)
    undeploy("tiny")
    shut_serve_down()


@pytest.fixture(scope="module", autouse=True)
def traffic(deployed):
    """What the metrics at the end of this module are of: scored, refused and unfinished completions, by both ways."""
    load_the_app(deployed)


def close_to(scores):
    return pytest.approx(scores, abs=TOLERANCE)


def test_goldens_by_handle(deployed, bundle_dir):
    goldens = load_goldens(bundle_dir).items
    with RewardClient.connect("tiny") as client:
        model = client.model()
        assert model == deployed.model
        # One call, one batch: every golden beside the others, and each alone.
        together = client.score([g.request for g in goldens])
        alone = [client.score([g.request])[0] for g in goldens]
    for golden, *responses in zip(goldens, together, alone, strict=True):
        for response in responses:
            assert [r.raw for r in response.results] == close_to(golden.values)
            assert {r.model_version for r in response.results} == {model.model_version}


def test_goldens_as_token_ids(deployed, bundle_dir):
    manifest = json.loads((bundle_dir / "rmray.json").read_text())
    requests, scores = [], []
    for golden in load_goldens(bundle_dir).items:
        for ids, n, finished in zip(golden.token_ids, golden.prompt_lens, golden.request.finished, strict=True):
            requests.append(
                ScoreRequest(
                    prompt=TokenIds(ids[:n]),
                    completions=(TokenIds(ids[n:]),),
                    finished=(finished,),
                    tokenizer_hash=manifest["tokenizer_hash"],
                )
            )
        scores += golden.values
    with RewardClient.connect("tiny") as client:
        assert [r.results[0].raw for r in client.score(requests)] == close_to(scores)
        refused = client.score_group(requests[0].prompt, requests[0].completions, errors="return")
    assert refused[0].code == "tokenizer_mismatch"


def test_goldens_by_http(deployed, bundle_dir):
    goldens = load_goldens(bundle_dir).items
    items = [{k: v for k, v in request_to_json(g.request).items() if k in HTTP_FIELDS} for g in goldens]
    answer = httpx.post(f"{deployed.url}/v1/rewards", json={"items": items}, timeout=60)
    assert answer.status_code == 200
    for golden, result in zip(goldens, answer.json()["results"], strict=True):
        assert [c["raw"] for c in result["completions"]] == close_to(golden.values)


def test_over_length_by_http_is_422_or_truncated_when_asked(deployed):
    item = {"prompt": "What is two plus three? " * 200, "completions": ["It is five."]}
    body = {"items": [item]}
    refused = httpx.post(f"{deployed.url}/v1/rewards", json=body, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "over_length")
    cut = httpx.post(f"{deployed.url}/v1/rewards", json={"items": [{**item, "truncate": True}]}, timeout=60)
    assert cut.status_code == 200
    assert cut.json()["results"][0]["completions"][0]["truncated"] is True


def test_a_damaged_bundle_never_gets_the_alias(deployed, bundle_dir, tmp_path):
    from rmray.serving.app import deploy, served_models

    copy = tmp_path / "copy"
    shutil.copytree(bundle_dir, copy)
    weights = next(copy.glob("*.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 0x40
    weights.write_bytes(raw)
    manifest = json.loads((copy / "rmray.json").read_text())
    manifest["model_version"] = "0" * len(manifest["model_version"])
    (copy / "rmray.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="does not start"):
        deploy(copy, name="tiny", drain_s=0.0, start_timeout_s=120)
    assert served_models()["tiny"] == deployed.model
    with pytest.raises(BundleError, match="not a bundle"):
        deploy(tmp_path, name="tiny")
    with RewardClient.connect("tiny") as client:
        assert client.score_group("The quick brown fox ", ["rests."])[0].model_version == deployed.model.model_version


def test_rmray_serve_stays_until_told_to_stop(bundle_dir, tmp_path):
    """With no cluster to join: a local one, answers by HTTP, SIGTERM takes everything down, exit code 0."""
    command = [sys.executable, "-m", "rmray", "serve", "--bundle", str(bundle_dir), "--name", "tiny", "--json"]
    env = {**os.environ, "RAY_ADDRESS": "local", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "serving until interrupted" in line:
                    break
            url = re.search(r"by HTTP: +(\S+)", "".join(lines)).group(1)
            body = {"items": [{"prompt": "The quick brown fox ", "completions": ["rests.", "jumps."]}]}
            answer = httpx.post(url, json=body, timeout=60)
            assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0
    told = json.loads(rest.strip().splitlines()[-1])
    version = answer.json()["results"][0]["completions"][0]["model_version"]
    assert (told["name"], told["model_version"]) == ("tiny", version)


def test_a_running_app_has_every_metric_that_the_dashboard_and_the_alerts_ask_for(deployed):
    """Of those that only faults bring about none is there: padding, and a gateway that had to ask again."""
    wanted = used_metrics() - {"ray_rmray_tokens_padding_total", "ray_rmray_http_retries_total"}
    assert metrics_of_the_node(wanted) >= wanted
