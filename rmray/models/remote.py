"""A reward model on a vLLM server (/classify, /pooling) with a bundle's rules around it: for what no replica can hold.

The bundle renders and normalises here; the server gets token ids, nothing else, and gives raw scores. Opening asks it
for the goldens, so that another model, an activation, or added special tokens are refused and not evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmray.errors import BundleError, RequestError
from rmray.models.bundle.goldens import check_goldens, load_goldens
from rmray.models.bundle.load import check_manifest, load_encoder
from rmray.models.bundle.manifest import read_manifest
from rmray.models.head_scorer import RequestEncoder, result_of
from rmray.models.model_server import ModelServer, failure_of
from rmray.models.reward import Reference
from rmray.models.scorer import Encoded, RawScores, ScorerInfo
from rmray.schema import ItemResult, ScoreFailure, ScoreRequest, ScoreResponse

ROUTES = ("/classify", "/pooling")
_SCORES_OF = {"/classify": "probs", "/pooling": "data"}

Score = float | ScoreFailure


class RemoteScorer:
    """A RewardSource: the bundle's encoder and reference, and the server's raw scores.

    server: its url ends with one of ROUTES. model: the name there, None for the only one.
    """

    def __init__(
        self,
        server: ModelServer,
        encoder: RequestEncoder,
        *,
        info: ScorerInfo,
        reference: Reference,
        model: str | None = None,
    ) -> None:
        self.info = info
        self._server, self._encoder, self.reference, self._model = server, encoder, reference, model
        self._scores = next(field for route, field in _SCORES_OF.items() if server.url.endswith(route))

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResponse]:
        """One response a request, in order. A completion that the server refuses fails alone.

        Raises RequestError where no request can be answered: a refused key, another route (`raise_if_fatal`).
        """
        encoded = self.encode(requests)
        scores_N = self._server.map(self._group_scores, encoded)
        return [self._response(e, scores) for e, scores in zip(encoded, scores_N, strict=True)]

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        """Render by the bundle's rules, as `RequestEncoder` does."""
        return self._encoder.encode(requests)

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """Raw scores of every path of each group. Raises RequestError where one of them cannot be had."""
        return [np.array(self._ask(_paths(encoded))) for encoded in batch]

    def completion_scores(self, encoded: Encoded, raw: RawScores) -> list[float]:
        """The raw score of each path of `encoded.group`."""
        scores: list[float] = raw.tolist()
        return scores

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _group_scores(self, encoded: Encoded) -> list[Score]:
        """Of each path of a group: asked together, and alone where the server refuses them together."""
        paths = _paths(encoded)
        try:
            return [*self._ask(paths)]
        except RequestError as error:
            self._server.raise_if_fatal(error)
            if len(paths) == 1 or error.code not in ("over_length", "invalid_request"):
                return [failure_of(error)] * len(paths)
        return [self._alone(path) for path in paths]

    def _alone(self, path: list[int]) -> Score:
        try:
            return self._ask([path])[0]
        except RequestError as error:
            self._server.raise_if_fatal(error)
            return failure_of(error)

    def _ask(self, paths: list[list[int]]) -> list[float]:
        """One HTTP request. The ids are whole already, and a score is the head's own number: no activation."""
        if not paths:
            return []
        body: dict[str, Any] = {"input": paths, "add_special_tokens": False, "use_activation": False}
        if self._model is not None:
            body["model"] = self._model
        if self._scores == "data":
            body["encoding_format"] = "float"
        return read_scores(self._server.post(body), self._scores, len(paths), self._server.url)

    def _response(self, encoded: Encoded, scores: list[Score]) -> ScoreResponse:
        results = [self._result(encoded, k, slot, scores) for k, slot in enumerate(encoded.slots)]
        return ScoreResponse(results=tuple(results), id=encoded.request.id)

    def _result(self, encoded: Encoded, k: int, slot: int | ScoreFailure, scores: list[Score]) -> ItemResult:
        if isinstance(slot, ScoreFailure):
            return slot
        raw = scores[slot]
        if isinstance(raw, ScoreFailure):
            return raw
        return result_of(encoded, k, slot, raw, self.info, self.reference, self._encoder.unfinished)


def open_remote(
    url: str, bundle_dir: str | Path, *, model: str | None = None, check: bool = True, **options: Any
) -> RemoteScorer:
    """The server at `url` (with or without one of ROUTES) with the rules of a bundle, whose weights need not be here.

    check: score the goldens there, within what another precision or device may differ by. options: of ModelServer.
    Raises BundleError: no sound rules, or a server with another model; RequestError where the server cannot be asked.
    """
    directory = Path(bundle_dir)
    manifest = read_manifest(directory)
    check_manifest(directory, manifest)
    if manifest.kind != "scalar":
        raise BundleError(
            f"the bundle is of the kind {manifest.kind!r}, and a server of one score a text cannot stand in for it",
            where=str(directory),
            next_step="load it here with --bundle, or give a scalar bundle, such as a member of an ensemble",
        )
    encoder = load_encoder(directory, manifest)
    address = url.rstrip("/")
    server = ModelServer(address if address.endswith(ROUTES) else address + ROUTES[0], **options)
    info = ScorerInfo(
        name=manifest.name,
        kind=manifest.kind,
        model_version=manifest.model_version,
        reference=manifest.reference.hash,
        tokenizer_hash=encoder.tokenizer_hash,
        max_length=encoder.renderer.rules.max_length,
    )
    scorer = RemoteScorer(server, encoder, info=info, reference=manifest.reference, model=model)
    if check:
        check_goldens(load_goldens(directory), scorer, std=manifest.reference.std, where=server.url)
    return scorer


def read_scores(content: bytes, field: str, count: int, url: str) -> list[float]:
    """One number for each of `count` inputs, in their order. Raises RequestError `bad_response` for anything else."""
    try:
        entries = json.loads(content)["data"]
        by_index = {entry["index"]: entry[field] for entry in entries}
        scores = [by_index[i] for i in range(count)]
        if len(entries) != count or not all(isinstance(values, list) and len(values) == 1 for values in scores):
            raise ValueError("another shape")
        if any(isinstance(value, bool) or not isinstance(value, int | float) for [value] in scores):
            raise TypeError("no number")
        return [float(value) for [value] in scores]
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        raise RequestError(
            "bad_response",
            f"the server's answer is not one score for each of {count} texts",
            where=url,
            next_step="serve a model with one label, and give the address of its /classify or /pooling",
        ) from None


def _paths(encoded: Encoded) -> list[list[int]]:
    group = encoded.group
    return [] if group is None else [[int(i) for i in group.path(k)] for k in range(group.num_completions)]
