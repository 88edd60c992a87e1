"""Surface and bag-of-words models: they find planted cues, find nothing in noise, and know AlpacaEval's length bias."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from rmray.metrics.baselines import (
    SURFACE_PATTERNS,
    bag_of_words_baseline,
    bag_of_words_scores,
    surface_baseline,
    surface_features,
)
from rmray.metrics.bias import length_rule

WORDS = [f"word{i}" for i in range(200)]


def sentence(rng: np.random.Generator, num_words: int = 12) -> str:
    return " ".join(rng.choice(WORDS, size=num_words))


def test_a_word_that_winners_use_is_found():
    rng = np.random.default_rng(0)
    pairs = [(sentence(rng) + " certainly", sentence(rng) + " perhaps") for _ in range(300)]
    assert bag_of_words_baseline(pairs[:200], pairs[200:]).accuracy > 0.95


def test_a_word_seen_once_has_no_weight():
    train = [("yes yes once", "no no"), ("yes", "no")]
    assert bag_of_words_baseline(train, [("once", "never")]).ties == 1


def test_a_form_that_winners_have_is_found_by_surface_alone():
    rng = np.random.default_rng(0)
    pairs = [(f"- {sentence(rng)}\n- {sentence(rng)}", f"{sentence(rng)}\n{sentence(rng)}") for _ in range(300)]
    assert surface_baseline(pairs[:200], pairs[200:]).accuracy > 0.95
    assert bag_of_words_baseline(pairs[:200], pairs[200:]).accuracy > 0.95, "a list's dash is a token too"


@pytest.mark.parametrize("baseline", [surface_baseline, bag_of_words_baseline])
def test_nothing_is_found_where_nothing_is(baseline):
    rng = np.random.default_rng(0)
    pairs = [(sentence(rng), sentence(rng)) for _ in range(900)]
    ranking = baseline(pairs[:300], pairs[300:])
    assert ranking.accuracy + ranking.ties / ranking.pairs / 2 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("baseline", [surface_baseline, bag_of_words_baseline])
def test_identical_completions_tie_and_swapping_a_pair_swaps_its_answer(baseline):
    rng = np.random.default_rng(0)
    train = [(sentence(rng) + " yes!", sentence(rng) + " no") for _ in range(50)]
    assert baseline(train, [("word1 word2", "word1 word2")]).ties == 1
    one_way, other_way = baseline(train, train[:9]), baseline(train, [(r, c) for c, r in train[:9]])
    assert one_way.margin == pytest.approx(-other_way.margin)
    assert one_way.accuracy == 1 - other_way.accuracy


@pytest.mark.parametrize("baseline", [surface_baseline, bag_of_words_baseline])
def test_held_out_pairs_teach_nothing(baseline):
    rng = np.random.default_rng(0)
    train = [(sentence(rng), sentence(rng)) for _ in range(100)]
    planted = [(sentence(rng) + " secret!", sentence(rng)) for _ in range(100)]
    alone = [baseline(train, [pair]).margin for pair in planted[:5]]
    assert baseline(train, planted[:5]).margin == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("baseline", [surface_baseline, bag_of_words_baseline])
def test_one_training_pair_is_refused(baseline):
    with pytest.raises(ValueError, match="two training pairs"):
        baseline([("a a", "b b")], [("a", "b")])


def test_surface_features_count_what_their_names_say():
    text = "# Title\n- one **bold** `x`\n2) Two! Why?\nI'm sorry, 42."
    counts = dict(zip(["characters", *SURFACE_PATTERNS], np.expm1(surface_features(text)), strict=False))
    expected = {
        "characters": len(text),
        "words": 12,
        "lines": 3,
        "digits": 3,
        "capitals": 4,
        "commas_and_stops": 2,
        "exclamations": 1,
        "questions": 1,
        "headings": 1,
        "list_items": 2,
        "bold": 1,
        "code": 2,
        "refusals": 1,
    }
    assert {name: round(value, 6) for name, value in counts.items()} == expected
    assert surface_features("It ends.")[-1] == 1.0
    assert surface_features("It is cut off in the mid")[-1] == 0.0
    assert np.isfinite(surface_features("")).all()


@pytest.mark.skipif("RMRAY_REAL_DATA" not in os.environ, reason="RMRAY_REAL_DATA names no directory of preference data")
def test_on_alpaca_eval_more_characters_wins():
    path = Path(os.environ["RMRAY_REAL_DATA"]) / "alpaca_eval_test.jsonl.gz"
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rule = length_rule([len(r["chosen"]) for r in rows], [len(r["rejected"]) for r in rows])
    assert (rule.pairs, rule.accuracy) == (1000, 0.887)


def test_a_bag_of_words_finds_the_words_of_right_texts():
    train = ["therefore it is five", "maybe it is six"] * 20
    right = [True, False] * 20
    scores = bag_of_words_scores(train, right, ["Therefore seven", "maybe seven", "seven"])
    assert scores[0] > scores[2] > scores[1], "seven is no word of the training texts"
    turned = bag_of_words_scores(train, [not r for r in right], ["therefore", "maybe"])
    assert turned[0] < turned[1]


def test_a_bag_of_words_that_there_is_nothing_to_learn_from():
    assert bag_of_words_scores(["a b", "b a"], [True, True], ["a"]) is None
    assert bag_of_words_scores([], [], ["a"]) is None
    assert bag_of_words_scores(["one", "two"], [True, False], ["one"]) is None, "no word is in two texts"
