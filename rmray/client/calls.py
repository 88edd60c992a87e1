"""Cut a list of requests into calls and put the answers back. Pure. Used by `rewards`."""

from __future__ import annotations

from collections.abc import Sequence

from rmray.errors import RequestError
from rmray.retry import RETRY_CODES
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult, estimated_tokens


class ItemError(RequestError):
    """Some completions have no score. code: the first failure's. results: all K, those that have one among them."""

    results: tuple[ScoreResult | ScoreFailure, ...]

    def __init__(self, results: Sequence[ScoreResult | ScoreFailure]) -> None:
        failures = [(k, r) for k, r in enumerate(results) if isinstance(r, ScoreFailure)]
        k, first = failures[0]
        super().__init__(
            first.code,
            f"{len(failures)} of {len(results)} completions could not be scored",
            where=f"completion {k}",
            why=first.message,
            next_step='errors="return" gives failures in place',
        )
        self.results = tuple(results)


def split_calls(requests: Sequence[ScoreRequest], max_completions: int, max_tokens: int) -> list[range]:
    """Ranges of consecutive requests of at most so many completions and (guessed) tokens each; a group is never cut."""
    calls: list[range] = []
    start = completions = tokens = 0
    for i, request in enumerate(requests):
        k, t = len(request.completions), estimated_tokens(request)
        if i > start and (completions + k > max_completions or tokens + t > max_tokens):
            calls.append(range(start, i))
            start, completions, tokens = i, 0, 0
        completions += k
        tokens += t
    if len(requests) > start:
        calls.append(range(start, len(requests)))
    return calls


def failure_to_mend(response: ScoreResponse) -> ScoreFailure | None:
    """The first failure in a response that asking again may mend, or None."""
    return next((r for r in response.results if isinstance(r, ScoreFailure) and r.code in RETRY_CODES), None)


def check_responses(requests: Sequence[ScoreRequest], responses: Sequence[ScoreResponse]) -> list[ScoreResponse]:
    """The responses, or RequestError `bad_response` where they cannot be these requests' answers."""
    if len(responses) != len(requests):
        raise RequestError("bad_response", f"{len(requests)} requests but {len(responses)} responses")
    for request, response in zip(requests, responses, strict=True):
        if len(response.results) != len(request.completions) or response.id != request.id:
            raise RequestError("bad_response", "a response does not fit its request", where=f"request {request.id!r}")
    return list(responses)
