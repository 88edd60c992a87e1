"""RewardClient over a transport that does what it is told: order, retries, one deadline, no default reward."""

import asyncio
import pickle
import threading
from dataclasses import fields, replace

import pytest

from rmray.client import ItemError, RewardClient
from rmray.client.calls import split_calls
from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.models.scorer import score_requests
from rmray.retry import Backoff, TryAgainError
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult
from tests.fakes import ArithmeticScorer


def model(version="v1"):
    return ServedModel(
        name="m",
        app=f"m-{version}",
        kind="scalar",
        model_version=version,
        reference="ref",
        tokenizer_hash="hash",
        max_length=100,
    )


class Time:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now_s, self.slept_s = 0.0, []

    def clock(self):
        return self.now_s

    async def sleep(self, delay_s):
        self.slept_s.append(delay_s)
        self.now_s += delay_s


class Scripted:
    """Takes one entry of the script a call: an exception to raise, a function of the requests, or None to score."""

    def __init__(self, *script, models=("v1",), canary=None):
        self.script, self.models, self.canary = list(script), list(models), canary
        self.sent, self.resolved = [], []

    async def resolve(self, *, refresh, timeout_s):
        self.resolved.append(refresh)
        if len(self.resolved) > 1 and refresh and len(self.models) > 1:
            self.models.pop(0)
        shared = {"canary": model(self.canary), "share": 0.5} if self.canary else {}
        return replace(model(self.models[0]), **shared)

    async def send(self, model, requests, *, timeout_s):
        self.sent.append((model.model_version, [r.id for r in requests]))
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        return step(requests) if step else self.answer(model, requests)

    def answer(self, model, requests):
        return score_requests(ArithmeticScorer(version=model.model_version), requests)

    def close(self):
        pass


def client(transport, time=None, **options):
    time = time or Time()
    options = {"timeout_s": 10.0, **options}
    return RewardClient(transport, clock=time.clock, sleep=time.sleep, jitter=lambda: 1.0, **options)


def requests(n, k=2):
    return [ScoreRequest(prompt="p", completions=("x" * (i + 1),) * k, id=str(i)) for i in range(n)]


def lost():
    return TryAgainError("replica_lost", "died")


def raws(responses):
    return [[r.code if isinstance(r, ScoreFailure) else r.raw for r in x.results] for x in responses]


def test_groups_are_never_cut_and_calls_keep_to_their_size():
    assert split_calls(requests(5), 4, 999) == [range(2), range(2, 4), range(4, 5)]
    assert split_calls([*requests(1, k=9), *requests(1)], 4, 999) == [range(1), range(1, 2)]
    assert split_calls([], 4, 999) == []
    # Three tokens each, as guessed from the characters: one of the prompt and one of each completion.
    assert split_calls(requests(3), 999, 6) == [range(2), range(2, 3)]
    assert split_calls(requests(2), 999, 1) == [range(1), range(1, 2)]


def test_batches_are_split_and_rejoined_in_order():
    transport = Scripted()
    responses = client(transport, max_call_completions=4).score(requests(9))
    assert [r.id for r in responses] == [str(i) for i in range(9)]
    assert raws(responses) == [[i + 1.0] * 2 for i in range(9)]
    assert sorted(ids for _, ids in transport.sent) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8"]]


class TellsOfCompany(ArithmeticScorer):
    """Notices where a second thread enters the forward while one is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.met = 0, threading.Event()

    def forward(self, batch):
        self.inside += 1
        if self.inside > 1:
            self.met.set()
        self.met.wait(timeout=0.05)
        try:
            return super().forward(batch)
        finally:
            self.inside -= 1


def test_in_one_process_a_scorer_runs_one_forward_at_a_time():
    scorer = TellsOfCompany()
    with RewardClient.in_process(scorer, max_call_completions=4) as c:
        assert raws(c.score(requests(9))) == [[i + 1.0] * 2 for i in range(9)]
    assert not scorer.met.is_set()


class Hanging(ArithmeticScorer):
    """Its forward waits for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered, self.batches = threading.Event(), threading.Event(), 0

    def forward(self, batch):
        self.batches += 1
        self.entered.set()
        assert self.gate.wait(10)
        return super().forward(batch)


