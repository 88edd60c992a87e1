"""What a card says of each kind of model: what it gives, what its scores mean, what it learnt. Called by the card.

A scalar model and an ensemble of them compare; outcome and process models say how likely each place is right.
"""

from __future__ import annotations

from dataclasses import dataclass

from rmray.models.bundle.manifest import BundleManifest


@dataclass(frozen=True, slots=True)
class Kind:
    """The words of a kind; `{taken}` in them is what makes one score of several (`TAKEN`).

    gives: after "it reads". scale: what a raw score is. across: whether rewards of different prompts can be compared.
    learnt: what it has learnt, of truth. guard: what it is not, of safety. records: what it is measured on. file: what
    a file of them may be called. read: the tokens that are read, empty where a completion has one score.
    """

    gives: str
    scale: str
    across: str
    learnt: str
    guard: str
    records: str
    file: str
    read: str = ""


TAKEN = {"mean": "mean", "min": "least", "product": "logarithm of the product"}

COMPARING = Kind(
    gives="a prompt with a completion and gives the completion one score, higher for what its training data prefers.",
    scale="A raw score has no scale of its own.",
    across="Rewards of models with another reference are not comparable, and neither are rewards of different prompts: "
    "training compared answers to one prompt. Within a group, subtract the group's mean before you use them.",
    learnt="It has learnt what was preferred, and what sounds right is preferred.",
    guard="A preference model is no safety classifier.",
    records="comparisons",
    file="comparisons.jsonl",
)
OF_REWARDS = (
    "Rewards of models with another reference are not comparable. Training judged each {whole} by itself and compared "
    "none with another: across prompts raw scores mean the same as far as the probabilities are calibrated. Of two "
    "right ones it prefers neither. Within a group, subtract the group's mean before you use them."
)
KINDS = {
    "outcome": Kind(
        gives="a prompt with a completion and gives, at each completion token, the probability that the completion is "
        "right. The {taken} of these is its score.",
        scale="A raw score is the {taken} of a completion's probabilities of being right, one at each of its tokens.",
        across=OF_REWARDS.format(whole="completion"),
        learnt="It has learnt what completions that were labelled right look like.",
        guard="A model of right and wrong completions is no safety classifier.",
        records="labelled completions",
        file="labelled.jsonl",
        read="each completion token",
    ),
    "process": Kind(
        gives="a prompt with a solution in steps and gives each step the probability that it is right. The {taken} of "
        "these is the solution's score.",
        scale="A raw score is the {taken} of a solution's probabilities of being right, one of each of its steps.",
        across=OF_REWARDS.format(whole="step"),
        learnt="It has learnt what steps that were labelled right look like.",
        guard="A model of right and wrong steps is no safety classifier.",
        records="labelled solutions",
        file="labelled.jsonl",
        read="the last token of each step",
    ),
}
"""By kind of bundle; others compare."""


def kind_of(manifest: BundleManifest) -> Kind:
    """The words for a bundle."""
    return KINDS.get(manifest.kind, COMPARING)


def taken(manifest: BundleManifest) -> str:
    """What makes one score of a completion's probabilities, as a word."""
    return TAKEN.get(manifest.aggregate, manifest.aggregate)
