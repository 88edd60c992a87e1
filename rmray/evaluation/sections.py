"""What lies behind the headline: distributions, calibration, length, forms, sources, best-of-N. Columns in, JSON out.

Called by `figures`. Every number is finite, and what cannot be had is None. Legend: C completions, P pairs, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.evaluation.pair_log import OTHER_SOURCES, Columns, RatedGroups
from rmray.metrics.best_of_n import kl_of_best_of_n, pick_chances
from rmray.metrics.bias import FORMS, length_splits, spearman
from rmray.metrics.calibration import claims, reliability_bins
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.ranking import Bools, Floats

HISTOGRAM_BINS = 60
TAIL = 0.005  # of a distribution, on each side, gathered in its outermost bins
LENGTH_BUCKET = {"tokens": 100, "characters": 500}
MAX_BUCKETS = 40  # the last one holds all longer completions
NUM_DECILES = 10
SHOWN_SOURCES = 200
TOP_SHARE = 0.1
MIN_SAMPLES = 3  # completions of a prompt, for best-of-N

Section = dict[str, Any]


def split_figures(columns: Columns, chosen_P: Bools | npt.NDArray[np.int64], *, seed: int) -> Section:
    """Accuracy with its interval over prompts, and ties, of the pairs picked by a mask or by indices."""
    gap_P, prompts_P = columns.gap_P[chosen_P], columns.prompts_P[chosen_P]
    if not len(gap_P):
        return dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high")) | {"pairs": 0, "prompts": 0, "ties": 0}
    interval = clustered_interval(gap_P > 0, prompts_P, seed=seed, bounds=(0.0, 1.0))
    return {
        "pairs": len(gap_P),
        "prompts": interval.clusters,
        "accuracy": float(np.mean(gap_P > 0)),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "ties": int(np.count_nonzero(gap_P == 0)),
    }


def _edges(values: Floats) -> Floats:
    """B + 1 edges of equal width over what lies between the tails; a single value gets one bin around it."""
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    if low == high:
        low, high = values.min(), values.max()
    width = high - low
    if not width > abs(high) * 1e-12:
        half = max(0.5, abs(float(high)) * 1e-6)
        return np.array([low - half, low + half])
    return np.linspace(low, high, HISTOGRAM_BINS + 1)


def _histogram(values: Floats, edges: Floats) -> list[int]:
    """Counts by bin, what lies beyond the edges in the outermost ones."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return [int(n) for n in counts]


def reward_distributions(columns: Columns) -> Section:
    """Raw scores of the chosen and of the rejected sides, over common edges."""
    chosen, rejected = columns.scores_C[columns.chosen_P], columns.scores_C[columns.rejected_P]
    edges = _edges(np.concatenate([chosen, rejected]))
    return {"edges": edges.tolist(), "chosen": _histogram(chosen, edges), "rejected": _histogram(rejected, edges)}


def margin_distribution(columns: Columns) -> Section:
    """Score gaps r_c - r_r, and how many are below zero."""
    gap_P = columns.gap_P
    edges = _edges(gap_P)
    return {
        "edges": edges.tolist(),
        "counts": _histogram(gap_P, edges),
        "below_zero": float(np.mean(gap_P < 0)),
    }


def reliability(columns: Columns) -> list[Section]:
    """Ten bins of claimed win rates with what they came to."""
    return [
        {
            "low": b.low,
            "high": b.high,
            "count": b.count,
            "mean_confidence": b.mean_confidence,
            "win_rate": b.win_rate,
        }
        for b in reliability_bins(*claims(columns.gap_P, columns.first_P))
    ]