def test_in_one_process_the_deadline_holds_and_what_is_given_up_costs_no_forward():
    scorer = Hanging()
    with RewardClient.in_process(scorer) as c:
        for _ in range(2):  # the first hangs in its forward, the second waits for its turn
            with pytest.raises(RequestError) as caught:
                c.score(requests(1), timeout_s=0.05)
            assert caught.value.code == "deadline"
        assert scorer.entered.is_set()
        scorer.gate.set()
        assert raws(c.score(requests(1))) == [[1.0, 1.0]]
    assert scorer.batches == 2


def test_a_group_gives_results_or_raises_and_never_a_default():
    scorer = ArithmeticScorer(max_length=10)
    with RewardClient.in_process(scorer) as c:
        assert [r.reward for r in c.score_group("p", ["a", "bb"])] == [1.0, 2.0]
        mixed = c.score_group("p", ["a", "b" * 20, ""], errors="return")
        assert [getattr(r, "code", "scored") for r in mixed] == ["scored", "over_length", "blank_completion"]
        with pytest.raises(ItemError, match="2 of 3 completions") as caught:
            c.score_group("p", ["a", "b" * 20, ""])
    assert (caught.value.code, caught.value.results) == ("over_length", tuple(mixed))
    assert pickle.loads(pickle.dumps(caught.value)).results == tuple(mixed)


def test_the_fields_of_a_group_reach_the_request():
    seen = []

    def keep(sent):
        seen.extend(sent)
        return score_requests(ArithmeticScorer(), sent)

    tools = ({"name": "f"},)
    client(Scripted(keep)).score_group(
        "p", ["a", "b"], finished=[True, False], tokenizer_hash="h", tools=tools, truncate=True, id="i"
    )
    assert seen == [
        ScoreRequest(
            prompt="p",
            completions=("a", "b"),
            finished=(True, False),
            tokenizer_hash="h",
            tools=tools,
            truncate=True,
            id="i",
        )
    ]


def test_nothing_to_score():
    assert client(Scripted()).score([]) == []
    with pytest.raises(RequestError) as caught:
        client(Scripted()).score_group("p", [])
    assert caught.value.code == "nothing_to_score"


def test_a_lost_replica_is_asked_again_with_growing_waits():
    time, transport = Time(), Scripted(lost(), lost(), lost())
    responses = client(transport, time, backoff=Backoff(first_s=0.1, growth=2, most_s=0.3)).score(requests(1))
    assert raws(responses) == [[1.0, 1.0]]
    assert time.slept_s == pytest.approx([0.1, 0.2, 0.3])


def test_retries_end_with_the_one_deadline():
    time, transport = Time(), Scripted(*[lost() for _ in range(99)])
    with pytest.raises(TryAgainError) as caught:
        client(transport, time, backoff=Backoff(first_s=1, growth=1), timeout_s=3.5).score(requests(1))
    assert caught.value.code == "replica_lost"
    assert time.now_s <= 3.5
    assert len(transport.sent) == 4


def test_a_call_may_have_its_own_deadline():
    time = Time()
    with pytest.raises(TryAgainError):
        client(Scripted(*[lost() for _ in range(99)]), time).score(requests(1), timeout_s=0.5)
    assert time.now_s < 0.5


def test_only_what_was_refused_is_sent_again_after_the_time_asked_for():
    def second_refused(sent):
        refusal = ScoreFailure(code="overloaded", message="full", retry_after_s=1.5)
        first, second, third = score_requests(ArithmeticScorer(), sent)
        return [first, ScoreResponse(results=(refusal,) * 2, id=second.id), third]

    time, transport = Time(), Scripted(second_refused)
    assert raws(client(transport, time).score(requests(3))) == [[1.0] * 2, [2.0] * 2, [3.0] * 2]
    assert [ids for _, ids in transport.sent] == [["0", "1", "2"], ["1"]]
    assert time.slept_s[0] >= 1.5


def test_a_refusal_to_the_last_stands_in_its_place():
    def refused(sent):
        return [ScoreResponse(results=(ScoreFailure(code="overloaded", message=""),) * 2, id=r.id) for r in sent]

    responses = client(Scripted(*[refused] * 99)).score(requests(2))
    assert raws(responses) == [["overloaded"] * 2] * 2


