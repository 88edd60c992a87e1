"""What a prepared set is made from: its files, and the key that names the set by their content. Called by `prepare`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from rmray.config.train import DataConfig
from rmray.data.pairs import RULES_OF_THE_ROW, MarginRule
from rmray.data.prepared import PREPARED_FORMAT
from rmray.data.render import RenderRules
from rmray.data.sources import InputFile, find_files
from rmray.data.sources.records import KINDS
from rmray.errors import DataError

PREPARE_VERSION = 2  # raise it when the same input would be checked, keyed or laid out otherwise


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """Everything that a prepared set follows from. inputs: (split, file) pairs. margin: what rows must bring for it."""

    config: DataConfig
    inputs: tuple[tuple[str, InputFile], ...]
    tokenizer_dir: str
    tokenizer_hash: str
    rules: RenderRules
    objective: str
    margin: MarginRule = "none"

    def key(self) -> str:
        """16 hex digits over content, never over paths: a moved file finds its set again."""
        content = {
            "versions": [PREPARED_FORMAT, PREPARE_VERSION],
            "inputs": sorted([split, file.format, file.digest] for split, file in self.inputs),
            "tokenizer": self.tokenizer_hash,
            "rules": asdict(self.rules),
            "columns": dict(self.config.columns),
            "holdout": None if self.config.eval else self.config.holdout,
            "kind": KINDS[self.objective],
            "margin": self.margin if self.margin in RULES_OF_THE_ROW else None,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def find_inputs(config: DataConfig) -> tuple[tuple[str, InputFile], ...]:
    """(split, file) of all inputs. Raises DataError where one is missing, empty, or given twice."""
    inputs = []
    for split, sources in (("train", config.train), ("eval", config.eval)):
        seen: dict[str, str] = {}
        for file in (file for source in sources for file in find_files(source)):
            if file.digest in seen:
                raise DataError(
                    f"the file is given twice in data.{split}",
                    where=file.path,
                    why=f"{seen[file.digest]} has the same content",
                    next_step="name each file once",
                )
            seen[file.digest] = file.path
            inputs.append((split, file))
    return tuple(inputs)


def input_entry(split: str, file: InputFile, num_rows: int) -> dict[str, Any]:
    """What the manifest says of one input."""
    return {
        "split": split,
        "path": file.path,
        "format": file.format,
        "sha256": file.digest,
        "num_bytes": file.num_bytes,
        "num_rows": num_rows,
    }
