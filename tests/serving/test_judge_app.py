"""A judge on a local Ray: the tiny language model behind a name, by handle and HTTP, as `evaluate` would open it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from rmray.client import RewardClient
from rmray.models.judge import open_judge
from rmray.schema import ScoreRequest
from tests.serving.shutdown import shut_serve_down

COMPLETIONS = ("The answer is five.", "Because.", "Please ask again.")


def test_a_judge_is_served_by_handle_and_http(ray_cluster: None, tiny_base: Path, tmp_path: Path) -> None:
    from rmray.serving.app import undeploy
    from rmray.serving.app.cluster import ensure_http, free_port
    from rmray.serving.app.deploy import deploy_recipe
    from rmray.serving.app.recipes import judge_recipe

    path = tmp_path / "judge.yaml"
    path.write_text(f"judge: {{backend: transformers, model: {tiny_base}, min_verdict_mass: 0}}\n")
    judge = open_judge(path)
    [expected] = judge.score([ScoreRequest(prompt="What is two plus three?", completions=COMPLETIONS)])
    ensure_http(free_port("127.0.0.1"))
    try:
        deployed = deploy_recipe(judge_recipe(path, 0), name="judge", cpus=1, drain_s=0.0, start_timeout_s=120)
        assert (deployed.model.kind, deployed.model.reference) == ("judge", "none")
        assert deployed.model.model_version == judge.info.model_version
        close = pytest.approx([r.raw for r in expected.results], abs=1e-4)  # fp32, other batches
        with RewardClient.connect("judge") as client:
            assert [r.raw for r in client.score_group("What is two plus three?", COMPLETIONS)] == close
            [alone] = client.score_group("What is two plus three?", COMPLETIONS[:1], errors="return")
            assert alone.code == "no_opponent"
        body = {"items": [{"prompt": "What is two plus three?", "completions": list(COMPLETIONS)}]}
        answer = httpx.post(f"{deployed.url}/v1/rewards", json=body, timeout=60)
        assert [c["reward"] for c in answer.json()["results"][0]["completions"]] == close
        undeploy("judge")
    finally:
        shut_serve_down()
