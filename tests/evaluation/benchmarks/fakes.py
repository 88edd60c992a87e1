"""Small benchmark files and sources whose answers are known: a completion begins with its own score."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmray.evaluation.benchmarks import BenchmarkResult, run_benchmark
from rmray.evaluation.benchmarks.verdicts import Verdict
from rmray.evaluation.source import RuleSource
from rmray.models.scorer import ScorerInfo
from rmray.schema import Content, ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult, Steps, plain_text

Rows = Sequence[Mapping[str, Any]]

BY_FIRST_WORD = RuleSource("first-word", lambda prompt, completion: float(completion.split()[0]))
CONSTANT = RuleSource("constant", lambda prompt, completion: 1.0)


def write(path: Path, rows: Rows) -> str:
    """JSON Lines, gzipped where the name says so, or one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(list(rows)) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def run(tmp_path: Path, name: str, rows: Rows, source=BY_FIRST_WORD, **options) -> BenchmarkResult:
    return run_benchmark(name, [write(tmp_path / "rows.jsonl", rows)], source, **options)


def strict_json(result: BenchmarkResult) -> dict[str, Any]:
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


def section(result: BenchmarkResult, name: str):
    """The only section of this name."""
    (found,) = [s for s in result.sections if s.name == name]
    return found


def scores(result: BenchmarkResult) -> dict[str, float | None]:
    return {s.name: s.score for s in result.sections}


class StepSource:
    """A process reward model: each step's paragraphs are its probabilities, one where all is well.

    called_error: what it calls the first wrong step, whatever it says of each.
    """

    info = ScorerInfo("steps", "process", "steps-1", "none", "", 0)

    def __init__(self, called_error: int | None = None) -> None:
        self._called_error = called_error

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResponse]:
        return [ScoreResponse(results=tuple(self._result(c) for c in r.completions), id=r.id) for r in requests]

    def _result(self, completion: Content) -> ScoreResult:
        assert isinstance(completion, Steps)
        steps = tuple(float(number) for step in completion.texts for number in step.split("\n\n"))
        return replace(result_of(sum(steps), steps), first_error=self._called_error)


class NoTemplateSource:
    """A model that reads plain text alone, and keeps what it was sent."""

    info = ScorerInfo("no-template", "scalar", "v", "none", "", 0)

    def __init__(self) -> None:
        self.requests: list[ScoreRequest] = []

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResponse]:
        self.requests += requests
        return [ScoreResponse(results=tuple(map(self._result, r.completions)), id=r.id) for r in requests]

    def _result(self, completion: Content) -> ScoreResult | ScoreFailure:
        if not isinstance(completion, str):
            return ScoreFailure(code="no_chat_template", message="chat messages, but no template")
        return result_of(float(completion.split()[0]))


class Judge:
    """A judge with no scores. verdict: of the two answers' texts in the order shown."""

    def __init__(self, verdict: Callable[[str, str], Verdict]) -> None:
        self.verdict = verdict
        self.asked = 0

    def compare(self, prompt: Content, first: Content, second: Content) -> Verdict:
        self.asked += 1
        return self.verdict(plain_text(first), plain_text(second))


def result_of(raw: float, steps: tuple[float, ...] | None = None) -> ScoreResult:
    return ScoreResult(
        raw=raw, reward=raw, quantile=0.5, model_version="v", reference="none", num_tokens=1, token_scores=steps
    )


def rewardbench(subset: str, chosen: float, rejected: float, prompt: str = "p") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": f"{chosen} c", "rejected": f"{rejected} r", "subset": subset, "id": 1}


def rewardbench2(subset: str, right: Sequence[float], wrong: Sequence[float], id: str = "1") -> dict[str, Any]:
    return {
        "id": id,
        "prompt": f"{subset} {id}",
        "chosen": [f"{s} c" for s in right],
        "rejected": [f"{s} r" for s in wrong],
        "num_correct": len(right),
        "total_completions": len(right) + len(wrong),
        "subset": subset,
    }


def rm_bench(domain: str, right: Sequence[float], wrong: Sequence[float], prompt: str = "p") -> dict[str, Any]:
    texts = {"chosen": [f"{s} c" for s in right], "rejected": [f"{s} r" for s in wrong]}
    return {"id": 1, "prompt": prompt, "domain": domain, **texts}


def judgebench(source: str, a: float, b: float, label: str, prompt: str = "p") -> dict[str, Any]:
    answers = {"response_A": f"{a} a", "response_B": f"{b} b", "response_model": "gpt-4o"}
    return {"pair_id": "x", "source": source, "question": prompt, **answers, "label": label}


def llmbar(one: float, two: float, label: int, prompt: str = "p") -> dict[str, Any]:
    return {"input": prompt, "output_1": f"{one} a", "output_2": f"{two} b", "label": label}


def ppe_human(one: float, two: float, winner: str, prompt: str = "p", **marks: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response_1": f"{one} a", "response_2": f"{two} b", "winner": winner, **marks}


def ppe_correctness(right: Sequence[bool], scores: Sequence[float], prompt: str = "p", **more: Any) -> dict[str, Any]:
    responses = {f"response_{k}": f"{s} x" for k, s in enumerate(scores, start=1)}
    return {"prompt": prompt, "scores": list(right), **responses, **more}


def processbench(id: str, steps: Sequence[float], label: int, problem: str = "p") -> dict[str, Any]:
    return {
        "id": id,
        "problem": problem,
        "steps": [str(s) for s in steps],
        "final_answer_correct": True,
        "label": label,
    }


ONE_ROW: dict[str, dict[str, Any]] = {
    "rewardbench": rewardbench("donotanswer", 2, 1),
    "rewardbench2": rewardbench2("Focus", [2], [1, 0, 0]),
    "rm-bench": rm_bench("code", [2, 2, 2], [1, 1, 1]),
    "judgebench": judgebench("livecodebench", 2, 1, "A>B"),
    "ppe-human": ppe_human(2, 1, "model_a"),
    "ppe-correctness": ppe_correctness([True, False], [2, 1]),
    "processbench": processbench("gsm8k-0", [0.9, 0.1], 1),
    "llmbar": llmbar(2, 1, 1),
}
"""A row of each benchmark that BY_FIRST_WORD (and StepSource) has right."""
