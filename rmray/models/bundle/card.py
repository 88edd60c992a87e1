"""The bundle's README.md: what it is and how plain transformers loads it. Written by export; people read it."""

from __future__ import annotations

import json
from pathlib import Path

from rmray.models.bundle.manifest import CARD_NAME, PLAIN, BundleManifest

PLAIN_USE = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(DIR)
model = AutoModelForSequenceClassification.from_pretrained(DIR, dtype=torch.float32).eval()
example = json.load(open(f"{DIR}/goldens.json"))["items"][0]
with torch.inference_mode():
    score = model(torch.tensor([example["token_ids"][0]])).logits[0, 0].item()  # == example["scores"][0]
```
"""


def write_card(directory: Path, manifest: BundleManifest) -> None:
    """Write DIR/README.md, with the header that model hubs read."""
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "rmray"],
        **({"base_model": manifest.base_model} if manifest.base_model else {}),
        **({"license": manifest.license} if manifest.license else {}),
    }
    reference = manifest.reference
    plain = manifest.loads_with == PLAIN
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        "---",
        "",
        f"# {manifest.name}",
        "",
        f"A reward model ({manifest.kind}, objective `{manifest.objective}`, pooling `{manifest.pooling}`). "
        f"`rmray score`, `rmray evaluate` and `rmray serve` take this directory; `rmray.json` holds its rules.",
        "",
        f"A reward is (score - {reference.mean:.6g}) / {reference.std:.6g}: mean and standard deviation over "
        f"{reference.num_scores} reference completions ({reference.source}, {reference.hash}).",
        "",
        "## With plain transformers" if plain else "No transformers class reads this pooling: load it with rmray.",
        "",
        *([PLAIN_USE.replace("import torch", "import json\n\nimport torch", 1)] if plain else []),
    ]
    (directory / CARD_NAME).write_text("\n".join(lines), encoding="utf-8")
