"""Prepare small sets of rows on a real Ray: what the suites of prepare share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmray.config.train import DataConfig
from rmray.data.prepare import PreparedSet, prepare
from rmray.data.prepared import Row, read_window
from rmray.data.render import RenderRules


def pair(i: int, **more: Any) -> dict[str, Any]:
    """Row i: three rows a prompt."""
    return {"prompt": f"Question {i // 3}? ", "chosen": f"good {i}", "rejected": f"bad {i}", **more}


def write_rows(path: Path, rows: list[Any]) -> str:
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def rows_of(prepared: PreparedSet, split: str) -> list[Row]:
    return [row for w in getattr(prepared.manifest, split).windows for row in read_window(prepared.directory, w)]


class Preparing:
    """prepare() with the suite's tokenizer, rules and a folder of its own."""

    def __init__(self, root: Path, tokenizer_dir: str, rules: RenderRules) -> None:
        self.root, self.tokenizer_dir, self.rules = root, tokenizer_dir, rules

    def __call__(self, rules: RenderRules | None = None, **data: Any) -> PreparedSet:
        return prepare(
            DataConfig(**data),
            tokenizer_dir=self.tokenizer_dir,
            output_root=str(self.root / "prepared"),
            rules=rules or self.rules,
            objective="bradley_terry",
        )
