"""10,000 rows with 137 bad ones of 12 kinds: each is quarantined under its own name, and nothing else is lost."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rmray.config.train import DataConfig
from rmray.data.prepare import prepare
from rmray.data.prepared import read_window
from rmray.data.render import RenderRules
from tests.data.tokenizers import qwen_like

NUM_ROWS = 10_000


def pair(i: int, **more: object) -> bytes:
    """Row i: three rows a prompt."""
    row = {"prompt": f"Question {i // 3}? ", "chosen": f"good {i}", "rejected": f"bad {i}", **more}
    return json.dumps({k: v for k, v in row.items() if v != "left out"}).encode()


def chat(i: int, role: str) -> bytes:
    turns = [{"role": role, "content": f"Question {i}?"}]
    return json.dumps(
        {
            "chosen": [*turns, {"role": "assistant", "content": f"good {i}"}],
            "rejected": [*turns, {"role": "assistant", "content": "bad"}],
        }
    ).encode()


# (how many, what they look like, their code, how their reason begins); rows 1-5, 7, 8 and 11 of the list of bad inputs
KINDS: list[tuple[int, Callable[[int], bytes], str, str]] = [
    (17, lambda i: pair(i)[:-1], "broken_json", "the line is not JSON"),
    (16, lambda i: pair(i).replace(b"good", b"g\xffd"), "invalid_utf8", "the line is not UTF-8"),
    (15, lambda i: pair(i).replace(b"good", b"g\0d"), "nul_character", "the line holds a NUL character"),
    (14, lambda i: pair(i, rejected="left out"), "missing_field", "the column `rejected` is missing"),
    (13, lambda i: pair(i, chosen=None), "blank_completion", "`chosen` is null"),
    (12, lambda i: pair(i, rejected=" \n"), "blank_completion", "completion 1 is blank"),
    (11, lambda i: pair(i, rejected=f" good {i}"), "identical_completions", "`chosen` equals `rejected`"),
    (10, lambda i: pair(i, prompt=None), "prompts_differ", "`chosen` and `rejected` do not answer the same prompt"),
    (9, lambda i: chat(i, "robot"), "unknown_role", "`chosen` has the unknown role 'robot'"),
    (8, lambda i: chat(i, "assistant"), "assistant_first", "`chosen` starts with the assistant"),
    (7, lambda i: pair(i, margin=float("nan")), "bad_number", "`margin` is NaN or infinite"),
    (5, lambda i: pair(i, margin=-1.0), "bad_number", "`margin` is -1.0, below 0"),
]


@pytest.mark.usefixtures("ray_cluster")
def test_ten_thousand_rows_with_137_bad_ones_of_12_kinds(tmp_path: Path) -> None:
    assert (sum(kind[0] for kind in KINDS), len(KINDS)) == (137, 12)
    kind_of = np.full(NUM_ROWS, -1)
    places = np.random.default_rng(0).permutation(NUM_ROWS)[: 137 + 3]
    kind_of[places] = np.repeat(np.arange(13), [*(kind[0] for kind in KINDS), 3])
    lines = [
        pair(i, chosen="long " * 100) if kind == 12 else pair(i) if kind < 0 else KINDS[kind][1](i)
        for i, kind in enumerate(kind_of.tolist())
    ]
    files = {tmp_path / "rows.jsonl": range(6500), tmp_path / "zipped.jsonl.gz": range(6500, NUM_ROWS)}
    good: dict[str, int] = {}
    bad: list[tuple[str, int, str, str]] = []
    for path, part in files.items():
        content = b"".join(lines[i] + b"\n" for i in part)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for line, i in enumerate(part, start=1):
            if kind_of[i] < 0:
                good[f"{digest}:{line}"] = i
            elif kind_of[i] < 12:
                bad.append((str(path), line, *KINDS[kind_of[i]][2:]))

    tokenizer = qwen_like()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prepared = prepare(
        DataConfig(train=[str(path) for path in files], holdout=100),
        tokenizer_dir=str(tmp_path / "tokenizer"),
        output_root=str(tmp_path / "prepared"),
        rules=RenderRules.for_tokenizer(tokenizer, max_length=64),
        objective="bradley_terry",
    )

    entries = [json.loads(entry) for entry in (prepared.directory / "quarantine.jsonl").read_text().splitlines()]
    assert [(e["file"], e["line"], e["code"]) for e in entries] == [expected[:3] for expected in bad]
    assert all(e["reason"].startswith(reason) for e, (*_, reason) in zip(entries, bad, strict=True))
    by_reason = Counter(reason for *_, reason in bad)
    assert sorted(by_reason.values()) == sorted(kind[0] for kind in KINDS)
    by_code: Counter[str] = Counter()
    for count, _, code, _ in KINDS:
        by_code[code] += count
    manifest = prepared.manifest
    assert manifest.quarantined == dict(sorted(by_code.items()))
    assert manifest.dropped == {"over_length": 3}
    ledger = manifest.ledger()
    assert ledger["rows_in"] == NUM_ROWS == ledger["train"] + ledger["eval"] + 137 + 3
    assert [entry["num_rows"] for entry in manifest.inputs] == [6500, 3500]

    kept = {
        split: [row for window in part.windows for row in read_window(prepared.directory, window)]
        for split, part in (("train", manifest.train), ("eval", manifest.eval))
    }
    ids = [row.row_id for rows in kept.values() for row in rows]
    assert len(ids) == NUM_ROWS - 140
    assert set(ids) == good.keys()
    assert len({row.prompt_key for row in kept["eval"]}) == 100
    assert not {row.prompt_key for row in kept["eval"]} & {row.prompt_key for row in kept["train"]}
    for row in (row for rows in kept.values() for row in rows):  # an id names the row that it says
        i = good[row.row_id]
        texts = [tokenizer.decode(row.group.path(k)) for k in range(2)]
        assert texts == [f"Question {i // 3}? {answer} {i}<|im_end|>" for answer in ("good", "bad")]
