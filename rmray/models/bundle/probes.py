"""Choose what goldens are made of: given requests, or a spread of the reference set, and fixed probes. No tensors."""

from __future__ import annotations

from collections.abc import Sequence

from rmray.models.bundle.goldens import Encoder
from rmray.schema import ScoreFailure, ScoreRequest

NUM_CHOSEN = 8
MAX_COMPLETIONS = 4  # of one golden: a group, so that shared prefixes are checked, but a small one
MAX_GOLDEN_TOKENS = 2048  # goldens are scored at every load, on a CPU at worst

# What tokenizers and templates most often get wrong from one version to the next.
PROBES = (
    ScoreRequest(
        prompt="What is 17 × 3?\n\nThink  twice — “naïve” answers fail. ",
        completions=("It is 51.\n", "\tIt is 54!", "It is 51, and  日本語 🙂 is no number"),
        finished=(True, True, False),
        id="probe-text",
    ),
    ScoreRequest(
        prompt="Say the tags.",
        completions=("</s> <|im_end|> <|endoftext|> <eos> [SEP]", "I would rather not."),
        id="probe-tags",
    ),
    ScoreRequest(
        prompt=(
            {"role": "user", "content": "Name a prime."},
            {"role": "assistant", "content": "Seven."},
            {"role": "user", "content": " Another one, please:\n- above 10 "},
        ),
        completions=("Eleven.", "Twelve.\n\n```python\nprint(12)\n```", "Thir"),
        finished=(True, True, False),
        id="probe-chat",
    ),
)


def choose_goldens(
    encoder: Encoder, goldens: Sequence[ScoreRequest], reference: Sequence[ScoreRequest]
) -> list[ScoreRequest]:
    """`goldens`, or NUM_CHOSEN of `reference` from the shortest to the longest; and those probes the model can render.

    A model without a chat template renders no messages, and a policy may refuse unfinished completions.
    """
    chosen = list(goldens) or _spread(encoder, reference)
    encoded = encoder.encode(PROBES)
    probes = [e.request for e in encoded if not any(isinstance(slot, ScoreFailure) for slot in e.slots)]
    return [*chosen, *probes]


def _spread(encoder: Encoder, reference: Sequence[ScoreRequest]) -> list[ScoreRequest]:
    candidates = encoder.encode(reference[: 32 * NUM_CHOSEN])
    whole = [
        e
        for e in candidates
        if len(e.slots) <= MAX_COMPLETIONS
        and 0 < e.num_tokens <= MAX_GOLDEN_TOKENS
        and not any(isinstance(slot, ScoreFailure) for slot in e.slots)
    ]
    by_length = sorted(whole, key=lambda e: e.num_tokens)
    last = len(by_length) - 1
    places = sorted({round(i * last / (NUM_CHOSEN - 1)) for i in range(NUM_CHOSEN)}) if by_length else []
    return [by_length[i].request for i in places]
