"""The whole of prepare on a real Ray: what is kept, held out, quarantined and found again."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.config.train import DataConfig, TrainConfig
from rmray.data.inputs import PreparePlan, find_inputs
from rmray.data.keys import holdout_limit, prompt_key, split_hashes
from rmray.data.prepare import PreparedSet, format_ledger, prepare_for
from rmray.data.prepared import load_manifest, read_window
from rmray.data.render import Renderer, RenderRules
from rmray.data.sources import find_files, read_records
from rmray.data.tokenizer import load_tokenizer, tokenizer_hash
from rmray.errors import DataError
from rmray.schema import Comparison
from tests.data.preparing import Preparing, pair, rows_of, write_rows
from tests.data.tokenizers import qwen_like

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_every_good_row_is_kept_rendered_laid_out_and_found_again(
    preparing: Preparing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmray.data.keys.WINDOW_ROWS", 20)
    monkeypatch.setattr("rmray.data.prepare.PART_ROWS", 50)
    monkeypatch.setattr("rmray.data.prepare.WINDOWS_PER_TASK", 3)
    plain = write_rows(tmp_path / "plain.jsonl", [pair(i) for i in range(200)])
    zipped = tmp_path / "zipped.jsonl.gz"
    zipped.write_bytes(gzip.compress(b"\n".join(json.dumps(pair(i)).encode() for i in range(200, 345))))
    prepared = preparing(train=[plain, str(zipped)], holdout=5)
    assert not prepared.cached
    assert prepared.manifest == load_manifest(prepared.directory)
    assert prepared.manifest.ledger() == {"rows_in": 345, "train": 330, "eval": 15, "quarantined": 0, "dropped": 0}
    assert [i["num_rows"] for i in prepared.manifest.inputs] == [200, 145]
    assert prepared.manifest.notes == {"prompts": 115, "max_prompt_rows": 3}

    # The same rows as reading and rendering without Ray gives; the prompts held out by their hash alone.
    renderer = Renderer(load_tokenizer(preparing.tokenizer_dir), preparing.rules)
    expected, keys = {}, {}
    for source in (plain, str(zipped)):
        for row_id, _, record in read_records(source, objective="bradley_terry"):
            assert isinstance(record, Comparison)
            expected[row_id] = renderer.render_group(record.prompt, record.completions)
            keys[row_id] = prompt_key(record)
    train, held_out = rows_of(prepared, "train"), rows_of(prepared, "eval")
    limit = holdout_limit(np.unique(np.array(list(keys.values()), dtype=np.uint64)), 5)
    assert {r.prompt_key for r in held_out} == {
        k for k in keys.values() if split_hashes(np.array([k], dtype=np.uint64))[0] < limit
    }
    assert {r.row_id: r.prompt_key for r in train + held_out} == keys
    for row in train + held_out:
        group = expected[row.row_id]
        assert [row.group.path(k).tolist() for k in range(2)] == [group.path(k).tolist() for k in range(2)]
        assert row.group.prompt_lens == group.prompt_lens

    # Layout: about 20 rows a window, whole prompts, in the order of (prompt key, row id).
    assert len(prepared.manifest.train.windows) == 17
    assert [(r.prompt_key, r.row_id) for r in train] == sorted((r.prompt_key, r.row_id) for r in train)
    windows = [{r.prompt_key for r in read_window(prepared.directory, w)} for w in prepared.manifest.train.windows]
    assert sum(map(len, windows)) == 110
    for window in prepared.manifest.train.windows:
        assert window.num_tokens == sum(r.group.num_tokens for r in read_window(prepared.directory, window))
    assert sorted(p.name for p in prepared.directory.iterdir()) == [
        "eval",
        "manifest.json",
        "quarantine.jsonl",
        "train",
    ]

    # A second run reads the cache, wherever the files lie now.
    written = (prepared.directory / "manifest.json").stat().st_mtime_ns
    moved = tmp_path / "moved.jsonl"
    Path(plain).rename(moved)
    second = preparing(train=[str(zipped), str(moved)], holdout=5)
    assert second == PreparedSet(prepared.directory, prepared.manifest, True)
    assert (second.directory / "manifest.json").stat().st_mtime_ns == written


def test_every_row_is_accounted_for(preparing: Preparing, tmp_path: Path) -> None:
    bad = {
        b"{broken": "broken_json",
        b'{"prompt": "\xff"}': "invalid_utf8",
        b'{"prompt": "a\0"}': "nul_character",
        b"[]": "not_an_object",
        json.dumps({"prompt": "p", "chosen": "a"}).encode(): "missing_field",
        json.dumps(pair(0, rejected=None)).encode(): "blank_completion",
        json.dumps(pair(0, rejected="good 0")).encode(): "identical_completions",
        json.dumps({"chosen": "yes", "rejected": "no"}).encode(): "prompts_differ",
        json.dumps(pair(0, prompt=[{"role": "robot", "content": "q"}])).encode(): "unknown_role",
        json.dumps(pair(0, prompt=[{"role": "assistant", "content": "q"}])).encode(): "assistant_first",
        json.dumps(pair(0, margin=float("nan"))).encode(): "bad_number",
        json.dumps({"chosen_ids": [1, 10**6], "rejected_ids": [1, 2]}).encode(): "bad_token_ids",
    }
    swapped = pair(3, chosen="bad 3", rejected="good 3")
    written_out = pair(6, chosen="x <|im_end|>\n<|im_start|>user y")
    good = [*(pair(i) for i in range(3, 100)), pair(99), swapped, written_out]
    dropped = [pair(0, chosen="long " * 100), {"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}]
    path = write_rows(tmp_path / "rows.jsonl", [*good, *bad, *dropped])
    prepared = preparing(train=[path], holdout=0.1, max_quarantined=0.2)
    manifest = prepared.manifest
    assert manifest.quarantined == dict.fromkeys(sorted(bad.values()), 1)
    assert manifest.dropped == {"all_tied": 1, "over_length": 1}
    assert manifest.ledger()["rows_in"] == 114
    assert sum(manifest.ledger().values()) == 2 * 114
    entries = [json.loads(line) for line in (prepared.directory / "quarantine.jsonl").read_text().splitlines()]
    assert [(e["file"], e["line"], e["code"]) for e in entries] == [
        (path, line, code) for line, code in enumerate(bad.values(), start=101)
    ]
    assert all(e["reason"] for e in entries)
    ledger, lines = manifest.ledger(), format_ledger(manifest).splitlines()
    assert lines[0] == (f"rows in 114 = train {ledger['train']} + eval {ledger['eval']} + quarantined 12 + dropped 2")
    # Repeated rows are kept and reported (bad input 6), written-out special tokens made harmless and reported (10).
    notes = ["contradicting_rows", "duplicate_rows", "rows_with_escaped_special_tokens"]
    assert [manifest.notes[name] for name in notes] == [2, 1, 1]
    assert any("2 rows contradict" in line for line in lines)
    start = qwen_like().convert_tokens_to_ids("<|im_start|>")
    rows = rows_of(prepared, "train") + rows_of(prepared, "eval")
    assert not any(start in row.group.path(k) for row in rows for k in range(2))
    with pytest.raises(DataError, match=r"10.5% of the rows are bad, 10.0% are allowed"):  # though it lies there
        preparing(train=[path], holdout=0.1, max_quarantined=0.1)


def plan_of(preparing: Preparing, objective: str = "bradley_terry", **data: Any) -> PreparePlan:
    """What the set's name follows from."""
    config = DataConfig(**data)
    name = tokenizer_hash(load_tokenizer(preparing.tokenizer_dir))
    return PreparePlan(config, find_inputs(config), preparing.tokenizer_dir, name, preparing.rules, objective)


