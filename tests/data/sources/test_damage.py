"""Bad rows stay in their place and are told; a file that is damaged, empty or cut off stops the job and is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmray.data.sources import read_records
from rmray.errors import DataError, RowError
from tests.data.sources.files import KINDS, ROWS, codes, jsonl, parquet, read


def test_bad_csv_rows_are_told(tmp_path: Path) -> None:
    rows = {
        b"p,a,b,1": "good",
        b"p,a,b,1,2": "broken_csv",  # a cell too many
        b'p,"a"x,b,1': "broken_csv",
        b"p,a,b,x": "broken_csv",  # no number
        b"p,\xff,b,1": "invalid_utf8",
        b"p,\0,b,1": "nul_character",
        b"p,,b,1": "blank_completion",
        b"p,a": "blank_completion",
        b"p,a,b,nan": "bad_number",
    }
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\n".join([b"prompt,chosen,rejected,margin", *rows]) + b"\n")
    assert codes(path) == list(rows.values())


def test_parquet_rows_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    bad = pa.array([b"good", b"\xff\xfe"]).view(pa.binary()).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    table = pa.table({"prompt": ["p", "q"], "chosen": text, "rejected": ["b", "c"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert codes(tmp_path / "rows.parquet") == ["good", "invalid_utf8"]


# Bad input 1 and 2: broken JSON lines, invalid UTF-8, NUL.


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"prompt": "p", "chosen": "a", "rejected": }', "broken_json"),
        (b'{"prompt": "p", "chosen": "a"', "broken_json"),  # cut off, but not at the end of the file
        (b"chosen: a", "broken_json"),
        (b"[" * 200_000, "broken_json"),  # too deep for the parser
        (b'{"n": ' + b"9" * 5000 + b"}", "broken_json"),  # too long for an int
        (b'"a string"', "not_an_object"),
        (b"[1, 2]", "not_an_object"),
        (b'{"prompt": "p", "chosen": "\xff", "rejected": "b"}', "invalid_utf8"),
        (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "invalid_utf8"),
        (b'{"prompt": "p", "chosen": "a\0b", "rejected": "b"}', "nul_character"),
        (b'{"prompt": "p", "chosen": "a\\u0000b", "rejected": "b"}', "nul_character"),
        (b'{"prompt": "p", "chosen": "a", "rejected": "b", "margin": NaN}', "bad_number"),
    ],
)
def test_a_bad_line_is_told_and_passed(tmp_path: Path, line: bytes, code: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROWS[:1]) + line + b"\n" + jsonl(ROWS[1:2]))
    assert codes(path) == ["good", code, "good"]
    assert [n for _, n, r in read_records(str(path), objective="bradley_terry") if isinstance(r, RowError)] == [2]


def test_bad_elements_of_a_json_list_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROWS[0], 5, None, {"prompt": "p"}]))
    assert codes(path) == ["good", "not_an_object", "not_an_object", "missing_field"]


# Bad input 12: an empty or cut-off file stops the job, and is named.


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="empty") as error:
        read(tmp_path / name)
    assert error.value.where == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b"\n\n"),
        ("rows.jsonl.gz", gzip.compress(b"", mtime=0)),  # or the test's own name would hold the time
        ("rows.csv", b"prompt,chosen,rejected\n"),
        ("rows.json", b"[]"),
        ("rows.parquet", parquet(ROWS[:1])),
    ],
)
def test_a_file_without_a_row_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    if name == "rows.parquet":
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="holds no row") as error:
        read(tmp_path / name)
    assert error.value.where == str(tmp_path / name)


@pytest.mark.parametrize("name", [n for n in KINDS if n != "no-end-of-line.jsonl"])
def test_a_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    content = KINDS[name]([{**r, "prompt": f'a "quoted"\n{r["prompt"]}'} for r in ROWS])
    cut = content[: content.rindex(b"quoted")] if name == "rows.csv" else content[:-12]
    (tmp_path / name).write_bytes(cut)
    with pytest.raises(DataError, match="cut off") as error:
        read(tmp_path / name)
    assert error.value.where == str(tmp_path / name)


def test_a_file_may_be_cut_off_anywhere_in_its_last_line(tmp_path: Path) -> None:
    line = rb'{"prompt": "\u00e9\n", "chosen": "a", "rejected": "b", "margin": 1.5e-1, "x": [true, null, {"y": NaN}]}'
    path = tmp_path / "rows.jsonl"
    for end in range(1, len(line)):
        path.write_bytes(jsonl(ROWS[:1]) + line[:end])
        with pytest.raises(DataError, match="cut off in line 2"):
            read(path)
    path.write_bytes(jsonl(ROWS[:1]) + line)
    assert codes(path) == ["good", "good"]


@pytest.mark.parametrize("line", [b"{no json at all}", b'{"prompt": nope}', rb'{"prompt": "\uq"}', b'{"margin": 1.}'])
def test_a_broken_last_line_is_no_cut_off_file(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROWS[:1]) + line)
    assert codes(path) == ["good", "broken_json"]


def test_a_csv_header_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('"prompt"x,chosen,rejected\np,a,b\n')
    with pytest.raises(DataError, match="header") as error:
        read(path)
    assert error.value.where == str(path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(jsonl(ROWS)))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match="damaged") as error:
        read(tmp_path / "rows.jsonl.gz")
    assert error.value.where == str(tmp_path / "rows.jsonl.gz")
