"""Load on a served bundle, and the metrics that its node then has. Used by the tests of a running app."""

import re
import time

import httpx

from rmray.client import RewardClient
from rmray.schema import ScoreRequest
from rmray.serving.window import MIN_REWARDS

GROUP = 8


def load_the_app(deployed):
    """By handle and HTTP, enough rewards to tell drift; refused and unfinished completions among them."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    requests = [
        ScoreRequest(
            prompt=" ".join(words[: 2 + i % 7]) + " ",
            completions=tuple(f"{words[(i + k) % 9]} {words[i % 9]}." for k in range(GROUP)),
            finished=(True,) * (GROUP - 1) + (i % 3 > 0,),
        )
        for i in range(MIN_REWARDS // GROUP + 1)
    ]
    with RewardClient.connect(deployed.model.name) as client:
        client.score(requests)
        client.score_group("Too long: ", ["and on " * 5000, "no."], errors="return")
    body = {"items": [{"prompt": "The quick ", "completions": ["fox.", "dog."]}]}
    assert httpx.post(f"{deployed.url}/v1/rewards", json=body, timeout=60).status_code == 200


def node_endpoint():
    """host:port where this machine's Ray has its metrics."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def metrics_of_the_node(wanted, *, timeout_s=60):
    """Names at the endpoint, a histogram's without its `_bucket`; asked again until all of `wanted` are among them."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        text = httpx.get(f"http://{node_endpoint()}/metrics", timeout=30).text
        found = {name.removesuffix("_bucket") for name in re.findall(r"^(ray_\w+)\{", text, re.M)}
        if found >= wanted or time.monotonic() > deadline_s:
            return found
        time.sleep(1.0)  # Ray tells its endpoint every ten seconds
