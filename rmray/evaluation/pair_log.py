"""The numbers of all scored pairs, and the texts of the few that come out worst. Filled by `run`, read by `figures`.

Logs of parts of a set merge to the log of the whole, but for rounding, whatever the parts and their order: what is kept
of a bounded sample is chosen by hashes of row ids. (Of more than MAX_SOURCES, those named are the first that came.)

Legend: C scored completions, P pairs, F surface features.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.data.keys import hash64, pair_keys, prompt_key
from rmray.data.pairs import pairs_of
from rmray.errors import RowError
from rmray.evaluation.source import LARGEST_SCORE
from rmray.evaluation.surface import SurfaceSample
from rmray.metrics.bias import forms_of
from rmray.metrics.calibration import chosen_is_first
from rmray.metrics.ranking import Floats
from rmray.schema import Comparison, Content, ItemResult, ScoreFailure, ScoreResponse, num_chars, plain_text

WORST_PAIRS = 20
MAX_SOURCES = 1000
OTHER_SOURCES = "(other sources)"


@dataclass(frozen=True, slots=True)
class WrongPair:
    """A pair that the scorer gets wrong: the rejected side outscores the chosen one."""

    row_id: str
    source: str | None
    chosen_score: float
    rejected_score: float
    prompt: Content
    chosen: Content
    rejected: Content
    tools: tuple[Mapping[str, Any], ...] | None = None

    @property
    def gap(self) -> float:
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True, slots=True)
class Columns:
    """All numbers as arrays. scores_C, chars_C, forms_C (bits, see `bias.forms_of`), tokens_C (-1 where unknown).

    chosen_P, rejected_P: indices into C. prompts_P: hash of the prompt. keys_P: hash of the pair. first_P: coin flips.
    sources_P: index into `source_names`, -1 for none. margins_P: the data's own, NaN for none.
    gap_P: r_c - r_r. members_CM: of an ensemble the members' rewards, M = 0 where there are none.
    """

    scores_C: Floats
    chars_C: npt.NDArray[np.int64]
    tokens_C: npt.NDArray[np.int64]
    forms_C: npt.NDArray[np.int64]
    chosen_P: npt.NDArray[np.int64]
    rejected_P: npt.NDArray[np.int64]
    prompts_P: npt.NDArray[np.uint64]
    keys_P: npt.NDArray[np.uint64]
    first_P: npt.NDArray[np.bool_]
    sources_P: npt.NDArray[np.int64]
    margins_P: Floats
    gap_P: Floats
    source_names: tuple[str, ...]
    members_CM: Floats


_COMPLETION_COLUMNS = {"scores_C": "d", "chars_C": "I", "tokens_C": "i", "forms_C": "B"}
_PAIR_COLUMNS = {
    "chosen_P": "I", "rejected_P": "I", "prompts_P": "Q", "keys_P": "Q", "first_P": "B", "sources_P": "i",
    "margins_P": "d",
}  # fmt: skip


def _arrays(codes: dict[str, str]) -> dict[str, array[float]]:
    return {name: array(code) for name, code in codes.items()}


@dataclass
class RatedGroups:
    """Comparisons with ratings whose K >= 3 completions all have scores, for best-of-N. Flat, group after group."""

    sizes: array[int] = field(default_factory=lambda: array("I"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    scores: array[float] = field(default_factory=lambda: array("d"))
    ratings: array[float] = field(default_factory=lambda: array("d"))

    def extend(self, other: RatedGroups) -> None:
        for name in ("sizes", "prompts", "scores", "ratings"):
            getattr(self, name).extend(getattr(other, name))


class PairLog:
    """Numbers of all pairs of one source so far: some 90 bytes a pair (of an ensemble 8 more a completion
    and member), and no texts but those of WORST_PAIRS.

    seed: of the calibration's coin flips.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.comparisons = self.unordered = self.unscored_pairs = 0
        self.quarantined: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._example_places: dict[str, tuple[int, ...]] = defaultdict(tuple)
        self.groups = RatedGroups()
        self._completions, self._pairs = _arrays(_COMPLETION_COLUMNS), _arrays(_PAIR_COLUMNS)
        self._num_members: int | None = None  # of an ensemble; None before the first score
        self._members: array[float] = array("d")  # their rewards, completion after completion
        self._sources: dict[str, int] = {}
        self._texts: array[int] = array("Q")  # which completions each comparison compares
        self._ranked: array[int] = array("Q")  # and how it ranks them
        self._worst: list[tuple[float, int]] = []  # a heap of losses and keys, the least wrong first
        self._worst_pairs: dict[int, WrongPair] = {}
        self._surface = SurfaceSample()

    @property
    def num_rows(self) -> int:
        return self.comparisons + self.quarantined.total()

    @property
    def num_pairs(self) -> int:
        return len(self._pairs["keys_P"])

    def add_quarantined(self, error: RowError, *, default_where: str) -> None:
        self.quarantined[error.code] += 1
        self.examples.setdefault(f"quarantined {error.code}", f"{error.where or default_where}: {error.what}")

    def add(self, row_id: str, comparison: Comparison, response: ScoreResponse) -> None:
        """Take in one comparison and the answer to its request."""
        self.comparisons += 1
        prompt = prompt_key(comparison)
        for keys, key in zip((self._texts, self._ranked), pair_keys(comparison), strict=True):
            keys.append(key ^ prompt)
        places = [self._add_completion(row_id, k, comparison, r) for k, r in enumerate(response.results)]
        pairs = pairs_of(comparison.ranks)
        self.unordered += not pairs
        scored = [(b, w) for b, w in pairs if places[b] is not None and places[w] is not None]
        self.unscored_pairs += len(pairs) - len(scored)
        names = [f"{row_id}:{b}:{w}" for b, w in scored]
        columns = self._pairs
        columns["first_P"].extend(chosen_is_first(names, seed=self.seed).tolist())
        for name, (better, worse) in zip(names, scored, strict=True):
            chosen, rejected = places[better], places[worse]
            assert chosen is not None
            assert rejected is not None
            key = hash64(name)
            columns["chosen_P"].append(chosen)
            columns["rejected_P"].append(rejected)
            columns["prompts_P"].append(prompt)
            columns["keys_P"].append(key)
            columns["sources_P"].append(self._source_number(comparison.source))
            columns["margins_P"].append(_own_margin(comparison, better, worse))
            self._surface.offer(key, prompt, comparison.completions[better], comparison.completions[worse])
            self._keep_if_worst(key, row_id, comparison, better, worse)
        if comparison.ratings is not None and len(places) >= 3 and None not in places:
            self.groups.sizes.append(len(places))
            self.groups.prompts.append(prompt)
            self.groups.scores.extend(self._completions["scores_C"][p] for p in places if p is not None)
            self.groups.ratings.extend(comparison.ratings)

    def merge(self, other: PairLog, *, place: tuple[int, ...] = ()) -> None:
        """Take in the log of another part of the same set. place: where the part begins; of examples the first stays,
        whatever the order in which parts come."""
        self.comparisons += other.comparisons
        self.unordered += other.unordered
        self.unscored_pairs += other.unscored_pairs
        self.quarantined += other.quarantined
        self.failed += other.failed
        for name, text in other.examples.items():
            if name not in self.examples or place < self._example_places[name]:
                self.examples[name], self._example_places[name] = text, place
        start = len(self._completions["scores_C"])
        numbers = {number: self._source_number(name) for name, number in other._sources.items()}
        moved: dict[str, array[Any]] = {
            **other._pairs,
            "chosen_P": array("I", (i + start for i in other._pairs["chosen_P"])),
            "rejected_P": array("I", (i + start for i in other._pairs["rejected_P"])),
            "sources_P": array("i", (numbers.get(int(i), -1) for i in other._pairs["sources_P"])),
        }
        for name, values in other._completions.items():
            self._completions[name].extend(values)
        self._add_members(other._num_members, other._members)
        for name, values in moved.items():
            self._pairs[name].extend(values)
        self.groups.extend(other.groups)
        self._texts.extend(other._texts)
        self._ranked.extend(other._ranked)
        self._surface.merge(other._surface)
        for loss, key in other._worst:
            self._push_worst(loss, key, other._worst_pairs[key])

    def columns(self) -> Columns:
        """Everything as arrays."""
        wide = {"scores_C": np.float64, "margins_P": np.float64, "prompts_P": np.uint64, "keys_P": np.uint64}
        both = {**self._completions, **self._pairs}
        arrays = {
            name: np.frombuffer(values, dtype=values.typecode).astype(wide.get(name, np.int64))
            for name, values in both.items()
        }
        return Columns(
            **{**arrays, "first_P": arrays["first_P"].astype(np.bool_)},  # type: ignore[arg-type]
            gap_P=arrays["scores_C"][arrays["chosen_P"]] - arrays["scores_C"][arrays["rejected_P"]],
            source_names=tuple(self._sources),
            members_CM=np.frombuffer(self._members).reshape(len(self._completions["scores_C"]), -1)
            if self._num_members
            else np.zeros((len(self._completions["scores_C"]), 0)),
        )

    def repeated(self) -> tuple[int, int]:
        """(comparisons that repeat another one, comparisons that rank what another one ranks otherwise)."""
        distinct = len(set(zip(self._texts, self._ranked, strict=True)))
        return len(self._ranked) - distinct, distinct - len(set(self._texts))

    def worst(self) -> list[WrongPair]:
        """Pairs that are lost by most, the worst first; where losses are equal a hash decides, and not the order."""
        return [self._worst_pairs[key] for _, key in sorted(self._worst, reverse=True)]

    def surface_sample(self) -> tuple[Floats, npt.NDArray[np.uint64]]:
        """(differences of surface features [P, F], prompts [P]) of the sample's pairs that have text."""
        return self._surface.arrays()

    def _add_completion(self, row_id: str, k: int, comparison: Comparison, result: ItemResult) -> int | None:
        """Its place among the scored completions, or None with the failure counted."""
        if isinstance(result, ScoreFailure):
            code, message = result.code, result.message
        elif not abs(result.raw) <= LARGEST_SCORE:
            code, message = "non_finite", f"the score is {result.raw}"
        else:
            completion = comparison.completions[k]
            columns = self._completions
            columns["scores_C"].append(float(result.raw))
            columns["chars_C"].append(num_chars(completion))
            columns["tokens_C"].append(-1 if result.completion_tokens is None else result.completion_tokens)
            columns["forms_C"].append(forms_of(plain_text(completion)))
            self._add_members(len(result.member_scores or ()), array("d", result.member_scores or ()))
            return len(columns["scores_C"]) - 1
        self.failed[code] += 1
        self.examples.setdefault(f"failed {code}", f"row {row_id}, completion {k}: {message}")
        return None

    def _add_members(self, num_members: int | None, rewards: array[float]) -> None:
        """Keep members' rewards while every score has as many: of a source that tells some alone, none are kept."""
        if num_members is None:
            return
        if self._num_members is None:
            self._num_members = num_members
        if num_members != self._num_members:
            self._num_members, self._members = 0, array("d")
        elif num_members:
            self._members.extend(rewards)

    def _source_number(self, name: str | None) -> int:
        if name is None:
            return -1
        if name not in self._sources and len(self._sources) >= MAX_SOURCES:
            name = OTHER_SOURCES
        return self._sources.setdefault(name, len(self._sources))

    def _keep_if_worst(self, key: int, row_id: str, comparison: Comparison, better: int, worse: int) -> None:
        chosen_score, rejected_score = (
            float(self._completions["scores_C"][int(self._pairs[side][-1])]) for side in ("chosen_P", "rejected_P")
        )
        loss = rejected_score - chosen_score
        if loss <= 0 or (len(self._worst) == WORST_PAIRS and (loss, key) < self._worst[0]):
            return
        texts = (comparison.completions[better], comparison.completions[worse])
        pair = WrongPair(
            row_id, comparison.source, chosen_score, rejected_score, comparison.prompt, *texts, comparison.tools
        )
        self._push_worst(loss, key, pair)

    def _push_worst(self, loss: float, key: int, pair: WrongPair) -> None:
        if key in self._worst_pairs:  # the same file given twice
            return
        heapq.heappush(self._worst, (loss, key))
        self._worst_pairs[key] = pair
        if len(self._worst) > WORST_PAIRS:
            _, dropped = heapq.heappop(self._worst)
            del self._worst_pairs[dropped]


def _own_margin(comparison: Comparison, better: int, worse: int) -> float:
    """How much better the data says that one is: the row's margin, else the difference of its ratings, else NaN."""
    if comparison.margin is not None and len(comparison.completions) == 2:
        return comparison.margin
    if comparison.ratings is not None:
        return comparison.ratings[better] - comparison.ratings[worse]
    return math.nan
