"""Rollouts without Ray: groups, advantages, what is counted, and what the report says."""

import asyncio
import json
import math

import numpy as np
import pytest

from rmray.client import RewardClient
from rmray.client.rollouts import (
    RolloutPrompt,
    RolloutSettings,
    RolloutStats,
    format_report,
    group_advantages,
    merge_stats,
    plan_groups,
    read_rollout_prompts,
    roll_out,
)
from rmray.errors import DataError, RequestError
from tests.fakes import ArithmeticScorer

PROMPTS = [RolloutPrompt(f"p{i}", tuple("x" * (i + k + 1) for k in range(5))) for i in range(4)]


def settings(**fields):
    return RolloutSettings(**{"steps": 3, "groups_per_step": 4, "group_size": 3, **fields})


def test_groups_take_k_different_completions_of_one_prompt():
    groups = plan_groups(PROMPTS, settings(), np.random.default_rng(0))
    assert len(groups) == 4
    for group in groups:
        source = next(p for p in PROMPTS if p.prompt == group.prompt)
        assert len(set(group.completions)) == 3
        assert set(group.completions) <= set(source.completions)


def test_a_prompt_with_too_few_completions_repeats_some():
    (group,) = plan_groups([RolloutPrompt("p", ("a",))], settings(groups_per_step=1), np.random.default_rng(0))
    assert group.completions == ("a", "a", "a")


def test_advantages_are_whitened_in_the_group():
    assert group_advantages([1, 2, 3, 4]) == pytest.approx([-1.3416, -0.4472, 0.4472, 1.3416], abs=1e-4)
    assert list(group_advantages([2.0, 2.0])) == [0.0, 0.0]
    assert group_advantages([]).size == 0


def test_a_run_counts_every_completion():
    with RewardClient.in_process(ArithmeticScorer(max_length=8)) as client:
        stats = asyncio.run(roll_out(client, PROMPTS, settings(), seed=1))
    assert len(stats.latencies_s) == 12
    assert len(stats.rewards) + stats.failures.total() == 36
    # p3 with 7 or 8 characters is over the scorer's limit: counted by its code, and without a reward.
    assert set(stats.failures) == {"over_length"}
    report = merge_stats([stats, stats], took_s=2.0)
    assert report.num_completions == 72
    assert report.num_failed == stats.failures.total() * 2
    assert report.completions_per_s == len(stats.rewards)
    assert report.reward_mean == pytest.approx(np.mean(stats.rewards))


def test_a_group_that_fails_as_a_whole_is_counted_and_the_others_go_on():
    class Late(RewardClient):
        calls = 0

        async def ascore_group(self, *arguments, **fields):
            self.calls += 1
            if self.calls == 2:
                raise RequestError("deadline", "no answer within 1 s")
            return await super().ascore_group(*arguments, **fields)

    with Late.in_process(ArithmeticScorer()) as client:
        stats = asyncio.run(roll_out(client, PROMPTS, settings()))
    assert stats.failures == {"deadline": 3}
    assert (len(stats.latencies_s), len(stats.rewards)) == (12, 33)


def test_the_same_seed_asks_the_same():
    with RewardClient.in_process(ArithmeticScorer()) as client:
        one, two = (asyncio.run(roll_out(client, PROMPTS, settings(), seed=7)) for _ in range(2))
    assert sorted(one.rewards) == sorted(two.rewards)


def test_latencies_are_percentiles_over_all_actors():
    stats = [RolloutStats(latencies_s=[i / 100 for i in range(0, 101, 2)], rewards=[1.0])]
    stats += [RolloutStats(latencies_s=[i / 100 for i in range(1, 101, 2)], rewards=[3.0])]
    report = merge_stats(stats, took_s=4.0)
    assert (report.latency_median_s, report.latency_p95_s, report.latency_p99_s) == pytest.approx((0.5, 0.95, 0.99))
    assert (report.reward_mean, report.completions_per_s) == (2.0, 0.5)
    text = format_report(report)
    assert "median 500.0 ms, p95 950.0 ms, p99 990.0 ms" in text
    assert "mean reward   2.0000" in text


def test_a_run_without_any_reward_has_none():
    report = merge_stats([RolloutStats()], took_s=1.0)
    assert (report.reward_mean, report.advantage_std, report.completions_per_s) == (None, None, 0.0)
    assert "none" in format_report(report)
    assert not math.isnan(report.latency_p99_s)


def test_prompts_come_from_completions_or_comparisons(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "p", "completions": ["a", "b", "c"]}, {"prompt": "q", "chosen": "d", "rejected": "e"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_rollout_prompts(str(file))
    assert first == RolloutPrompt("p", ("a", "b", "c"))
    assert sorted(second.completions) == ["d", "e"]


def test_a_row_that_cannot_be_rolled_out_is_named(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "p", "completions": ["a"]}\n{"prompt": "p"}\n')
    with pytest.raises(DataError, match=r"prompts.jsonl:2: .*"):
        read_rollout_prompts(str(file))
