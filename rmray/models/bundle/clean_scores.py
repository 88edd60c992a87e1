"""Score token ids with plain transformers: a script that a fresh interpreter runs, so it imports nothing of rmray.

`goldens.clean_scores` starts it as `python -P clean_scores.py REQUEST.json ANSWER.json`. REQUEST has `directory`,
`adapter` (the folder of one that peft is to put over it, or null), `paths` (token ids), `prompt_lens`, `mean` (read the
mean over each completion, as no transformers class does) and `left` (whether the model may be padded on the left: a
decoder). ANSWER has the fp32 CPU scores of each path `alone`, of all paths in right-padded batches (`right`) and in
left-padded ones (`left`, or null), and the versions that gave them.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

BATCH = 4


def load(directory: str, adapter: str | None) -> Any:
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
    return model.eval()


def score(model: Any, paths: list[list[int]], prompt_lens: list[int], *, mean: bool, left: bool) -> list[float]:
    """Scores of one padded batch."""
    pad = model.config.get_text_config().pad_token_id
    longest = max(map(len, paths))
    fill = [[pad] * (longest - len(p)) for p in paths]
    ids = torch.tensor([f + p if left else p + f for p, f in zip(paths, fill, strict=True)])
    mask = torch.tensor(
        [[0] * len(f) + [1] * len(p) if left else [1] * len(p) + [0] * len(f) for p, f in zip(paths, fill, strict=True)]
    )
    inputs = {"input_ids": ids, "attention_mask": mask}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if left and "position_ids" in inspect.signature(plain.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)  # absolute positions would count the padding
    if not mean:
        scores: list[float] = model(**inputs).logits.squeeze(-1).double().tolist()
        return scores
    # The head over every hidden state, averaged over the completion's tokens.
    token_scores = plain.score(plain.base_model(**inputs).last_hidden_state).squeeze(-1).double()
    starts = [len(f) * left for f in fill]
    return [
        s[a + n : a + len(p)].mean().item() for s, p, n, a in zip(token_scores, paths, prompt_lens, starts, strict=True)
    ]


def main(request_file: str, answer_file: str) -> None:
    request = json.loads(Path(request_file).read_text())
    model = load(request["directory"], request["adapter"])
    paths, prompt_lens, mean = request["paths"], request["prompt_lens"], request["mean"]

    def in_batches(size: int, *, left: bool) -> list[float]:
        scores: list[float] = []
        for i in range(0, len(paths), size):
            scores += score(model, paths[i : i + size], prompt_lens[i : i + size], mean=mean, left=left)
        return scores

    with torch.inference_mode():
        answer = {
            "alone": in_batches(1, left=False),
            "right": in_batches(BATCH, left=False),
            "left": in_batches(BATCH, left=True) if request["left"] else None,
            "class": type(model).__name__,
            **({"peft": sys.modules["peft"].__version__} if request["adapter"] else {}),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    if any(name.split(".")[0] == "rmray" for name in sys.modules):
        raise SystemExit("rmray was imported: these scores would not be those of plain transformers")
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