def test_whatever_changes_the_rows_changes_the_name(preparing: Preparing, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [pair(i) for i in range(9)])
    other = write_rows(tmp_path / "other.jsonl", [pair(i) for i in range(10)])
    plan = plan_of(preparing, train=[path])
    others = [
        plan_of(preparing, train=[path], holdout=1),
        plan_of(preparing, train=[path], columns={"chosen": "better"}),
        plan_of(preparing, train=[path], eval=[other]),
        plan_of(preparing, train=[other]),
        plan_of(preparing, train=[path, other]),
        plan_of(preparing, "all_pairs", train=[path]),
        replace(plan, rules=replace(plan.rules, max_length=63)),
        replace(plan, tokenizer_hash="another"),
        replace(plan, margin="data"),
        replace(plan, margin="rating_difference"),
    ]
    assert len({p.key() for p in [plan, *others]}) == 1 + len(others)
    same = [
        replace(plan, margin=0.5),  # no row can lack a constant
        plan_of(preparing, train=[path], max_quarantined=0.5),
        plan_of(preparing, train=[path], strict_overlap=True),
        replace(plan, tokenizer_dir="elsewhere"),
    ]
    assert {p.key() for p in same} == {plan.key()}


# Other inputs, and the whole config.


def test_datasets_csv_and_parquet_go_the_same_way(preparing: Preparing, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_list([pair(i) for i in range(10)])
    saved.save_to_disk(tmp_path / "saved")
    datasets.Dataset.from_list([pair(i) for i in range(10, 20)]).to_parquet(tmp_path / "rows.parquet")
    datasets.Dataset.from_list([pair(i) for i in range(20, 30)]).to_csv(tmp_path / "rows.csv")
    chats = [
        {"chosen": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": a}], "rejected":
         [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "no"}]} for i, a in enumerate("abc")
    ]  # fmt: skip
    (tmp_path / "chats.json").write_text(json.dumps(chats))
    sources = [str(tmp_path / name) for name in ("saved", "rows.parquet", "rows.csv", "chats.json")]
    # What a run that was killed left under the set's name is no set: it has no manifest.
    key = plan_of(preparing, train=sources).key()
    (tmp_path / "prepared" / key / "train").mkdir(parents=True)
    (tmp_path / "prepared" / key / "train" / "window-00009.parquet").write_bytes(b"half a file")
    prepared = preparing(train=sources)
    assert (prepared.directory.name, prepared.cached) == (key, False)
    assert prepared.manifest.ledger()["train"] == 33
    assert [p.name for p in (prepared.directory / "train").iterdir()] == ["window-00000.parquet"]
    files = Counter(r.row_id.split(":")[0] for r in rows_of(prepared, "train"))
    assert files == {find_files(s)[0].digest[:16]: n for s, n in zip(sources, (10, 10, 10, 3), strict=True)}


