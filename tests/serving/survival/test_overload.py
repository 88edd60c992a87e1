"""Ten times more than a replica can do: answers say so and when to come back, memory stays, and then it is over."""

import asyncio
import time
from collections import Counter

import httpx
import pytest

from rmray.client import RewardClient
from tests.serving.survival.replicas import app_replicas, replicas
from tests.waiting import wait_for

PACE = 2_000
"""Tokens/s of the scorer."""
CALL_TOKENS = 400
TOO_MUCH_PER_S = 10 * PACE / CALL_TOKENS
GROWTH_MIB = 150.0
"""What a replica or the gateway may grow by."""


@pytest.mark.parametrize("seconds", [4.0, pytest.param(60.0, marks=pytest.mark.chaos)])
def test_ten_times_too_much_is_refused_with_a_time_and_over_at_once(deploy_paced, capsys, seconds):
    deployed = deploy_paced(
        "flooded", "v1", tokens_per_s=PACE, max_batch_tokens=400, max_queued_tokens=4_000, max_ongoing_requests=200
    )
    body = {"model": "flooded", "timeout_s": 10.0, "items": [{"prompt": "p", "completions": ["x" * CALL_TOKENS]}]}
    with RewardClient.connect("flooded", timeout_s=30) as client:
        client.score_group("p", ["a"])
        before = memory("flooded")
        statuses, most = asyncio.run(flood(deployed.url, body, seconds, lambda: memory("flooded")))
        start_s = time.monotonic()
        assert [r.raw for r in client.score_group("p", ["abc"])] == [4.0]
        first_s = time.monotonic() - start_s
        start_s = time.monotonic()
        wait_for(lambda: took_s(client) < 0.2, timeout_s=30, what="quick answers again")
        quick_s = time.monotonic() - start_s
    assert set(statuses) <= {200, 503}, statuses
    assert statuses[200] > 0
    # Nine of ten where the flood comes on time; a slow machine takes it in over longer, and more gets through.
    assert statuses[503] > statuses[200]
    assert {who: most[who] - before[who] for who in before if most[who] - before[who] > GROWTH_MIB} == {}
    with capsys.disabled():
        print(f"\n{dict(statuses)} in {seconds:g} s, first answer after {first_s:.1f} s, quick after {quick_s:.1f} s")


async def flood(url, body, seconds, memory):
    """Send at ten times the pace, whatever comes back; the answers by status, and the most memory seen."""
    statuses, most = Counter(), memory()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60.0, limits=limits, trust_env=False) as http:

        async def send():
            answer = await http.post(f"{url}/v1/rewards", json=body)
            statuses[answer.status_code] += 1
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1

        start_s, tasks = time.monotonic(), []
        while (now_s := time.monotonic() - start_s) < seconds:
            due = int(now_s * TOO_MUCH_PER_S)
            tasks += [asyncio.create_task(send()) for _ in range(due - len(tasks))]
            most = {who: max(mib, most[who]) for who, mib in memory().items()}
            await asyncio.sleep(0.2)
        await asyncio.gather(*tasks)
    return statuses, most


def memory(name):
    """MiB of each process that calls go through."""
    found = {"gateway": app_replicas("rmray-gateway", "gateway"), "scorer": replicas(name)}
    return {who: max(r.memory_mib for r in running) for who, running in found.items()}


def took_s(client):
    start_s = time.monotonic()
    client.score_group("p", ["abc"])
    return time.monotonic() - start_s
