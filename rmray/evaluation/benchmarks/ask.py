"""Get the answers of a source to benchmark rows: scores, scores of steps, or verdicts. Called by `run`.

All completions of a prompt go in one request, so that they share its forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rmray.data.keys import hash64
from rmray.errors import ConfigError, RequestError
from rmray.evaluation.benchmarks.item import Item, Scored
from rmray.evaluation.benchmarks.verdicts import PairJudge, ask_all_in_both_orders
from rmray.evaluation.source import RewardSource
from rmray.schema import Content, ItemResult, ScoreFailure, ScoreRequest, Steps, plain_text

TEXT_SEPARATOR = "\n\n"  # between prompt and answer where there is no chat template


@dataclass(frozen=True, slots=True)
class Unscored:
    """Why a row has no answer."""

    code: str
    message: str


Answer = Scored | Unscored


class ScoreAsker:
    """Scores of whole completions, or of a completion's steps.

    Prompts are sent as the user's turn of a chat, as the benchmarks' own code does. A model without a chat template
    gets plain text, prompt and answer with an empty line between, and `wrote_text` says so.
    """

    def __init__(self, source: RewardSource) -> None:
        self._source = source
        self.wrote_text = False

    def ask(self, row_ids: Sequence[str], items: Sequence[Item]) -> list[Answer]:
        """One answer a row. Raises ConfigError where steps are asked for and the source scores none."""
        results = self._results(row_ids, items)
        if not self.wrote_text and any(_has_no_template(r) for row in results for r in row):
            self.wrote_text = True
            results = self._results(row_ids, items)
        read = [_steps if item.steps else _scores for item in items]
        return [take(item, row) for take, item, row in zip(read, items, results, strict=True)]

    def _results(self, row_ids: Sequence[str], items: Sequence[Item]) -> list[tuple[ItemResult, ...]]:
        draw = _as_text if self.wrote_text else _as_chat
        requests = [draw(row_id, item) for row_id, item in zip(row_ids, items, strict=True)]
        return [response.results for response in self._source.score(requests)]


class VerdictAsker:
    """A judge's verdicts on the two completions of a row, in both orders."""

    wrote_text = False

    def __init__(self, judge: PairJudge) -> None:
        self._judge = judge

    def ask(self, row_ids: Sequence[str], items: Sequence[Item]) -> list[Answer]:
        pairs = [(item.prompt, first, second) for item in items for first, second in [item.completions]]
        answers = ask_all_in_both_orders(self._judge, pairs)
        return [
            Unscored(answer.code, answer.what)
            if isinstance(answer, RequestError)
            else Scored(facts=item.facts, prompt=prompt_name(item.prompt), verdicts=answer)
            for item, answer in zip(items, answers, strict=True)
        ]


def prompt_name(prompt: Content) -> int:
    """The same for the same prompt, whether as text or as a lone message."""
    return hash64(["prompt", plain_text(prompt).strip()])


def _as_chat(row_id: str, item: Item) -> ScoreRequest:
    return ScoreRequest(
        prompt=_turns(item.prompt, "user"),
        completions=tuple(_turns(completion, "assistant") for completion in item.completions),
        id=row_id,
    )


def _turns(content: Content, role: str) -> Content:
    return ({"role": role, "content": content},) if isinstance(content, str) and content.strip() else content


def _as_text(row_id: str, item: Item) -> ScoreRequest:
    prompt = plain_text(item.prompt)
    if prompt.strip() and not prompt[-1].isspace():
        prompt += TEXT_SEPARATOR
    completions = tuple(c if isinstance(c, Steps) else plain_text(c) for c in item.completions)
    return ScoreRequest(prompt=prompt, completions=completions, id=row_id)


def _has_no_template(result: ItemResult) -> bool:
    return isinstance(result, ScoreFailure) and result.code == "no_chat_template"


def _scores(item: Item, results: Sequence[ItemResult]) -> Answer:
    scores = []
    for k, result in enumerate(results):
        if isinstance(result, ScoreFailure):
            return Unscored(result.code, f"completion {k}: {result.message}")
        if not math.isfinite(result.raw):
            return Unscored("non_finite", f"completion {k}: the score is {result.raw}")
        scores.append(float(result.raw))
    return Scored(facts=item.facts, prompt=prompt_name(item.prompt), scores=tuple(scores))


def _steps(item: Item, results: Sequence[ItemResult]) -> Answer:
    (result,) = results
    if isinstance(result, ScoreFailure) and result.code != "no_steps":
        return Unscored(result.code, result.message)
    steps = None if isinstance(result, ScoreFailure) else result.token_scores
    if isinstance(result, ScoreFailure) or steps is None:
        raise ConfigError(
            "this benchmark needs a process reward model",
            why="it asks which step is wrong, and the model gives one score for the whole solution",
            next_step="evaluate a process reward model, or take another benchmark",
        )
    if len(steps) != item.steps:
        return Unscored("step_count", f"{len(steps)} scores for {item.steps} steps")
    if not all(0 <= step <= 1 for step in steps):  # also where one is NaN
        return Unscored("bad_step_scores", "a step's score is no probability")
    return Scored(
        facts=item.facts,
        prompt=prompt_name(item.prompt),
        scores=tuple(map(float, steps)),
        called_error=result.first_error,
    )
