"""What a health warning says beside its figures: why it matters and what to try. Called by `health`; tables alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """What is judged, and how warnings speak of it.

    judged: name of one training row's worth, in figures. trained_on: the same in a sentence, after their number.
    spread_of: whose std collapses. reasons: kind of warning -> why it matters, what to try.
    """

    judged: str
    trained_on: str
    spread_of: str
    reasons: dict[str, tuple[str, str]]


OVERFIT_ADVICE = (
    "Train fewer epochs, turn on dropout, train less of the model (LoRA or a frozen backbone), or add data."
)
UNSTABLE = (
    "Updates of this size can undo what the model has learnt.",
    "Lower optim.lr, clip harder (optim.max_grad_norm), and lengthen the warm-up (optim.warmup_ratio).",
)


def _labelled(judged: str, read: str) -> Words:
    """judged: completions or solutions; read: the places whose probability of being right is read."""
    return Words(
        judged=judged,
        trained_on=f"training {judged}" if judged == read else f"training {judged}' {read}",
        spread_of="probabilities'",
        reasons={
            "not learning": (
                f"A third of the run is over and the model still tells right from wrong {read} that it has not seen no "
                "better than a coin.",
                f"Lower optim.lr, and check the data: read 20 quarantined rows and 20 {judged} that the model judges "
                "wrongly. Labels turned round and labels made by chance look like this.",
            ),
            "overfit": (
                f"The model knows its training {judged} by heart; on {judged} it has not seen, its probabilities are "
                "worth less than the training figures say.",
                OVERFIT_ADVICE,
            ),
            "collapse": (
                "Everything gets nearly the same probability of being right, so the rewards tell a policy nothing.",
                "Check that both labels occur and that they are not contradictory, raise optim.lr, and regularise less "
                "(weight decay).",
            ),
            "unstable": UNSTABLE,
        },
    )


PAIRS = Words(
    judged="pairs",
    trained_on="training pairs",
    spread_of="scores'",
    reasons={
        "not learning": (
            "A third of the run is over and the model still ranks unseen pairs no better than a coin.",
            "Lower optim.lr, and check the data: read 20 quarantined pairs and 20 pairs that the model ranks the wrong "
            "way round. Swapped columns and labels made by chance look like this.",
        ),
        "overfit": (
            "The model knows its training pairs by heart; on answers it has not seen, its rewards are worth less than "
            "the training figures say.",
            OVERFIT_ADVICE,
        ),
        "collapse": (
            "Every answer gets nearly the same score, so the rewards tell a policy nothing.",
            "Check that the preferences are not contradictory or swapped, raise optim.lr, and regularise less "
            "(weight decay, objective.center).",
        ),
        "unstable": UNSTABLE,
    },
)
WORDS = {"outcome": _labelled("completions", "completions"), "process": _labelled("solutions", "steps")}
"""By objective; of others, which compare completions, PAIRS."""