def length_bias(columns: Columns, *, seed: int) -> Section:
    """Scores against length: in tokens where every completion's are known, else in characters."""
    unit = "tokens" if (columns.tokens_C >= 0).all() else "characters"
    length_C = columns.tokens_C if unit == "tokens" else columns.chars_C
    width = LENGTH_BUCKET[unit]
    bucket_C = np.minimum(length_C // width, MAX_BUCKETS - 1)
    num_buckets = int(bucket_C.max()) + 1
    counts = np.bincount(bucket_C, minlength=num_buckets)
    sums = np.bincount(bucket_C, weights=columns.scores_C, minlength=num_buckets)
    bucket_P = bucket_C[columns.chosen_P]
    pairs = np.bincount(bucket_P, minlength=num_buckets)
    wins = np.bincount(bucket_P, weights=columns.gap_P > 0, minlength=num_buckets)
    buckets = [
        {
            "low": b * width,
            "high": (b + 1) * width if b < MAX_BUCKETS - 1 else int(max(length_C.max() + 1, (b + 1) * width)),
            "completions": int(counts[b]),
            "mean_score": float(sums[b] / counts[b]) if counts[b] else None,
            "pairs": int(pairs[b]),
            "accuracy": float(wins[b] / pairs[b]) if pairs[b] else None,
        }
        for b in range(num_buckets)
    ]
    splits = length_splits(length_C[columns.chosen_P], length_C[columns.rejected_P])
    return {
        "unit": unit,
        "bucket": width,
        "spearman": spearman(columns.scores_C, length_C),
        "buckets": buckets,
        **{name: split_figures(columns, mask, seed=seed) for name, mask in splits.items()},
    }


def deciles(columns: Columns, values_P: Floats, *, seed: int) -> list[Section]:
    """Accuracy over tenths of the pairs by a value; see `parts_by`."""
    return parts_by(columns, values_P, num_parts=NUM_DECILES, seed=seed)


def parts_by(columns: Columns, values_P: Floats, *, num_parts: int, seed: int) -> list[Section]:
    """Accuracy over equal parts of the pairs by a value, the lowest first, NaN left out; equal values stay together, so
    there may be fewer."""
    known = np.flatnonzero(np.isfinite(values_P))
    if not len(known):
        return []
    values = values_P[known]
    edges = np.unique(np.quantile(values, np.arange(1, num_parts) / num_parts, method="higher"))
    part = np.searchsorted(edges, values, side="right")
    return [
        {
            "low": float(values[part == d].min()),
            "high": float(values[part == d].max()),
            **split_figures(columns, known[part == d], seed=seed),
        }
        for d in np.unique(part)
    ]


def by_source(columns: Columns, *, seed: int) -> list[Section]:
    """Accuracy of each source, those with most pairs first, at most SHOWN_SOURCES of them and the rest that the log put
    together; none where rows name no source."""
    counts = np.bincount(columns.sources_P[columns.sources_P >= 0], minlength=len(columns.source_names))
    names = columns.source_names
    order = sorted(range(len(counts)), key=lambda s: (-counts[s], names[s]))
    shown = [s for s in order if counts[s] and names[s] != OTHER_SOURCES][:SHOWN_SOURCES]
    shown += [s for s in order if counts[s] and names[s] == OTHER_SOURCES]
    return [{"source": names[s], **split_figures(columns, columns.sources_P == s, seed=seed)} for s in shown]


def surface_forms(columns: Columns, *, seed: int) -> list[Section]:
    """For each form: where just one side of a pair has it, how often data and model prefer that side; and how common
    it is among the completions with the highest scores.

    A tie of the model counts as half a preference.
    """
    gap_P = columns.gap_P
    top = columns.scores_C >= np.quantile(columns.scores_C, 1 - TOP_SHARE)
    sections = []
    for bit, form in enumerate(FORMS):
        has_C = (columns.forms_C >> bit) & 1 == 1
        chosen_has, rejected_has = has_C[columns.chosen_P], has_C[columns.rejected_P]
        differ = chosen_has != rejected_has
        section: Section = {
            "form": form,
            "pairs": int(np.count_nonzero(differ)),
            "preferred_by_data": None,
            "preferred_by_model": None,
            "model_low": None,
            "model_high": None,
            "share_of_top": float(np.mean(has_C[top])),
            "share_of_all": float(np.mean(has_C)),
        }
        if section["pairs"]:
            towards = np.where(chosen_has, gap_P, -gap_P)[differ]
            model_P = (towards > 0) + 0.5 * (towards == 0)
            interval = clustered_interval(model_P, columns.prompts_P[differ], seed=seed, bounds=(0.0, 1.0))
            section |= {
                "preferred_by_data": float(np.mean(chosen_has[differ])),
                "preferred_by_model": float(np.mean(model_P)),
                "model_low": interval.low,
                "model_high": interval.high,
            }
        sections.append(section)
    return sections


def best_of_n_curve(groups: RatedGroups, *, seed: int) -> Section | None:
    """True quality of the best of n by score, n = 1 ... N, over groups with at least N rated completions; N is the
    median size. None where no prompt has MIN_SAMPLES."""
    sizes = np.frombuffer(groups.sizes, dtype=np.uint32).astype(np.int64)
    if not len(sizes):
        return None
    num_samples = int(np.median(sizes))
    scores, ratings = np.frombuffer(groups.scores), np.frombuffer(groups.ratings)
    starts = np.cumsum(sizes) - sizes
    used = sizes >= num_samples
    prompts = np.frombuffer(groups.prompts, dtype=np.uint64)[used]
    curve = []
    for n in range(1, num_samples + 1):
        true_G, proxy_G = np.empty(len(sizes)), np.empty(len(sizes))
        for size in np.unique(sizes[used]):
            of_size = np.flatnonzero(sizes == size)
            places_GN = starts[of_size, None] + np.arange(size)
            chances_GN = pick_chances(scores[places_GN], n)
            true_G[of_size] = (chances_GN * ratings[places_GN]).sum(axis=1)
            proxy_G[of_size] = (chances_GN * scores[places_GN]).sum(axis=1)
        true_G, proxy_G = true_G[used], proxy_G[used]
        interval = clustered_interval(true_G, prompts, seed=seed, bounds=(float(ratings.min()), float(ratings.max())))
        curve.append(
            {
                "n": n,
                "kl": kl_of_best_of_n(n),
                "true": float(np.mean(true_G)),
                "true_low": interval.low,
                "true_high": interval.high,
                "proxy": float(np.mean(proxy_G)),
            }
        )
    return {
        "samples": num_samples,
        "prompts": len(np.unique(prompts)),
        "what": "mean of the data's own scores",
        "curve": curve,
    }
