"""Replicas follow the load on a real Serve, to none and back; what is accepted is answered, whatever goes down."""

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from rmray.client import RewardClient
from tests.serving.app.versions import QUICK, deploy, gated, raws, running_replicas
from tests.waiting import wait_for

FAST = {
    "metrics_interval_s": 0.2,
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.5,
    "downscale_to_zero_delay_s": 0.5,
    "drain_s": 0.0,
}


def test_none_where_nobody_asks_one_for_the_first_call_and_more_for_a_load(url, tmp_path):
    from rmray.serving.app import undeploy

    factory = partial(gated, str(tmp_path))
    deploy("growing", "v1", factory, min_replicas=0, max_replicas=2, target_tokens=100, max_ongoing_requests=2, **FAST)
    try:
        wait_for(lambda: running_replicas("growing") == [], timeout_s=40, what="no replica")
        (tmp_path / "open").touch()
        body = {"model": "growing", "items": [{"prompt": "p", "completions": ["by http"]}], "timeout_s": 60}
        with RewardClient.connect("growing", timeout_s=60) as client, ThreadPoolExecutor(9) as callers:
            by_http = callers.submit(httpx.post, f"{url}/v1/rewards", json=body, timeout=60)
            assert raws(client.score_group("p", ["by handle"])) == [9.0]
            assert by_http.result().json()["results"][0]["completions"][0]["raw"] == 7.0

            (tmp_path / "open").unlink()
            calls = [callers.submit(client.score_group, "p", ["x" * 50]) for _ in range(8)]
            wait_for(lambda: len(running_replicas("growing")) == 2, timeout_s=40, what="two replicas")
            (tmp_path / "open").touch()
            assert [raws(call.result()) for call in calls] == [[50.0]] * 8
    finally:
        (tmp_path / "open").touch()
        undeploy("growing")


@pytest.mark.usefixtures("url")
def test_calls_of_one_process_wait_in_the_replica_and_not_in_serves_handle(tmp_path):
    """Over `max_ongoing_requests` a handle looks for room at growing intervals, and the replica has nothing to do."""
    from ray import serve

    from rmray.serving.app import undeploy
    from rmray.serving.app.autoscaling import ACCEPTED_TOKENS

    calls, prompt, completion = 300, "p", "x" * 50
    app = deploy("full", "v1", partial(gated, str(tmp_path))).model.app
    try:
        replica = serve.get_deployment_handle("scorer", app)
        with RewardClient.connect("full", timeout_s=60) as client, ThreadPoolExecutor(1) as caller:

            async def ask_all():
                return await asyncio.gather(*(client.ascore_group(prompt, [completion]) for _ in range(calls)))

            answers = caller.submit(asyncio.run, ask_all())

            def accepted_all():
                told = replica.record_autoscaling_stats.remote().result(timeout_s=40)
                return told[ACCEPTED_TOKENS] >= calls * len(completion)

            wait_for(accepted_all, timeout_s=40, what="all calls in the replica")
            (tmp_path / "open").touch()
            assert [raws(results) for results in answers.result()] == [[50.0]] * calls
    finally:
        (tmp_path / "open").touch()
        undeploy("full")


@pytest.mark.usefixtures("url")
def test_sigterm_lets_what_was_accepted_be_answered(tmp_path):
    """`rmray serve` in the foreground, with a call in the forward when it is told to stop."""
    from rmray.serving.app import serve, served_models
    from rmray.serving.app.recipes import Recipe

    ready, answers = threading.Event(), []

    def tell(line):
        if line.startswith("serving until"):
            ready.set()

    def call_and_stop():
        assert ready.wait(60)
        with RewardClient.connect("ending", timeout_s=60) as client, ThreadPoolExecutor(1) as caller:
            call = caller.submit(client.score_group, "p", ["abcd"])
            wait_for((tmp_path / "entered").exists, timeout_s=40, what="a forward that has begun")
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: "ending" not in served_models(), timeout_s=40, what="a name taken out of service")
            (tmp_path / "open").touch()
            answers.extend(raws(call.result()))

    caller = threading.Thread(target=call_and_stop)
    caller.start()
    recipe = Recipe(partial(gated, str(tmp_path), "v1"), "v1")
    told = serve(lambda options: recipe, name="ending", blocking=True, tell=tell, **QUICK)
    caller.join()
    assert (told["model_version"], answers) == ("v1", [4.0])
