"""The card's "How to use it": with rmray, and with transformers where it gives the same scores. Called by the card."""

from __future__ import annotations

from rmray.models.bundle.card.facts import CardFacts
from rmray.models.bundle.card.kinds import kind_of
from rmray.models.bundle.card.markdown import code, md
from rmray.models.bundle.manifest import PLAIN, PLAIN_TOKENS, WITH_PEFT, BundleManifest

PLAIN_CODE = """\
import json
from pathlib import Path

import torch
{imports}from transformers import AutoModelForSequenceClassification, AutoTokenizer

DIR = {directory}
MEAN, STD = {mean!r}, {std!r}
tokenizer = AutoTokenizer.from_pretrained(DIR)
model = AutoModelForSequenceClassification.from_pretrained(DIR, dtype=torch.float32).eval()
{adapter}

def score(ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, 0].item()


{example}
if {eos} not in ids[-2:]:
    ids.append({eos})  # one end of sequence ends a finished completion
reward = (score(ids) - MEAN) / STD

# These conversations must give these scores: if they do, this is the model that was exported.
for item in json.loads(Path(DIR, "goldens.json").read_text(encoding="utf-8"))["items"]:
    for ids, (expected,) in zip(item["token_ids"], item["scores"]):
        assert abs(score(ids) - expected) < 1e-4
"""

CHAT_EXAMPLE = """\
# A conversation; its last message is the completion that is scored.
chat = [{"role": "user", "content": "Name a prime."}, {"role": "assistant", "content": "Seven."}]
ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False).input_ids"""

TEXT_EXAMPLE = """\
# A prompt and its completion, as one text.
ids = tokenizer("Question: name a prime. Answer:" + " Seven.").input_ids"""

APART = (
    "The weights are those of the base and the adapter lies in `adapter/`: transformers alone leaves it out without a "
    "word."
)
APART_TOKENS = f"""\
{APART} peft puts it on top:

```python
from peft import PeftModel
from transformers import {PLAIN_TOKENS}

model = {PLAIN_TOKENS}.from_pretrained("DIR", dtype="float32")
model = PeftModel.from_pretrained(model, "DIR/adapter").eval()
```
"""


def loading(manifest: BundleManifest, facts: CardFacts) -> list[str]:
    """How to score with it: with rmray, and with transformers alone where that gives the same scores."""
    kind = kind_of(manifest)
    directory = f'snapshot_download("{facts.repo}")' if facts.repo else '"path/to/this/directory"'
    download = "from huggingface_hub import snapshot_download\n" if facts.repo else ""
    lines = [
        "## How to use it",
        "",
        "With rmray, `DIR` being this directory:",
        "",
        "```bash",
        *([f"hf download {facts.repo} --local-dir DIR"] if facts.repo else []),
        f"rmray evaluate --bundle DIR --data {kind.file}",
        "rmray score --bundle DIR --input rows.jsonl --output scored",
        "rmray serve --bundle DIR --name reward-model",
        "```",
        "",
        "```python",
        "from rmray.client import RewardClient",
        "",
        'client = RewardClient.connect("reward-model")  # in any process of the Ray cluster that serves it',
        'results = client.score_group("Name a prime.", ["Seven.", "Nine."])',
        "rewards = [result.reward for result in results]",
        "```",
        "",
    ]
    if manifest.ensemble is not None:
        rule = code(manifest.ensemble.combination)
        return [
            *lines,
            f"Its members' rewards are combined ({rule}), and each result holds them and their disagreement. No "
            "transformers class does that: load it with rmray. Each of `members/0`, `members/1`, ... is a whole model "
            "by itself.",
            "",
        ]
    if manifest.loads_with not in (PLAIN, PLAIN_TOKENS, WITH_PEFT):
        pooling = md(manifest.pooling)
        return [*lines, f"No transformers class reads this pooling ({pooling}): load it with rmray.", ""]
    apart = manifest.loads_with == WITH_PEFT
    if kind.read:
        return [*lines, *([APART_TOKENS] if apart else []), _logits(kind.read, apart=apart), ""]
    eos = manifest.render_rules.get("eos_id")
    plain = PLAIN_CODE.format(
        imports=download + ("from peft import PeftModel\n" if apart else ""),
        adapter='model = PeftModel.from_pretrained(model, DIR + "/adapter").eval()\n' if apart else "",
        directory=directory,
        example=CHAT_EXAMPLE if manifest.render_rules.get("template_hash") else TEXT_EXAMPLE,
        eos=eos,
        mean=manifest.reference.mean,
        std=manifest.reference.std,
    )
    how = (
        f"With transformers and peft, to the same scores. {APART}"
        if apart
        else "With plain transformers, to the same scores:"
    )
    return [*lines, how, "", "```python", plain + "```", ""]


def _logits(read: str, *, apart: bool) -> str:
    """What transformers gives of a model with several scores a completion."""
    what = "Both together give" if apart else f"`{PLAIN_TOKENS}` loads it and gives"
    return (
        f"{what} the same logits: {read} is read, as goldens.json shows. Finding those tokens and making a reward of "
        "what they say is left to rmray."
    )
