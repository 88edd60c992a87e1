"""RewardClient: ask for rewards from anywhere. Called by RL loops, rollouts and scripts.

In a Ray actor, or any process that is connected to the cluster:

    client = RewardClient.connect("helpful")
    results = client.score_group(prompt, completions)     # list[ScoreResult], in order
    rewards = [r.reward for r in results]

Scoring has no side effect, so what a dying replica or a moved alias lost is asked again within the call's one deadline.
There is no default reward: what cannot be scored raises, or stands in its place as ScoreFailure.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from rmray.client.calls import ItemError, check_responses, failure_to_mend, split_calls
from rmray.client.transport import InProcessTransport, Transport
from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.retry import RETRY_CODES, Backoff, TryAgainError
from rmray.schema import Content, ItemResult, ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult

if TYPE_CHECKING:
    from rmray.models.scorer import Scorer

T = TypeVar("T")

_CANARY_FAULTS = RETRY_CODES | {"deadline"}
"""What a canary fails with that the version beside it need not."""


class RewardClient:
    """Sync methods work anywhere, in a running event loop too (they block it there); `a...` methods are awaited.

    timeout_s: the one deadline of a call, retries and all. max_call_completions, max_call_tokens: completions, and
    tokens as far as they can be guessed from the text, in one message to a replica; a group alone may have more.
    max_calls: messages of one call in flight at once.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float = 60.0,
        max_call_completions: int = 128,
        max_call_tokens: int = 65536,
        max_calls: int = 8,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._transport, self._timeout_s = transport, timeout_s
        self._max_call_completions, self._max_call_tokens = max_call_completions, max_call_tokens
        self._max_calls = max_calls
        self._backoff, self._clock, self._sleep = backoff or Backoff(), clock, sleep
        self._jitter, self._draw = jitter, draw
        self._loop = _Loop()

    @classmethod
    def connect(cls, name: str, *, timeout_s: float = 60.0, **options: Any) -> RewardClient:
        """A client of the served model `name` on the Ray cluster that this process is connected to.

        Raises RequestError `unknown_model` where nothing is served under that name, ClusterError without a cluster.
        """
        from rmray.client.handle import HandleTransport

        client = cls(HandleTransport(name), timeout_s=timeout_s, **options)
        client.model()
        return client

    @classmethod
    def connect_http(
        cls, url: str, name: str | None = None, *, api_key: str | None = None, timeout_s: float = 60.0, **options: Any
    ) -> RewardClient:
        """A client of the model `name`, or of the only one, behind the HTTP address of a cluster; needs no Ray.

        Raises RequestError `unknown_model` or `model_missing` with the names, `replica_lost` where nobody answers.
        """
        from rmray.client.http import HttpTransport

        client = cls(HttpTransport(url, name, api_key=api_key), timeout_s=timeout_s, **options)
        try:
            client.model()
        except BaseException:
            client.close()
            raise
        return client

    @classmethod
    def in_process(cls, scorer: Scorer, **options: Any) -> RewardClient:
        """A client of a scorer in this process."""
        return cls(InProcessTransport(scorer), **options)

    def model(self) -> ServedModel:
        """Who answers now: model version, reference, and the tokenizer hash that token ids need."""
        return self._loop.run(self.amodel())

    async def amodel(self) -> ServedModel:
        return await self._transport.resolve(refresh=True, timeout_s=self._timeout_s)

    def score(self, requests: Sequence[ScoreRequest], *, timeout_s: float | None = None) -> list[ScoreResponse]:
        """Responses in the order of the requests, all of one model version; faults of items stand in them.

        Raises RequestError where the call as a whole failed: `deadline`, `replica_lost` to the last, `unknown_model`.
        """
        return self._loop.run(self.ascore(requests, timeout_s=timeout_s))

    async def ascore(self, requests: Sequence[ScoreRequest], *, timeout_s: float | None = None) -> list[ScoreResponse]:
        """As `score`."""
        for request in requests:
            if not request.completions:
                raise RequestError("nothing_to_score", "a request has no completion", where=f"request {request.id!r}")
        if not requests:
            return []
        deadline_s = self._clock() + (self._timeout_s if timeout_s is None else timeout_s)
        fresh = itertools.chain([False], itertools.repeat(True))

        async def attempt() -> list[ScoreResponse]:
            refresh = next(fresh)

            async def resolve() -> ServedModel:
                return await self._transport.resolve(refresh=refresh, timeout_s=self._left_s(deadline_s))

            model = await self._retry(resolve, deadline_s, RETRY_CODES - {"stale"})
            tried = None
            if model.canary is not None and model.pick(self._draw()) is model.canary:
                tried = await self._try_canary(model.canary, requests, deadline_s)
            return await self._score_on(model, requests, deadline_s) if tried is None else tried

        # A version that went away under the call starts the whole call again, so that no answer mixes versions.
        return await self._retry(attempt, deadline_s, frozenset({"stale"}))

    @overload
    def score_group(
        self, prompt: Content, completions: Sequence[Content], *, errors: Literal["raise"] = ..., **fields: Any
    ) -> list[ScoreResult]: ...

    @overload
    def score_group(
        self, prompt: Content, completions: Sequence[Content], *, errors: Literal["return"], **fields: Any
    ) -> list[ItemResult]: ...

    def score_group(
        self,
        prompt: Content,
        completions: Sequence[Content],
        *,
        errors: Literal["raise", "return"] = "raise",
        timeout_s: float | None = None,
        **fields: Any,
    ) -> list[ScoreResult] | list[ItemResult]:
        """K results for K completions of one prompt, in order, from one forward of the prompt.

        errors: "raise" ItemError where any completion has no score (it carries all results), or "return" ScoreFailure
        in place. fields: `finished`, `tokenizer_hash`, `tools`, `truncate`, `id` of ScoreRequest.
        """
        results: list[ScoreResult] | list[ItemResult] = self._loop.run(
            self.ascore_group(prompt, completions, errors=errors, timeout_s=timeout_s, **fields)
        )
        return results

    async def ascore_group(
        self,
        prompt: Content,
        completions: Sequence[Content],
        *,
        errors: Literal["raise", "return"] = "raise",
        timeout_s: float | None = None,
        **fields: Any,
    ) -> Any:
        """As `score_group`."""
        if "finished" in fields:
            fields["finished"] = tuple(fields["finished"] or ())
        request = ScoreRequest(prompt=prompt, completions=tuple(completions), **fields)
        (response,) = await self.ascore([request], timeout_s=timeout_s)
        if errors == "raise" and any(isinstance(r, ScoreFailure) for r in response.results):
            raise ItemError(response.results)
        return list(response.results)

    def close(self) -> None:
        """Let go of the transport and of the thread behind the sync methods."""
        self._transport.close()
        self._loop.close()

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # A client travels to actors as its settings; the loop's thread is made where it is used.
    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "timeout_s": self._timeout_s,
            "max_call_completions": self._max_call_completions,
            "max_call_tokens": self._max_call_tokens,
            "max_calls": self._max_calls,
            "backoff": self._backoff,
        }
        return _rebuild, (self._transport, options)

    async def _score_on(
        self, model: ServedModel, requests: Sequence[ScoreRequest], deadline_s: float
    ) -> list[ScoreResponse]:
        """All calls of one `score` on one model, at most `max_calls` at once; the first that fails cancels the rest."""
        room = asyncio.Semaphore(self._max_calls)

        async def call(part: range) -> list[ScoreResponse]:
            async with room:
                return await self._score_call(model, [requests[i] for i in part], deadline_s)

        if len(requests) == 1:
            return await self._score_call(model, requests, deadline_s)
        parts = split_calls(requests, self._max_call_completions, self._max_call_tokens)
        tasks = [asyncio.ensure_future(call(part)) for part in parts]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [response for answer in answers for response in answer]

    async def _try_canary(
        self, canary: ServedModel, requests: Sequence[ScoreRequest], deadline_s: float
    ) -> list[ScoreResponse] | None:
        """What the canary answers in half of the time that is left; None where another version may do better."""
        half_s = self._clock() + self._left_s(deadline_s) / 2
        try:
            responses = await self._score_on(canary, requests, half_s)
        except RequestError as error:
            if error.code in _CANARY_FAULTS:
                return None
            raise
        failures = (r for response in responses for r in response.results if isinstance(r, ScoreFailure))
        return None if any(failure.code in _CANARY_FAULTS for failure in failures) else responses

    async def _score_call(
        self, model: ServedModel, requests: Sequence[ScoreRequest], deadline_s: float
    ) -> list[ScoreResponse]:
        """One call, and again for those of its requests that a retry may mend; the last answer to each stands."""
        answers: dict[int, ScoreResponse] = {}

        async def attempt() -> None:
            todo = [i for i in range(len(requests)) if i not in answers or failure_to_mend(answers[i])]
            sent = [requests[i] for i in todo]
            left_s = self._left_s(deadline_s)
            responses = check_responses(sent, await self._transport.send(model, sent, timeout_s=left_s))
            answers.update(zip(todo, responses, strict=True))
            for failure in filter(None, map(failure_to_mend, responses)):
                raise TryAgainError(failure.code, failure.message, retry_after_s=failure.retry_after_s)

        try:
            await self._retry(attempt, deadline_s, RETRY_CODES - {"stale"})
        except TryAgainError as error:
            if error.code == "stale" or len(answers) < len(requests):
                raise
        return [answers[i] for i in range(len(requests))]

    async def _retry(self, attempt: Callable[[], Awaitable[T]], deadline_s: float, codes: frozenset[str]) -> T:
        for count in itertools.count():
            try:
                return await attempt()
            except TryAgainError as error:
                if error.code not in codes:
                    raise
                delay_s = self._backoff.delay_s(
                    count, left_s=deadline_s - self._clock(), jitter=self._jitter(), hint_s=error.retry_after_s
                )
                if delay_s is None:
                    raise
                await self._sleep(delay_s)
        raise AssertionError("unreachable: itertools.count has no end")

    def _left_s(self, deadline_s: float) -> float:
        left_s = deadline_s - self._clock()
        if left_s <= 0:
            raise RequestError("deadline", "the call's deadline passed", next_step="raise timeout_s, or add replicas")
        return left_s


def _rebuild(transport: Transport, options: dict[str, Any]) -> RewardClient:
    return RewardClient(transport, **options)


class _Loop:
    """An event loop on a daemon thread, made at first use: sync calls work wherever the caller stands."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_loop, args=(self._loop,), name="rmray-client", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt in the caller ends the call
            raise

    def close(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