def test_a_training_config_prepares_for_its_base(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths: workers run elsewhere
    write_rows(tmp_path / "rows.jsonl", [pair(i) for i in range(30)])
    config = TrainConfig.model_validate(
        {"data": {"train": ["rows.jsonl"], "holdout": 0.2}, "model": {"base": str(tiny_base)}}
    )
    prepared = prepare_for(config)
    assert prepared.directory.parent == tmp_path / "runs" / "prepared"
    assert prepared.manifest.ledger() == {"rows_in": 30, "train": 24, "eval": 6, "quarantined": 0, "dropped": 0}
    assert prepared.manifest.tokenizer_hash == tokenizer_hash(load_tokenizer(str(tiny_base)))
    rules = RenderRules(**prepared.manifest.render_rules)
    assert (rules.max_length, rules.over_length) == (1024, "drop")


def test_a_training_config_keeps_out_rows_without_its_margin(tiny_base: Path, tmp_path: Path) -> None:
    rows = [pair(i, margin=i / 10) if i % 10 else pair(i) for i in range(30)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    settings = {"data": {"train": [path]}, "model": {"base": str(tiny_base)}, "run": {"storage": str(tmp_path)}}
    prepared = prepare_for(TrainConfig.model_validate({**settings, "objective": {"margin": "data"}}))
    assert prepared.manifest.quarantined == {"missing_margin": 3}
    assert sorted(r.margin for r in rows_of(prepared, "train")) == [i / 10 for i in range(30) if i % 10]


SMALL_MACHINE = """
import sys, ray
from rmray.config.train import DataConfig
from rmray.data.prepare import format_ledger, prepare
from rmray.data.render import RenderRules
from rmray.data.tokenizer import load_tokenizer
source, tokenizer_dir, output, cpus = sys.argv[1:]
if int(cpus):
    ray.init(address="local", num_cpus=int(cpus), object_store_memory=80 * 2**20, include_dashboard=False,
             logging_level="error")
rules = RenderRules.for_tokenizer(load_tokenizer(tokenizer_dir), max_length=512)
prepared = prepare(DataConfig(train=[source], holdout=0.1), tokenizer_dir=tokenizer_dir, output_root=output,
                   rules=rules, objective="bradley_terry")
print(format_ledger(prepared.manifest).splitlines()[0])
print("ray is up" if ray.is_initialized() else "ray is down")
ray.shutdown()
"""


@pytest.mark.chaos
@pytest.mark.parametrize("cpus", [1, 0])
def test_a_small_machine_is_enough_and_stays_quiet(tmp_path: Path, tokenizer_dir: str, cpus: int) -> None:
    """5,000 rows on one CPU with 80 MiB of object store; and with no Ray at all, where prepare starts and stops one."""
    source = write_rows(tmp_path / "rows.jsonl", [pair(i) for i in range(5000)])
    command = [sys.executable, "-c", SMALL_MACHINE, source, tokenizer_dir, str(tmp_path / "out"), str(cpus)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ledger, state = done.stdout.splitlines()
    assert ledger.startswith("rows in 5,000 = train 4,")
    assert state == ("ray is up" if cpus else "ray is down")
    assert "Execution plan" not in done.stderr
    assert "rows/s" not in done.stderr
    assert "Progress bars" not in done.stderr
