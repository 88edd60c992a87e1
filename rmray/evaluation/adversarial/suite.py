"""Perturb a sample of comparisons, score every variant and sum up. Called by the command line and by reports.

K is the number of completions of a request: the better and the worse answer, then their variants.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from rmray.data.keys import hash64
from rmray.errors import DataError
from rmray.evaluation.adversarial.perturbations import PERTURBATIONS, answer_text, perturb, prompt_text
from rmray.evaluation.adversarial.record import FEWEST_PROMPTS, AdversarialResult, PerturbationResult
from rmray.evaluation.adversarial.sample import Case, other_answers, take_sample
from rmray.evaluation.adversarial.setting import Setting
from rmray.evaluation.adversarial.tally import Tally
from rmray.evaluation.source import LARGEST_SCORE, RewardSource
from rmray.schema import Comparison, Content, ItemResult, ScoreFailure, ScoreRequest, ScoreResult, request_of_own_ids

COMPARISONS_AT_ONCE = 32
_NO_REFERENCE = ("", "none")


@dataclass(frozen=True, slots=True)
class _Variant:
    """A perturbed completion, and the tally it is counted in."""

    tally: Tally
    completion: Content


def run_adversarial(
    source: RewardSource,
    comparisons: Iterable[tuple[str, Comparison]],
    *,
    max_comparisons: int = 200,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> AdversarialResult:
    """Perturb the best and the worst completion of up to `max_comparisons` comparisons, and compare scores.

    comparisons: (row id, comparison), of any length: those whose ids have the smallest hashes are kept, a choice that
    neither order nor content sways, and texts of that many alone are held. All variants of a comparison share one
    request. on_progress: told the comparisons scored so far.

    Raises DataError where there is no comparison with an order, where nothing can be perturbed and where nothing could
    be scored; ValueError where max_comparisons is below 1.
    """
    sample, seen, unordered = take_sample(comparisons, max_comparisons, seed)
    others = other_answers(sample)
    tallies = [Tally(name, side) for name, p in PERTURBATIONS.items() for side in p.sides]
    failures: Counter[str] = Counter()
    for start in range(0, len(sample), COMPARISONS_AT_ONCE):
        places = range(start, min(start + COMPARISONS_AT_ONCE, len(sample)))
        variants = [list(_variants(sample[i], others[i], tallies, seed)) for i in places]
        requests = [_request(sample[i], v, source.info.tokenizer_hash) for i, v in zip(places, variants, strict=True)]
        responses = source.score(requests)
        for i, made, response in zip(places, variants, responses, strict=True):
            _count(sample[i], made, response.results, failures)
        if on_progress is not None:
            on_progress(places.stop)
    rows = tuple(tally.result(seed=seed) for tally in tallies)
    _check_anything_made(rows, len(sample), failures)
    return AdversarialResult(
        comparisons=len(sample),
        seed=seed,
        perturbations=rows,
        notes=tuple(_notes(rows, len(sample), seen, unordered, failures, source.info.reference)),
    )


def _variants(case: Case, other: str | None, tallies: Sequence[Tally], seed: int) -> Iterator[_Variant]:
    """All that applies to this comparison; what does not is counted."""
    prompt = prompt_text(case.comparison.prompt)
    for tally in tallies:
        rng = Random(hash64([seed, case.row_id, tally.name]))  # both sides are dressed alike
        setting = Setting(rng=rng, prompt=prompt, other_answer=other)
        completion = perturb(tally.name, case.completion(tally.side), setting)
        if completion is None:
            tally.skipped += 1
        else:
            yield _Variant(tally, completion)


def _request(case: Case, variants: Sequence[_Variant], tokenizer_hash: str) -> ScoreRequest:
    """Everything of one comparison, so that its prompt is computed once."""
    completions = (case.better, case.worse, *(variant.completion for variant in variants))
    comparison = case.comparison
    return request_of_own_ids(comparison.prompt, completions, tokenizer_hash, tools=comparison.tools, id=case.row_id)


def _count(case: Case, variants: Sequence[_Variant], results: Sequence[ItemResult], failures: Counter[str]) -> None:
    better, worse, *perturbed = (_scored(result, failures) for result in results)
    for variant, score in zip(variants, perturbed, strict=True):
        tally = variant.tally
        rival = better if tally.side == "better" else worse
        if score is None or rival is None:
            tally.unscored += 1
            continue
        texts = answer_text(case.completion(tally.side)) or "", answer_text(variant.completion) or ""
        tally.add(case.prompt, score, rival, texts)
        if tally.side == "worse" and better is not None:
            tally.add_race(case.prompt, score, rival, better)


def _scored(result: ItemResult, failures: Counter[str]) -> ScoreResult | None:
    """The result, or None with the failure counted."""
    if isinstance(result, ScoreFailure):
        failures[result.code] += 1
        return None
    if not (abs(result.raw) <= LARGEST_SCORE and math.isfinite(result.reward)):
        failures["non_finite"] += 1
        return None
    return result


def _check_anything_made(rows: Sequence[PerturbationResult], comparisons: int, failures: Counter[str]) -> None:
    if any(row.pairs for row in rows):
        return
    if any(row.unscored for row in rows):
        raise DataError(
            f"no perturbed answer of {comparisons} comparisons could be scored beside its rival",
            why=_counts(failures),
            next_step="score a few rows with `rmray score` and see what fails",
        )
    raise DataError(
        f"no perturbation applies to any of {comparisons} comparisons",
        why="answers are token ids or tool calls, and only text can be perturbed",
        next_step="give completions as text or as chat messages",
    )


def _notes(
    rows: Sequence[PerturbationResult], taken: int, seen: int, unordered: int, failures: Counter[str], reference: str
) -> Iterator[str]:
    if taken < seen:
        yield f"{taken} of {seen} comparisons were perturbed, chosen by a hash of their row ids."
    if unordered:
        yield f"Comparisons in which no answer is better than another, passed over: {unordered}."
    if failures:
        yield f"Answers without a score, left out: {failures.total()} ({_counts(failures)})."
    never = sorted({row.name for row in rows if not row.pairs and not row.unscored})
    if never:
        yield f"No answer of the sample could be changed by: {', '.join(never)}."
    if max(row.prompts for row in rows) < FEWEST_PROMPTS:
        yield f"There are fewer than {FEWEST_PROMPTS} prompts, too few to tell of any row whether it holds."
    if all(row.ties == row.pairs for row in rows):
        yield "Every perturbed answer ties with its rival: the model does not tell them apart."
    if reference in _NO_REFERENCE:
        yield "The model has no reference set: reward shifts are in units of its raw score."


def _counts(failures: Counter[str]) -> str:
    return ", ".join(f"{code}: {count}" for code, count in sorted(failures.items()))
