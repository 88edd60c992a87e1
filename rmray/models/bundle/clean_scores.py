"""Score token ids with plain transformers: a script that a fresh interpreter runs, so it imports nothing of rmray.

`make_goldens.clean_scores` starts it as `python -P clean_scores.py REQUEST.json ANSWER.json`. REQUEST has `directory`,
`adapter` (the folder of one that peft is to put over it, or null), `paths` (token ids), `places` (of each path, the
tokens that are read), `read` (`sequence`: the score as transformers gives it; `mean`: the mean of the head over the
places, as no transformers class does; `tokens`: the probability of the one label at each place; `steps`: of each class
at each place) and `left` (whether the model may be padded on the left: a decoder). ANSWER has the fp32 CPU scores of
each path `alone`, of all paths in right-padded batches (`right`) and in left-padded ones (`left`, or null), one list a
path, and the versions that gave them.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

BATCH = 4


def load(directory: str, adapter: str | None, read: str) -> Any:
    auto: Any = transformers.AutoModelForSequenceClassification
    if read in ("tokens", "steps"):
        auto = transformers.AutoModelForTokenClassification
    model = auto.from_pretrained(directory, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
    return model.eval()


def score(model: Any, paths: list[list[int]], places: list[list[int]], *, read: str, left: bool) -> list[list[float]]:
    """Scores of one padded batch, a list a path."""
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
    if read == "sequence":
        scores: list[list[float]] = model(**inputs).logits.double().tolist()
        return scores
    if read == "mean":  # the head over every hidden state
        logits = plain.score(plain.base_model(**inputs).last_hidden_state).double()
        return [[at_places.mean().item()] for at_places in _at(logits, places, fill, left)]
    logits = model(**inputs).logits.double()
    activate = torch.sigmoid if read == "tokens" else lambda x: torch.softmax(x, dim=-1)
    return [activate(at_places).flatten().tolist() for at_places in _at(logits, places, fill, left)]


def _at(logits: torch.Tensor, places: list[list[int]], fill: list[list[int]], left: bool) -> list[torch.Tensor]:
    """The rows of each path's logits [L, labels] at its places."""
    starts = [len(f) * left for f in fill]
    return [row[[start + p for p in own]] for row, own, start in zip(logits, places, starts, strict=True)]


def main(request_file: str, answer_file: str) -> None:
    request = json.loads(Path(request_file).read_text())
    read, paths, places = request["read"], request["paths"], request["places"]
    model = load(request["directory"], request["adapter"], read)

    def in_batches(size: int, *, left: bool) -> list[list[float]]:
        scores: list[list[float]] = []
        for i in range(0, len(paths), size):
            scores += score(model, paths[i : i + size], places[i : i + size], read=read, left=left)
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
