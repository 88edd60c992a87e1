"""The Ray Data door: input files become a prepared set, content-addressed, so that a second run reads the first's.

Called by `rmray prepare` and by training. reader -> validate, render, tokenise on an actor pool -> staged parts ->
split by prompt -> windows by hash range -> Parquet and manifest. Parts are sorted by hash and windows read their own
range of each, so that nothing is shuffled through the object store and two CPUs are enough.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from rmray.config.train import DataConfig, TrainConfig
from rmray.connect import connected
from rmray.data.execution import dataset_rows, quiet_data_context
from rmray.data.inputs import PreparePlan, find_inputs, input_entry
from rmray.data.keys import Keys, holdout_limit, window_bounds
from rmray.data.ledger import check_content, check_kept, check_quarantined, check_sum, format_ledger, write_quarantine
from rmray.data.pairs import MarginRule
from rmray.data.prepared import PREPARED_FORMAT, Manifest, Split, Window, load_manifest
from rmray.data.render import Renderer, RenderRules
from rmray.data.sources import InputFile, check_source
from rmray.data.sources.records import KINDS
from rmray.data.staging import raw_tables, stage_batch
from rmray.data.tokenizer import load_base_tokenizer, load_tokenizer, tokenizer_hash
from rmray.data.windows import Holdout, part_keys, write_windows
from rmray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreparedSet", "format_ledger", "prepare", "prepare_for", "rules_of"]

PART_ROWS = 2048  # rows that an actor turns into one part
# Logical: one reader and one actor fit on a single CPU, one reader and two actors on two.
READER_CPUS, ACTOR_CPUS = 0.25, 0.75
BYTES_PER_ACTOR = 4 * 2**20  # of input: smaller sets start fewer actors, each costs seconds to start
WINDOWS_PER_TASK = 16


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """Where a prepared set lies, and whether an earlier run had made it."""

    directory: Path
    manifest: Manifest
    cached: bool


def prepare_for(config: TrainConfig) -> PreparedSet:
    """Prepare what a training config names, for its base model, under `run.storage`/prepared."""
    base = config.model.base
    tokenizer, _ = load_base_tokenizer(base)
    return prepare(
        config.data,
        tokenizer_dir=base,
        output_root=str(Path(config.run.storage) / "prepared"),
        rules=rules_of(config, tokenizer),
        objective=config.objective.name,
        margin=config.objective.margin,
    )


def rules_of(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> RenderRules:
    """How a training config has rows rendered, with a tokenizer that has its pad token."""
    return RenderRules.for_tokenizer(
        tokenizer,
        max_length=config.data.max_length,
        over_length=config.data.over_length,
        think=config.data.think,
        step_separator=config.data.step_separator if KINDS[config.objective.name] == "process" else None,
    )


def prepare(
    config: DataConfig,
    *,
    tokenizer_dir: str,
    output_root: str,
    rules: RenderRules,
    objective: str,
    margin: MarginRule = "none",
) -> PreparedSet:
    """Make the prepared set of `config` under `output_root`, or find it there.

    margin: how training finds target margins; a row that lacks what it needs is quarantined. The set's name is a hash
    of the files' content, the tokenizer, the rules, the column mapping, the holdout, what margins need, and their
    versions. Uses the Ray that is initialised; else joins RAY_ADDRESS, or starts a local Ray and stops it again.

    Raises ConfigError, ModelError, DataError: a damaged or empty input file, too many quarantined rows, a holdout that
    leaves nothing, and, where `strict_overlap` asks for it, prompts that train and eval share.
    """
    check_source(objective, config.columns)
    local = Path(tokenizer_dir).expanduser()
    tokenizer_dir = str(local.resolve()) if local.is_dir() else tokenizer_dir  # workers run in another folder
    tokenizer = load_tokenizer(tokenizer_dir)
    Renderer(tokenizer, rules)  # refuses rules of another tokenizer before anything starts
    inputs = find_inputs(config)
    plan = PreparePlan(config, inputs, tokenizer_dir, tokenizer_hash(tokenizer), rules, objective, margin)
    root = Path(output_root).expanduser().resolve()
    directory = root / plan.key()
    if (directory / "manifest.json").is_file():
        found = PreparedSet(directory, load_manifest(directory), True)
        check_quarantined(config, found.manifest.quarantined, found.manifest.rows_in, directory / "quarantine.jsonl")
        check_content(config, found.manifest)
        return found
    work = root / f".{plan.key()}-{uuid.uuid4().hex[:8]}"
    try:
        _make_directory(work / "staged")
        with connected(), quiet_data_context():
            manifest = _build(plan, work)
        check_kept(config, manifest)
        check_content(config, manifest)
        shutil.rmtree(work / "staged")
        manifest.save(work)
        if not (directory / "manifest.json").is_file():  # another run may have been quicker
            shutil.rmtree(directory, ignore_errors=True)
            work.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return PreparedSet(directory, load_manifest(directory), False)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            "prepared sets cannot be written here", where=str(path.parent.parent), why=str(error)
        ) from error


def _build(plan: PreparePlan, work: Path) -> Manifest:
    """Stage, split and lay out; everything but the last steps of the manifest's life."""
    staged = _stage(plan, work / "staged")
    rows_in = sum(staged.rows_read.values())
    quarantined = dict(sorted(Counter(q["code"] for q in staged.quarantined).items()))
    write_quarantine(staged.quarantined, work / "quarantine.jsonl")
    keep = work.parent / f"{plan.key()}-quarantine.jsonl"  # the unfinished set is deleted, what is wrong is not
    check_quarantined(plan.config, quarantined, rows_in, work / "quarantine.jsonl", keep)
    parts = {split: [p for s, p in staged.parts if s == split] for split in ("train", "eval")}
    keys: dict[str, Keys] = {split: part_keys(paths) for split, paths in parts.items()}
    notes = Counter(staged.notes)
    pieces: dict[str, tuple[list[Path], Holdout]] = {s: (parts[s], Holdout()) for s in parts}
    if not plan.config.eval and plan.config.holdout is not None:
        limit = holdout_limit(np.unique(keys["train"]), plan.config.holdout)
        pieces = {"train": (parts["train"], Holdout(low=limit)), "eval": (parts["train"], Holdout(high=limit))}
        keys = {split: keys["train"][holdout.mask(keys["train"])] for split, (_, holdout) in pieces.items()}
    else:
        shared = np.intersect1d(keys["train"], keys["eval"])
        notes["overlapping_prompts"] = len(shared)
        notes["overlapping_eval_rows"] = int(np.isin(keys["eval"], shared).sum())
    notes["prompts"] = sum(len(np.unique(k)) for k in keys.values())
    notes["max_prompt_rows"] = max(int(np.unique(k, return_counts=True)[1].max(initial=0)) for k in keys.values())
    layout = _lay_out(pieces, keys, work, notes) if any(map(len, keys.values())) else {}
    manifest = Manifest(
        format=PREPARED_FORMAT,
        key=plan.key(),
        inputs=tuple(input_entry(split, file, staged.rows_read[split, file.path]) for split, file in plan.inputs),
        tokenizer_hash=plan.tokenizer_hash,
        render_rules=asdict(plan.rules),
        rows_in=rows_in,
        quarantined=quarantined,
        dropped=dict(sorted(staged.dropped.items())),
        notes={name: count for name, count in sorted(notes.items()) if count},
        train=Split(tuple(layout.get("train", ()))),
        eval=Split(tuple(layout.get("eval", ()))),
    )
    check_sum(manifest)
    return manifest


