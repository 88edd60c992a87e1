"""What became of every row: the sum to print, and the checks that stop a job. No Ray; called by `prepare`.

rows in = train + eval + quarantined + dropped.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmray.config.train import DataConfig
from rmray.data.prepared import Manifest
from rmray.errors import DataError, TrainingError

_log = logging.getLogger(__name__)

# Words for what a reader should know of rows that were kept.
NOTES = {
    "contradicting_rows": "rows contradict another row of the same prompt and completions (kept)",
    "duplicate_rows": "rows repeat another one (kept)",
    "overlapping_prompts": "prompts are in train and in eval",
    "overlapping_eval_rows": "eval rows have a prompt that is in train too",
    "rows_with_separators_in_steps": "rows have steps that hold the step separator: as plain text they are more steps",
    "rows_with_ties": "rows have completions that tie (kept: some are better than others)",
    "rows_with_escaped_special_tokens": "rows hold special tokens in their text, made harmless",
    "truncated_rows": "rows lost the oldest tokens of their prompt",
}


def format_ledger(manifest: Manifest) -> str:
    """The sum, the reasons behind it and the notes, one a line."""
    train, held_out = manifest.train, manifest.eval
    quarantined, dropped = sum(manifest.quarantined.values()), sum(manifest.dropped.values())
    lines = [
        f"rows in {manifest.rows_in:,} = train {train.num_rows:,} + eval {held_out.num_rows:,} "
        f"+ quarantined {quarantined:,} + dropped {dropped:,}",
        f"  train        {train.num_tokens:>14,} tokens in {len(train.windows):,} windows",
        f"  eval         {held_out.num_tokens:>14,} tokens in {len(held_out.windows):,} windows",
    ]
    for name, counts in (("quarantined", manifest.quarantined), ("dropped", manifest.dropped)):
        lines += [f"  {name:<12} {count:>14,} {code}" for code, count in counts.items()]
    lines += [
        f"  note         {manifest.notes[name]:>14,} {words}" for name, words in NOTES.items() if name in manifest.notes
    ]
    return "\n".join(lines)


def write_quarantine(rows: list[dict[str, Any]], path: Path) -> None:
    """quarantine.jsonl: one object a bad row, in the order of file and line."""
    rows.sort(key=lambda q: (q["file"], q["line"]))
    path.write_text("".join(json.dumps(q) + "\n" for q in rows))


def check_sum(manifest: Manifest) -> None:
    """Raise TrainingError where a row was lost or counted twice: a fault of ours, not of the input."""
    rows_in, *rows_out = manifest.ledger().values()
    if sum(rows_out) != rows_in:
        raise TrainingError(
            f"{rows_in} rows came in, but {sum(rows_out)} are accounted for", why=format_ledger(manifest)
        )


def check_quarantined(
    config: DataConfig, quarantined: Mapping[str, int], rows_in: int, written: Path, keep: Path | None = None
) -> None:
    """Raise DataError where too many rows are bad.

    quarantined: rows by code. written: quarantine.jsonl. keep: where a copy of it goes before the unfinished set is
    deleted.
    """
    share = sum(quarantined.values()) / rows_in if rows_in else 0.0
    if share <= config.max_quarantined:
        return
    if keep is not None:
        shutil.copy(written, keep)
    code, count = max(quarantined.items(), key=lambda item: item[1])
    with written.open() as file:
        first = next(q for q in map(json.loads, file) if q["code"] == code)
    raise DataError(
        f"{share:.1%} of the rows are bad, {config.max_quarantined:.1%} are allowed (data.max_quarantined)",
        where=str(keep or written),
        why=f"most often `{code}` ({count} rows), first in {first['file']} line {first['line']}: {first['reason']}",
        next_step="mend the rows, map the columns (data.columns), or raise data.max_quarantined",
    )


def check_kept(config: DataConfig, manifest: Manifest) -> None:
    """Raise DataError where no row is left in a split that was asked for."""
    for split, wanted in (("train", True), ("eval", bool(config.eval))):
        if wanted and not getattr(manifest, split).num_rows:
            raise DataError(
                f"no row is left in {split}",
                where=", ".join(getattr(config, split)),
                why=format_ledger(manifest),
                next_step="raise data.max_length if rows were dropped for their length",
            )


def check_content(config: DataConfig, manifest: Manifest) -> None:
    """Warn, or raise DataError in strict mode, where train and eval share prompts; warn of written-out tokens."""
    escaped = manifest.notes.get("rows_with_escaped_special_tokens", 0)
    if escaped:
        _log.warning("%d rows hold special tokens in their text: they are read as text", escaped)
    prompts = manifest.notes.get("overlapping_prompts", 0)
    if not prompts:
        return
    rows = manifest.notes["overlapping_eval_rows"]
    what = f"train and eval share {prompts} prompts: {rows} of {manifest.eval.num_rows} eval rows"
    if config.strict_overlap:
        raise DataError(
            what,
            where=", ".join(config.eval),
            why="accuracy on prompts that were trained on says little (data.strict_overlap is on)",
            next_step="take these prompts out of one of them, or hold prompts out with data.holdout",
        )
    _log.warning("%s; accuracy on them says little", what)
