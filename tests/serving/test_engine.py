"""The engine with a fake scorer: order, batches, faults alone, cancellation, back-pressure, deadlines, drain."""

import asyncio
import threading

import numpy as np
import pytest

from rmray.errors import RequestError
from rmray.schema import ScoreRequest, ScoreResult, TokenIds, estimated_tokens
from rmray.serving.engine import EngineLimits, ScoringEngine
from tests.fakes import ArithmeticScorer


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class GatedScorer(ArithmeticScorer):
    """Its forward waits for the gate and writes down the batches and its thread."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.batches, self.threads = [], set()

    def forward(self, batch):
        self.threads.add(threading.current_thread().name)
        self.batches.append([e.request.id for e in batch])
        self.entered.release()
        assert self.gate.wait(10)
        return super().forward(batch)

    async def until_forward(self):
        assert await asyncio.to_thread(self.entered.acquire, True, 10)


def request(id="", prompt="p", completions=("a", "bb"), **fields):
    return ScoreRequest(prompt=prompt, completions=tuple(completions), id=id, **fields)


def run(scorer, scenario, *, limits=None, clock=None):
    """Run `scenario(engine)` on a started engine, and close it."""

    async def main():
        engine = ScoringEngine(scorer, limits, **({"clock": clock} if clock else {}))
        engine.start()
        try:
            return await asyncio.wait_for(scenario(engine), 20)
        finally:
            if isinstance(scorer, GatedScorer):
                scorer.gate.set()
            await engine.aclose()

    return asyncio.run(main())


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def raws(response):
    return [r.raw if isinstance(r, ScoreResult) else r.code for r in response.results]


def test_scores_and_ids_come_back_in_order():
    requests = [request(str(i), completions=["x" * (i + 1), "y" * (i + 5)]) for i in range(20)]
    responses = run(ArithmeticScorer(), lambda e: e.score(requests))
    assert [r.id for r in responses] == [str(i) for i in range(20)]
    assert [raws(r) for r in responses] == [[i + 1.0, i + 5.0] for i in range(20)]


def test_what_waits_while_the_device_is_busy_makes_the_next_batch_on_one_thread():
    scorer = GatedScorer()

    async def scenario(engine):
        first = asyncio.create_task(engine.score([request("first")]))
        await scorer.until_forward()
        others = [asyncio.create_task(engine.score([request(str(i))])) for i in range(5)]
        await until(lambda: engine.num_waiting == 5)
        scorer.gate.set()
        await asyncio.gather(first, *others)

    run(scorer, scenario)
    assert scorer.batches == [["first"], ["0", "1", "2", "3", "4"]]
    assert len(scorer.threads) == 1
    assert "forward" in scorer.threads.pop()


def test_encoding_goes_on_while_the_forward_is_busy():
    scorer = GatedScorer()

    async def scenario(engine):
        first = asyncio.create_task(engine.score([request("first")]))
        await scorer.until_forward()
        # Nothing to score in it: answered from the encoder alone, past a forward that hangs.
        blank = await engine.score([request("blank", completions=[""])])
        scorer.gate.set()
        await first
        return blank

    assert raws(run(scorer, scenario)[0]) == ["blank_completion"]


def test_one_bad_completion_fails_alone():
    responses = run(ArithmeticScorer(max_length=10), lambda e: e.score([request(completions=["a" * 50, "bb", ""])]))
    assert raws(responses[0]) == ["over_length", 2.0, "blank_completion"]


def test_a_request_that_breaks_encode_fails_alone():
    class Picky(ArithmeticScorer):
        def encode(self, requests):
            if any(r.id == "bad" for r in requests):
                raise RequestError("tokenizer_mismatch", "not this bundle's tokenizer")
            if any(r.id == "bug" for r in requests):
                raise KeyError("the secret text")
            return super().encode(requests)

    requests = [request("a"), request("bad"), request("bug"), request("b")]
    responses = run(Picky(), lambda e: e.score(requests))
    assert [raws(r)[0] for r in responses] == [1.0, "tokenizer_mismatch", "encode_failed", 1.0]
    assert "secret" not in responses[2].results[0].message


@pytest.mark.parametrize("odd", [5, None, [7]])
def test_what_is_no_content_fails_alone(odd):
    requests = [request("a"), request("odd", prompt=odd), request("odd", completions=[odd]), request("b")]
    responses = run(ArithmeticScorer(), lambda e: e.score(requests))
    assert raws(responses[0]) == raws(responses[3]) == [1.0, 2.0]
    assert not any(isinstance(r, ScoreResult) for response in responses[1:3] for r in response.results)


def test_a_request_that_breaks_the_forward_fails_alone():
    class Fragile(ArithmeticScorer):
        def forward(self, batch):
            if any(e.request.id == "bad" for e in batch):
                raise FloatingPointError("boom")
            return super().forward(batch)

    responses = run(Fragile(), lambda e: e.score([request("a"), request("bad"), request("b")]))
    assert [raws(r)[0] for r in responses] == [1.0, "forward_failed", 1.0]


def test_a_forward_with_the_wrong_number_of_answers_is_an_error_and_not_a_mix_up():
    class Miscounting(ArithmeticScorer):
        def forward(self, batch):
            return [*super().forward(batch), np.zeros(1)]

    responses = run(Miscounting(), lambda e: e.score([request("a"), request("b")]))
    assert [raws(r) for r in responses] == [["forward_failed"] * 2] * 2


def test_what_the_forward_gives_reaches_decode_as_it_is():
    class PerToken(ArithmeticScorer):
        """Three figures for each of seven tokens of a request, as process models give for steps."""

        def forward(self, batch):
            return [np.full((7, 3), len(e.request.completions[0])) for e in batch]

        def decode(self, encoded, raw):
            return super().decode(encoded, raw.sum(axis=1)[: len(encoded.slots)])

    responses = run(PerToken(), lambda e: e.score([request("a", completions=["x", "y"]), request("b")]))
    assert [raws(r) for r in responses] == [[3.0, 3.0], [3.0, 3.0]]


def test_a_request_that_breaks_decode_fails_alone():
    class Undecodable(ArithmeticScorer):
        def decode(self, encoded, raw):
            if encoded.request.id == "bad":
                raise ZeroDivisionError
            return super().decode(encoded, raw)

    responses = run(Undecodable(), lambda e: e.score([request("a"), request("bad")]))
    assert [raws(r)[0] for r in responses] == [1.0, "decode_failed"]


def test_a_score_that_is_not_finite_is_an_error_and_counted():
    scorer = ArithmeticScorer(lambda prompt, completion: float("nan") if completion == "a" else 1.0)

    async def scenario(engine):
        return (await engine.score([request(), request(completions=["a", "", "c"])])), engine.stats.failures

    responses, failures = run(scorer, scenario)
    assert [raws(r) for r in responses] == [["non_finite", 1.0], ["non_finite", "blank_completion", 1.0]]
    assert failures == {"non_finite": 2, "blank_completion": 1}


def test_cancelling_frees_the_slot():
    scorer = GatedScorer()

    async def scenario(engine):
        first = asyncio.create_task(engine.score([request("first")]))
        await scorer.until_forward()
        tokens = engine.queued_tokens
        gone = asyncio.create_task(engine.score([request("gone")]))
        await until(lambda: engine.num_waiting == 1)
        assert engine.queued_tokens > tokens
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (engine.num_waiting, engine.queued_tokens) == (0, tokens)
        last = asyncio.create_task(engine.score([request("last")]))
        await until(lambda: engine.num_waiting == 1)
        scorer.gate.set()
        await asyncio.gather(first, last)
        assert engine.queued_tokens == 0

    run(scorer, scenario)
    assert scorer.batches == [["first"], ["last"]]


def test_cancelling_one_in_the_forward_harms_no_other():
    scorer = GatedScorer()

    async def scenario(engine):
        gone = asyncio.create_task(engine.score([request("gone")]))
        await scorer.until_forward()
        gone.cancel()
        kept = asyncio.create_task(engine.score([request("kept")]))
        scorer.gate.set()
        return await kept

    assert raws(run(scorer, scenario)[0]) == [1.0, 2.0]


def test_what_a_call_has_in_tokens_is_known_before_the_first_is_answered():
    scorer = GatedScorer()

    async def scenario(engine):
        calls = [asyncio.create_task(engine.score([request(prompt="p" * 30, completions=["x" * 10])]))]
        await scorer.until_forward()
        first = engine.stats.mean_call_tokens
        calls.append(asyncio.create_task(engine.score([request(prompt="p" * 70, completions=["x" * 20])] * 2)))
        await until(lambda: engine.num_waiting == 2)
        scorer.gate.set()
        await asyncio.gather(*calls)
        return first, engine.stats.mean_call_tokens

    assert run(scorer, scenario) == (40.0, pytest.approx(0.8 * 40 + 0.2 * 180))


def test_a_full_queue_says_overloaded_and_when_to_ask_again():
    scorer = GatedScorer()
    big = request("big", prompt="p" * 30)

    async def scenario(engine):
        first = asyncio.create_task(engine.score([big]))
        await scorer.until_forward()
        small = asyncio.create_task(engine.score([request("small", prompt="", completions=["x"])]))
        await until(lambda: engine.num_waiting == 1)
        refused = await engine.score([big])
        scorer.gate.set()
        await first
        return refused[0], (await small)[0], (await engine.score([big]))[0]

    limits = EngineLimits(max_batch_tokens=50, max_queued_tokens=37)
    refused, small, later = run(scorer, scenario, limits=limits)
    assert raws(refused) == ["overloaded"] * 2
    assert refused.results[0].retry_after_s > 0
    assert raws(small) == [1.0]
    assert raws(later) == [1.0, 2.0]


def test_a_request_over_the_whole_queue_is_refused_for_good_and_no_other_with_it():
    requests = [request("big", prompt="p" * 900), request("small")]
    big, small = run(ArithmeticScorer(), lambda e: e.score(requests), limits=EngineLimits(10, 500))
    assert raws(big) == ["too_many_tokens"] * 2
    assert "903 tokens, 500 are allowed" in big.results[0].message
    assert big.results[0].retry_after_s is None
    assert raws(small) == [1.0, 2.0]


def test_an_empty_queue_takes_what_is_only_guessed_to_be_too_large():
    ids = request(prompt=TokenIds((65,) * 900), completions=[TokenIds((66,))])
    (response,) = run(ArithmeticScorer(max_length=100), lambda e: e.score([ids]), limits=EngineLimits(10, 500))
    assert raws(response) == ["over_length"]


def test_the_first_requests_of_a_call_are_in_the_forward_while_the_last_are_encoded():
    class Waits(GatedScorer):
        def encode(self, requests):
            if requests[0].id == "2":
                assert self.entered.acquire(timeout=10)
            return super().encode(requests)

    scorer = Waits()
    scorer.gate.set()
    requests = [request(str(i), prompt="p" * 30, completions=["x" * (i + 1)]) for i in range(3)]
    responses = run(scorer, lambda e: e.score(requests), limits=EngineLimits(max_batch_tokens=11))
    assert [raws(r) for r in responses] == [[1.0], [2.0], [3.0]]


class Encoding(ArithmeticScorer):
    """Writes down what it encodes; `then` runs behind each."""

    def __init__(self):
        super().__init__()
        self.encoded, self.then = [], lambda: None

    def encode(self, requests):
        self.encoded += [r.id for r in requests]
        encoded = super().encode(requests)
        self.then()
        return encoded


def test_what_is_late_already_is_not_encoded():
    scorer, clock = Encoding(), Clock()

    def pass_time():
        clock.now_s += 1.0

    scorer.then = pass_time
    requests = [request(str(i), prompt="p" * 30) for i in range(3)]
    limits = EngineLimits(max_batch_tokens=11)
    responses = run(scorer, lambda e: e.score(requests, timeout_s=1.5), limits=limits, clock=clock)
    assert scorer.encoded == ["0", "1"]
    assert raws(responses[2]) == ["deadline"] * 2


def test_cancelling_ends_the_encoding_and_the_waiting():
    scorer, gate = Encoding(), threading.Event()
    scorer.then = lambda: gate.wait(10)

    async def scenario(engine):
        gone = asyncio.create_task(engine.score([request(str(i), prompt="p" * 30) for i in range(3)]))
        await until(lambda: scorer.encoded == ["0"])
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (engine.queued_tokens, engine.num_waiting) == (0, 0)
        gate.set()
        await engine.score([request("next")])

    run(scorer, scenario, limits=EngineLimits(max_batch_tokens=11))
    assert scorer.encoded == ["0", "next"]


@pytest.mark.parametrize(("shares", "batches"), [(True, [["0", "1", "2"], ["other"]]), (False, None)])
def test_a_batch_holds_more_requests_of_one_prompt_where_the_scorer_shares_it(shares, batches):
    scorer = GatedScorer()
    scorer.shares_prompts = shares

    async def scenario(engine):
        first = asyncio.create_task(engine.score([request("first")]))
        await scorer.until_forward()
        prompts = {"0": "p" * 20, "other": "q" * 20, "1": "p" * 20, "2": "p" * 20}
        rest = [asyncio.create_task(engine.score([request(i, p, ["xyz"])])) for i, p in prompts.items()]
        await until(lambda: engine.num_waiting == 4)
        scorer.gate.set()
        await asyncio.gather(first, *rest)

    run(scorer, scenario, limits=EngineLimits(max_batch_tokens=30))
    assert scorer.batches[1:] == (batches or [["0"], ["other"], ["1"], ["2"]])


def test_a_deadline_that_passes_in_the_queue_is_an_answer():
    scorer, clock = GatedScorer(), Clock()

    async def scenario(engine):
        first = asyncio.create_task(engine.score([request("first")], timeout_s=1.0))
        await scorer.until_forward()
        late = asyncio.create_task(engine.score([request("late")], timeout_s=1.0))
        in_time = asyncio.create_task(engine.score([request("in time")], timeout_s=3.0))
        await until(lambda: engine.num_waiting == 2)
        clock.now_s = 2.0
        scorer.gate.set()
        return [(await t)[0] for t in (first, late, in_time)]

    first, late, in_time = run(scorer, scenario, clock=clock)
    assert raws(late) == ["deadline", "deadline"]
    assert raws(first) == raws(in_time) == [1.0, 2.0]
    assert scorer.batches == [["first"], ["in time"]]


def test_batches_keep_to_the_token_budget():
    scorer = GatedScorer()

    async def scenario(engine):
        first = asyncio.create_task(engine.score([request("first")]))
        await scorer.until_forward()
        rest = asyncio.create_task(
            engine.score([request(str(i), prompt="pppp", completions=["abcd"]) for i in range(5)])
        )
        await until(lambda: engine.num_waiting == 5)
        scorer.gate.set()
        await asyncio.gather(first, rest)

    run(scorer, scenario, limits=EngineLimits(max_batch_tokens=16))
    assert scorer.batches == [["first"], ["0", "1"], ["2", "3"], ["4"]]


def test_closing_answers_what_was_accepted_and_refuses_the_rest():
    scorer = GatedScorer()

    async def scenario(engine):
        accepted = [asyncio.create_task(engine.score([request("0")]))]
        await scorer.until_forward()
        accepted.append(asyncio.create_task(engine.score([request("1")])))
        await until(lambda: engine.num_waiting == 1)
        closing = asyncio.create_task(engine.aclose())
        await until(lambda: engine._closing)
        refused = await engine.score([request("late")])
        scorer.gate.set()
        await closing
        return [(await t)[0] for t in accepted], refused[0]

    accepted, refused = run(scorer, scenario)
    assert [raws(r) for r in accepted] == [[1.0, 2.0]] * 2
    assert raws(refused) == ["shutting_down"] * 2


@pytest.mark.parametrize("stop", [False, True])
def test_a_call_that_is_still_being_encoded_is_answered_too(stop):
    scorer, gate = Encoding(), threading.Event()
    scorer.then = lambda: gate.wait(10)

    async def scenario(engine):
        call = asyncio.create_task(engine.score([request(str(i), prompt="p" * 30) for i in range(3)]))
        await until(lambda: scorer.encoded == ["0"])
        closing = asyncio.create_task(engine.aclose(drain_s=10))
        await until(lambda: engine._closing)
        if stop:
            engine.stop()
        gate.set()
        responses = await call
        await closing
        return responses

    responses = run(scorer, scenario, limits=EngineLimits(max_batch_tokens=11))
    assert [raws(r) for r in responses] == [["replica_lost"] * 2 if stop else [1.0, 2.0]] * 3
    assert scorer.encoded == (["0"] if stop else ["0", "1", "2"])


def test_an_engine_that_stops_answers_all_and_fails_its_check():
    async def scenario(engine):
        engine.check()
        engine._device.shutdown()
        response = (await engine.score([request()]))[0]
        with pytest.raises(RuntimeError, match="stopped"):
            engine.check()
        again = (await engine.score([request()]))[0]
        return response, again

    async def main():
        engine = ScoringEngine(ArithmeticScorer())
        engine.start()
        return await asyncio.wait_for(scenario(engine), 10)

    response, again = asyncio.run(main())
    assert raws(response) == raws(again) == ["replica_lost"] * 2


def test_a_panic_that_is_no_exception_fails_alone():
    class Panic(BaseException):
        pass

    class Panicking(ArithmeticScorer):
        def encode(self, requests):
            if any(r.id == "bad" for r in requests):
                raise Panic
            return super().encode(requests)

    responses = run(Panicking(), lambda e: e.score([request("a"), request("bad")]))
    assert [raws(r)[0] for r in responses] == [1.0, "encode_failed"]


def test_the_first_guess_of_tokens_counts_ids_exactly():
    assert estimated_tokens(request(prompt=TokenIds((1, 2, 3)), completions=[TokenIds((4,)), "abcd"])) == 3 + 1 + 2


def test_stats_count_what_was_done():
    async def scenario(engine):
        await engine.score([request(prompt="ppp", completions=["a", "b"])])
        return engine.stats

    stats = run(ArithmeticScorer(), scenario)
    assert (stats.num_batches, stats.num_requests, stats.num_tokens) == (1, 1, 5)