@dataclass(frozen=True, slots=True)
class _Staged:
    parts: list[tuple[str, Path]]
    rows_read: dict[tuple[str, str], int]
    quarantined: list[dict[str, Any]]
    dropped: Counter[str]
    notes: Counter[str]


def _stage(plan: PreparePlan, directory: Path) -> _Staged:
    """Reader tasks feed an actor pool, which writes parts and returns one summary row a part."""
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    wanted = -(-sum(file.num_bytes for _, file in plan.inputs) // BYTES_PER_ACTOR)
    columns = dict(plan.config.columns)
    files = [{"split": split, "index": i} for i, (split, _) in enumerate(plan.inputs)]
    inputs = [file for _, file in plan.inputs]
    summaries = (
        ray.data.from_items(files, override_num_blocks=len(files))
        .map_batches(
            partial(_read, inputs=inputs, columns=columns), batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS
        )
        .map_batches(
            _Stager,
            batch_size=PART_ROWS,
            batch_format="pyarrow",
            num_cpus=ACTOR_CPUS,
            compute=ActorPoolStrategy(min_size=1, max_size=max(1, min(wanted, int(cpus)))),
            fn_constructor_kwargs={
                "tokenizer_dir": plan.tokenizer_dir,
                "rules": plan.rules,
                "objective": plan.objective,
                "margin": plan.margin,
                "columns": columns,
                "directory": str(directory),
            },
        )
    )
    staged = _Staged([], {}, [], Counter(), Counter())
    for row in dataset_rows(summaries):
        summary = json.loads(row["summary"])
        staged.parts.extend((split, Path(path)) for split, path in summary["parts"])
        staged.rows_read.update({(split, path): n for split, path, n in summary["rows_read"]})
        staged.quarantined.extend(summary["quarantined"])
        staged.dropped.update(summary["dropped"])
        staged.notes.update(summary["notes"])
    staged.parts.sort()
    return staged


def _read(batch: Any, *, inputs: Sequence[InputFile], columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """All rows of one input file."""
    yield from raw_tables(inputs[batch["index"][0].as_py()], batch["split"][0].as_py(), columns)


class _Stager:
    """One actor of the pool: keeps the tokenizer, turns each batch of raw rows into parts."""

    def __init__(
        self,
        tokenizer_dir: str,
        rules: RenderRules,
        objective: str,
        margin: MarginRule,
        columns: Mapping[str, str],
        directory: str,
    ) -> None:
        self._stage = partial(
            stage_batch,
            renderer=Renderer(load_tokenizer(tokenizer_dir), rules),
            objective=objective,
            margin=margin,
            columns=columns,
            directory=Path(directory),
        )

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        summary = self._stage(batch)
        return {"summary": [json.dumps(summary)]}


def _lay_out(
    pieces: Mapping[str, tuple[list[Path], Holdout]], keys: Mapping[str, Keys], work: Path, notes: Counter[str]
) -> dict[str, list[Window]]:
    """One task for each run of windows; each reads its hash range of every part."""
    tasks = []
    for split, (parts, holdout) in pieces.items():
        bounds = window_bounds(len(keys[split]))
        for first in range(0, len(bounds) - 1 if len(keys[split]) else 0, WINDOWS_PER_TASK):
            task = {
                "parts": parts,
                "directory": work,
                "split": split,
                "holdout": holdout,
                "first": first,
                "bounds": bounds[first : first + WINDOWS_PER_TASK + 1],
            }
            tasks.append(task)
    reference = ray.put(tasks)
    numbers = ray.data.from_items([{"task": i} for i in range(len(tasks))], override_num_blocks=len(tasks))
    results = numbers.map_batches(partial(_write, tasks=reference), batch_size=1, batch_format="pyarrow", num_cpus=0.5)
    layout: dict[str, list[Window]] = {}
    for row in dataset_rows(results):
        result = json.loads(row["result"])
        layout.setdefault(result["split"], []).extend(Window(**w) for w in result["windows"])
        notes.update(result["notes"])
    return {split: sorted(windows, key=lambda w: w.path) for split, windows in layout.items()}


def _write(batch: Any, *, tasks: Any) -> dict[str, list[str]]:
    task = ray.get(tasks)[batch["task"][0].as_py()]
    windows, notes = write_windows(**task)
    return {"result": [json.dumps({"split": task["split"], "windows": [asdict(w) for w in windows], "notes": notes})]}