def test_final_failures_are_not_sent_again():
    failure = ScoreFailure(code="forward_failed", message="")
    transport = Scripted(lambda sent: [ScoreResponse(results=(failure,) * 2, id=r.id) for r in sent])
    assert raws(client(transport).score(requests(1))) == [["forward_failed"] * 2]
    assert len(transport.sent) == 1
    with pytest.raises(RequestError, match="no such"):
        client(Scripted(RequestError("unknown_model", "no such"))).score(requests(1))


def test_a_version_that_goes_away_starts_the_whole_call_again():
    transport = Scripted(None, TryAgainError("stale", "gone"), models=("v1", "v2"))
    responses = client(transport, max_call_completions=2, max_calls=1).score(requests(3))
    # The first part had its answer from v1 already: no answer mixes versions.
    assert {r.model_version for x in responses for r in x.results} == {"v2"}
    assert transport.resolved == [False, True]
    assert transport.sent[-3:] == [("v2", ["0"]), ("v2", ["1"]), ("v2", ["2"])]


@pytest.mark.parametrize(
    "mixed_up",
    [
        lambda responses: responses[:-1],
        lambda responses: responses[::-1],
        lambda responses: [ScoreResponse(results=r.results[:1], id=r.id) for r in responses],
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(mixed_up):
    transport = Scripted(lambda sent: mixed_up(score_requests(ArithmeticScorer(), sent)))
    with pytest.raises(RequestError) as caught:
        client(transport).score(requests(2))
    assert caught.value.code == "bad_response"


def test_the_first_call_that_fails_cancels_the_others():
    class Slow(Scripted):
        cancelled = 0

        async def send(self, model, requests, *, timeout_s):
            if requests[0].id == "1":
                raise RequestError("unknown_model", "gone")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    transport = Slow()
    with pytest.raises(RequestError):
        client(transport, max_call_completions=1).score(requests(4))
    assert transport.cancelled == 3


def test_sync_calls_work_inside_a_running_loop():
    async def main():
        return RewardClient.in_process(ArithmeticScorer()).score(requests(1))

    assert raws(asyncio.run(main())) == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("faults", "asked"),
    [
        ([], ["v2"]),
        ([RequestError("deadline", "it waits for a replica")], ["v2", "v1"]),
        ([lost()] * 10, ["v2"] * 10 + ["v1"]),
        ([lambda requests: [refused(r, "overloaded") for r in requests]] * 10, ["v2"] * 10 + ["v1"]),
        ([lambda requests: [refused(r, "deadline") for r in requests]], ["v2", "v1"]),
    ],
)
def test_what_a_canary_does_not_answer_in_half_of_the_time_the_version_beside_it_does(faults, asked):
    transport, time = Scripted(*faults, canary="v2"), Time()
    # With a wait of 0.5 s after each, ten are over half of ten seconds.
    steady = Backoff(first_s=0.5, growth=1.0)
    (response,) = client(transport, time, draw=lambda: 0.4, backoff=steady).score(requests(1))
    assert [version for version, _ in transport.sent] == asked
    assert {r.model_version for r in response.results} == {asked[-1]}
    assert time.now_s <= 5.0


def test_a_canarys_own_faults_are_told():
    transport = Scripted(lambda requests: [refused(r, "forward_failed") for r in requests], canary="v2")
    assert raws(client(transport, draw=lambda: 0.4).score(requests(1, k=1))) == [["forward_failed"]]
    assert [version for version, _ in transport.sent] == ["v2"]


def refused(request, code):
    failure = ScoreFailure(code=code, message="")
    return ScoreResponse(results=(failure,) * len(request.completions), id=request.id)


def test_a_result_pickles_with_every_field():
    names = [field.name for field in fields(ScoreResult)]
    whole = ScoreResult(**{name: (number,) for number, name in enumerate(names)})  # another value in each
    copy = pickle.loads(pickle.dumps(whole))
    assert copy == whole
    assert [getattr(copy, name) for name in names] == [(number,) for number in range(len(names))]


def test_a_client_pickles_as_its_settings():
    with client(Scripted(), max_call_tokens=4, max_calls=2) as c:
        c.score(requests(1))
        copy = pickle.loads(pickle.dumps(c))
    assert raws(copy.score(requests(3))) == [[n, n] for n in (1.0, 2.0, 3.0)]
    assert len(copy._transport.sent) == 1 + 3
    assert copy._max_calls == 2


def test_importing_the_client_loads_neither_torch_nor_ray():
    import subprocess
    import sys

    code = "import rmray.client, sys; sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
