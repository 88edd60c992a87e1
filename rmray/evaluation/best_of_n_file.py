"""Pick the best of each row's completions by a source of scores: `rmray best-of-n`. Streams, as `score_file` does."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmray.data.keys import hash64
from rmray.data.requests import read_requests
from rmray.evaluation.score_file import NumberedRequest, ask_rows, checked_inputs, new_file
from rmray.evaluation.source import RewardSource
from rmray.metrics.best_of_n import kl_of_best_of_n
from rmray.schema import Content, ItemResult, ScoreFailure, ScoreRequest, ScoreResult, Steps, TokenIds

BEST_NAME = "best.jsonl"


@dataclass(slots=True)
class Worth:
    """Sums over rows with a pick. best: rewards of the picks. mean: of a row's completions on average. kl: in nats."""

    best: float = 0.0
    mean: float = 0.0
    kl: float = 0.0


def best_of_n_file(
    open_source: Callable[[], RewardSource],
    input: str | Sequence[str],
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    n: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Pick the completion with the highest reward of every row of `input`, into OUTPUT/best.jsonl.

    One line a row, in order: `row_id, line, id`, then `best` (its place, from 0), `completion` as given, `reward`,
    `margin` to the second best (null where only one has a score), `tied` (places that share the highest reward, where
    there are several: one is drawn) and `rewards`, one a completion: a number, an `error`, or null where it was not
    drawn. A row without a pick has an `error` in place of these.
    n: draw so many of each row's completions (all where it has fewer), and score these alone. seed: of the draws, which
    hang on it, on the row's id and on nothing else. open_source: called once the paths have been looked at.
    Returns counts (rows = picked + failed), means over rows with a pick, None without one: reward_best, reward_mean (of
    a row's scored completions) and kl, the bound ln n - (n - 1) / n of n scored completions; `errors` by code.
    Raises ConfigError, DataError and what opening raises, and leaves no file then.
    """
    inputs = checked_inputs(input)
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    worth = Worth()
    with new_file(output, BEST_NAME) as (path, file):
        source = open_source()
        rows = itertools.chain.from_iterable(read_requests(name, columns=columns) for name in inputs)
        for line in best_rows(source, rows, counts=counts, errors=errors, worth=worth, n=n, seed=seed):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    picked = counts["picked"]
    return {
        "best": str(path),
        **{name: counts[name] for name in ("rows", "picked", "ties", "failed")},
        "reward_best": worth.best / picked if picked else None,
        "reward_mean": worth.mean / picked if picked else None,
        "kl": worth.kl / picked if picked else None,
        "errors": dict(sorted(errors.items())),
        "model_version": source.info.model_version,
        "reference": source.info.reference,
    }


def best_rows(
    source: RewardSource,
    rows: Iterable[NumberedRequest],
    *,
    counts: Counter[str],
    errors: Counter[str],
    worth: Worth,
    n: int | None = None,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """One JSON-able object a row, in order. counts, errors, worth: added to, as `best_of_n_file` returns them."""

    def places_of(row_id: str, request: ScoreRequest) -> list[int]:
        return draw(row_id, len(request.completions), seed)[:n]

    def ask(row_id: str, request: ScoreRequest) -> ScoreRequest:
        # In the order of the draw: what a tie is decided by, and a judge sees no order of the file either.
        return _of(request, places_of(row_id, request))

    for head, answered in ask_rows(source, rows, errors=errors, ask=ask):
        counts["rows"] += 1
        if answered is None:
            counts["failed"] += 1
            yield head
            continue
        request, results = answered
        by_place = dict(zip(places_of(head["row_id"], request), results, strict=True))
        yield {**head, **_pick(request, by_place, counts, worth)}


def draw(row_id: str, count: int, seed: int) -> list[int]:
    """Places 0..count - 1 in the row's random order."""
    return sorted(range(count), key=lambda k: hash64([seed, row_id, k]))


def _of(request: ScoreRequest, places: Sequence[int]) -> ScoreRequest:
    """The request for the completions at these places, in this order."""
    return replace(
        request,
        completions=tuple(request.completions[k] for k in places),
        finished=tuple(request.finished[k] for k in places),
    )


def _pick(
    request: ScoreRequest, results: Mapping[int, ItemResult], counts: Counter[str], worth: Worth
) -> dict[str, Any]:
    """results: by place, in the order of the draw. counts, worth: added to."""
    rewards = {k: r.reward for k, r in results.items() if isinstance(r, ScoreResult)}
    shown = [_shown(results.get(k)) for k in range(len(request.completions))]
    if not rewards:
        counts["failed"] += 1
        why = "; ".join(sorted({r.code for r in results.values() if isinstance(r, ScoreFailure)}))
        return {"error": {"code": "no_score", "message": f"no completion could be scored: {why}"}, "rewards": shown}
    best = max(rewards, key=rewards.__getitem__)  # of equals the first in the order of the draw
    tied = sorted(k for k, reward in rewards.items() if reward == rewards[best])
    others = [reward for k, reward in rewards.items() if k != best]
    counts["picked"] += 1
    counts["ties"] += len(tied) > 1
    worth.best += rewards[best]
    worth.mean += sum(rewards.values()) / len(rewards)
    worth.kl += kl_of_best_of_n(len(rewards))
    return {
        "best": best,
        "completion": _given(request.completions[best]),
        "reward": rewards[best],
        "margin": rewards[best] - max(others) if others else None,
        **({"tied": tied} if len(tied) > 1 else {}),
        "rewards": shown,
    }


def _shown(result: ItemResult | None) -> Any:
    if isinstance(result, ScoreFailure):
        return {"error": {"code": result.code, "message": result.message}}
    return None if result is None else result.reward


def _given(content: Content) -> Any:
    """As the row gave it: text, messages, ids or steps."""
    if isinstance(content, str):
        return content
    if isinstance(content, TokenIds):
        return list(content.ids)
    return list(content.texts) if isinstance(content, Steps) else [dict(message) for message in content]
