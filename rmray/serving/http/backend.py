"""What the routes need of whoever scores behind them. Implemented by `app.gateway`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rmray.config.serve import ServedModel
from rmray.schema import ScoreRequest, ScoreResponse


class ScoringBackend(Protocol):
    """Who scores behind the routes. Cancelling a call frees what it holds."""

    async def models(self) -> list[ServedModel]:
        """What is served now."""
        ...

    async def score(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        """Responses in the order of the requests, faults as ScoreFailure. RequestError where there is no answer."""
        ...
