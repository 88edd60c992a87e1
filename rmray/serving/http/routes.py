"""FastAPI routes over a scoring backend: `/v1/rewards`, `/v1/models`, `/healthz`, `/readyz`. Called by `app`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.schema import ScoreRequest, ScoreResponse, ScoreResult, estimated_tokens
from rmray.serving.http.backend import ScoringBackend
from rmray.serving.http.errors import ANYWHERE, SCORING, status_of
from rmray.serving.wire import ModelList, Readiness, RewardsRequest, RewardsResponse, to_card, to_request, to_wire

GRACE_S = 0.25
"""What the backend answers at its deadline, item by item, still arrives within so much."""

T = TypeVar("T")


def rewards_router(backend: ScoringBackend, *, max_tokens: int, with_keys: bool) -> APIRouter:
    """What asks for a key where there are keys. with_keys: say so in the description; the key is asked for before."""
    router = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))] if with_keys else [])

    @router.post("/v1/rewards", response_model=RewardsResponse, response_model_exclude_none=True, responses=SCORING)
    async def rewards(body: RewardsRequest, request: Request) -> Any:
        """Score completions. 200 where at least one could be scored; each other one carries its own error."""
        requests = [to_request(item) for item in body.items]
        sound = [r for r in requests if isinstance(r, ScoreRequest)]
        tokens = sum(map(estimated_tokens, sound))
        if tokens > max_tokens:
            why = f"some {tokens} tokens, {max_tokens} are allowed"
            raise RequestError("too_many_tokens", "the request is too large; send it in parts", why=why)

        async def score() -> tuple[ServedModel, list[ScoreResponse]]:
            model = choose_model(await backend.models(), body.model)
            answers = await backend.score(model, sound, timeout_s=body.timeout_s) if sound else []
            if "@" in (body.model or ""):
                check_version(model, answers)
            return model, answers

        model, scored = await _while_wanted(request, score(), body.timeout_s)
        answers = iter(scored)
        responses = [
            next(answers)
            if isinstance(record, ScoreRequest)
            else ScoreResponse(results=(record,) * len(item.completions), id=item.id)
            for record, item in zip(requests, body.items, strict=True)
        ]
        status, headers = status_of(responses)
        answer = to_wire(model.name, responses)
        if status == 200:
            return answer
        return JSONResponse(answer.model_dump(exclude_none=True), status, headers)

    @router.get("/v1/models", response_model=ModelList, response_model_exclude_none=True, responses=ANYWHERE)
    async def models() -> Any:
        """Served models, with the tokenizer hash that token ids need."""
        return ModelList(data=[to_card(m) for m in await backend.models()])

    return router


def probes_router(backend: ScoringBackend) -> APIRouter:
    """What probes ask, who have no key."""
    router = APIRouter(responses=ANYWHERE)

    @router.get("/healthz", response_model=Readiness)
    async def healthz() -> Any:
        """200 while this process answers."""
        return Readiness(status="ok")

    @router.get("/readyz", response_model=Readiness)
    async def readyz() -> Any:
        """200 once a model is served; `/v1/models` tells which."""
        if not await backend.models():
            raise RequestError("not_ready", "no model is served yet")
        return Readiness(status="ready")

    return router


async def _while_wanted(request: Request, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """What `work` gives, while the client is there and its time is not over; else the work is cancelled.

    Raises RequestError `deadline` or `client_gone`, the latter for the log alone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=timeout_s + GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise RequestError("client_gone", "the client has closed its connection")
        raise RequestError("deadline", f"no answer within {timeout_s:g} s")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Returns once the client has gone. The body was read before, so that nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def choose_model(models: Sequence[ServedModel], name: str | None) -> ServedModel:
    """The model of that name, or the only one where no name is given; of NAME@VERSION without any canary.

    RequestError `unknown_model` with the names, `stale` where the name is there and the version is not.
    """
    names = ", ".join(sorted(m.name for m in models)) or "none"
    if name is None:
        if len(models) == 1:
            return models[0]
        if not models:
            raise RequestError("not_ready", "no model is served yet")
        raise RequestError("model_missing", "say which `model` is to score", why=f"served: {names}")
    name, pinned, version = name.partition("@")
    for model in models:
        if model.name != name:
            continue
        if not pinned:
            return model
        for one in filter(None, (model, model.canary)):
            if one.model_version == version:
                return replace(one, canary=None)
        raise _another_version(name, version)
    raise RequestError("unknown_model", f"no model named {name!r} is served", why=f"served: {names}")


def check_version(model: ServedModel, answers: Sequence[ScoreResponse]) -> None:
    """RequestError `stale` where another version has answered: the one that was asked for went away under the call, and
    the backend asked the name again."""
    for result in (result for answer in answers for result in answer.results):
        if isinstance(result, ScoreResult) and result.model_version != model.model_version:
            raise _another_version(model.name, model.model_version)


def _another_version(name: str, asked: str) -> RequestError:
    return RequestError("stale", f"{name!r} is another version now", why=f"asked {asked}")
