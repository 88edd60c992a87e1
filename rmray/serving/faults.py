"""Encode and forward so that a request that fails fails alone. Called by `engine`, on its threads.

All requests go at once; where that raises, one by one, to find whose fault it was.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence

from rmray.errors import RequestError, RmrayError
from rmray.models.scorer import Encoded, RawScores, Scorer
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse

logger = logging.getLogger(__name__)


def encode_each(scorer: Scorer, requests: Sequence[ScoreRequest]) -> list[Encoded | ScoreFailure]:
    """For each request its encoding, or why it has none."""
    try:
        encoded = scorer.encode(requests)
        if len(encoded) != len(requests):
            raise RuntimeError("encode gave another number of results than there are requests")
    except BaseException as error:  # a panic in the tokenizer's Rust is no Exception, and this is no main thread
        if len(requests) == 1:
            return [failure_of(error, "encode_failed")]
        return [encode_each(scorer, [r])[0] for r in requests]
    return list(encoded)


def forward_each(scorer: Scorer, batch: Sequence[Encoded]) -> list[RawScores | ScoreFailure]:
    """For each element what the scorer's `decode` reads, or why there is nothing to read."""
    try:
        raw = scorer.forward(batch)
        if len(raw) != len(batch):
            raise RuntimeError("forward gave another number of results than there are requests")
    except BaseException as error:
        if len(batch) == 1:
            return [failure_of(error, "forward_failed")]
        return [forward_each(scorer, [e])[0] for e in batch]
    return list(raw)


def decode_one(scorer: Scorer, encoded: Encoded, raw: RawScores) -> ScoreResponse:
    """The response to one request, in which a failure stands for each completion where `decode` fails."""
    try:
        response = scorer.decode(encoded, raw)
        if len(response.results) != len(encoded.slots):
            raise RuntimeError("decode gave another number of results than there are completions")
    except Exception as error:
        return failed(encoded.request, failure_of(error, "decode_failed"))
    return response


def failed(request: ScoreRequest, failure: ScoreFailure) -> ScoreResponse:
    """The response to a request of which no completion could be scored."""
    return ScoreResponse(results=(failure,) * len(request.completions), id=request.id)


def failure_of(error: BaseException, code: str) -> ScoreFailure:
    """What the caller is told. Another's exception may quote the request's text: neither told nor logged."""
    if isinstance(error, RequestError):
        return ScoreFailure(code=error.code, message=str(error))
    if isinstance(error, RmrayError):
        return ScoreFailure(code=getattr(error, "code", code), message=str(error))
    logger.error("%s: %s\n%s", code, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ScoreFailure(code=code, message=f"{type(error).__name__} in the scorer; see the replica's log")
