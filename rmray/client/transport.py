"""What RewardClient needs of a way to a scorer, and the one in this process. No Ray, no torch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.schema import ScoreRequest, ScoreResponse

if TYPE_CHECKING:
    from rmray.models.scorer import Scorer


class Transport(Protocol):
    """A way to the scorer. Must be usable from several threads' event loops.

    Faults of the way itself are raised as RequestError with a code of `rmray.retry.RETRY_CODES`, or a final one.
    """

    async def resolve(self, *, refresh: bool, timeout_s: float) -> ServedModel:
        """Who answers now. refresh: do not trust what was remembered."""
        ...

    async def send(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        """Score on exactly that model; responses in order. RequestError `stale` where it is gone."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


class InProcessTransport:
    """Scores with a Scorer in this process: for tests, notebooks and scripts without a cluster.

    A forward cannot be stopped: where the deadline passes under it the caller has its error, and the thread is busy
    until that one call is done.
    """

    def __init__(self, scorer: Scorer, *, max_batch_tokens: int = 16384) -> None:
        self._scorer, self._max_batch_tokens = scorer, max_batch_tokens
        self._forward = threading.Lock()  # a Scorer's forward runs on one thread at a time
        info = scorer.info
        self._model = ServedModel(
            name=info.name,
            app="in-process",
            kind=info.kind,
            model_version=info.model_version,
            reference=info.reference,
            tokenizer_hash=info.tokenizer_hash,
            max_length=info.max_length,
        )

    async def resolve(self, *, refresh: bool, timeout_s: float) -> ServedModel:
        return self._model

    async def send(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        """RequestError `deadline`; otherwise what the scorer itself raises."""
        from rmray.models.scorer import score_requests

        given_up = threading.Event()

        def score() -> list[ScoreResponse]:
            with self._forward:
                if given_up.is_set():  # while it waited for its turn
                    return []
                return score_requests(self._scorer, requests, max_batch_tokens=self._max_batch_tokens)

        try:
            return await asyncio.wait_for(asyncio.to_thread(score), timeout_s)
        except TimeoutError:
            raise RequestError(
                "deadline", f"no answer within {timeout_s:.1f} s", next_step="raise timeout_s, or score fewer at once"
            ) from None
        finally:
            given_up.set()

    def close(self) -> None:
        return None
