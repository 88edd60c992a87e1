"""Files and datasets of every kind give the same records; bad rows stay in their place; damaged files are named."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmray.data.sources import find_files, hub, read_records
from rmray.errors import ConfigError, DataError, RowError
from rmray.schema import Comparison, OutcomeExample, ProcessExample, Record, Steps, TokenIds

ROWS = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "margin": i / 2} for i in range(5)]
EXPECTED = [
    Comparison(prompt=f"p{i}", completions=(f"good {i}", f"bad {i}"), ranks=(0, 1), margin=i / 2) for i in range(5)
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def csv_text(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=2)
    return out.getvalue()


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": jsonl,
    "rows.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "gzipped-by-surprise.jsonl": lambda rows: gzip.compress(jsonl(rows)),
    "rows.ndjson": jsonl,
    "rows.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "rows.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "lines-under-another-name.json": jsonl,
    "inside.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "rows.csv": csv_text,
    "rows.csv.gz": lambda rows: gzip.compress(csv_text(rows)),
    "rows.parquet": parquet,
    "with-bom.jsonl": lambda rows: b"\xef\xbb\xbf" + jsonl(rows),
    "windows.jsonl": lambda rows: jsonl(rows).replace(b"\n", b"\r\n"),
    "no-end-of-line.jsonl": lambda rows: jsonl(rows).rstrip(),
}


def read(path: Path | str, objective: str = "bradley_terry", **columns: str) -> list[Record | RowError]:
    return [r for _, _, r in read_records(str(path), objective=objective, columns=columns)]


def codes(path: Path) -> list[str]:
    return [r.code if isinstance(r, RowError) else "good" for r in read(path)]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[name](ROWS))
    assert read(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv", "rows.json"])
def test_row_ids_are_the_files_hash_and_the_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name](ROWS))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    found = [(row_id, line) for row_id, line, _ in read_records(str(path), objective="bradley_terry")]
    first = 2 if name.endswith("csv") else 1  # the header is line 1
    assert found == [(f"{digest}:{line}", line) for line in range(first, first + 5)]
    moved = tmp_path / "moved" / name
    moved.parent.mkdir()
    path.rename(moved)
    assert [i for i, _, _ in read_records(str(moved), objective="bradley_terry")] == [i for i, _ in found]


def test_lines_are_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gaps.jsonl"
    path.write_bytes(b"\n" + jsonl(ROWS[:1]) + b"\n \n" + jsonl(ROWS[1:2]))
    assert [line for _, line, _ in read_records(str(path), objective="bradley_terry")] == [2, 5]
    path = tmp_path / "quoted.csv"
    path.write_text('prompt,chosen,rejected\n"p\nq",a,b\np,c,d\n')
    assert [line for _, line, _ in read_records(str(path), objective="bradley_terry")] == [2, 4]


# Folders, globs, URLs and datasets.


def test_a_folder_and_a_glob_give_all_their_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS[2:]))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[:2])))
    (tmp_path / "README.md").write_text("no data")
    assert read(tmp_path) == EXPECTED
    assert read(f"{tmp_path}/*.jsonl*") == EXPECTED


def test_urls_of_pyarrow_and_fsspec(tmp_path: Path) -> None:
    import fsspec

    for name in ("rows.parquet", "rows.jsonl.gz", "rows.csv"):
        (tmp_path / name).write_bytes(KINDS[name](ROWS))
        assert read((tmp_path / name).as_uri()) == EXPECTED  # pyarrow's own
        url = f"memory://rmray-test/{name}"  # fsspec's
        with fsspec.open(url, "wb") as file:
            file.write(KINDS[name](ROWS))
        assert read(url) == EXPECTED
        assert find_files(url)[0].digest == find_files(str(tmp_path / name))[0].digest


def test_saved_datasets(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == EXPECTED
    both = datasets.DatasetDict({"train": whole, "test": datasets.Dataset.from_list(ROWS[:2])})
    both.save_to_disk(tmp_path / "two")
    assert read(f"{tmp_path}/two:test") == EXPECTED[:2]
    with pytest.raises(DataError, match="several splits") as error:
        read(tmp_path / "two")
    assert "train, test" in error.value.why
    with pytest.raises(DataError, match="no split `dev`"):
        read(f"{tmp_path}/two:dev")
    datasets.DatasetDict({"only": whole}).save_to_disk(tmp_path / "three")
    assert read(tmp_path / "three") == EXPECTED
    assert find_files(f"{tmp_path}/two:train")[0].digest == find_files(str(tmp_path / "one"))[0].digest
    whole.select([0, 1]).save_to_disk(tmp_path / "four")
    assert find_files(str(tmp_path / "four"))[0].digest != find_files(str(tmp_path / "one"))[0].digest


def test_a_folder_laid_out_as_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").write_bytes(parquet(ROWS))
    (folder / "test-00000-of-00001.parquet").write_bytes(parquet(ROWS[:1]))
    assert read(f"{tmp_path}/hub:train") == EXPECTED
    assert read(f"{tmp_path}/hub:test") == EXPECTED[:1]


def test_a_name_that_is_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for source in (f"{tmp_path}/missing.jsonl", "missing.parquet", "./missing"):
        with pytest.raises(DataError, match="no such file"):
            read(source)
    with pytest.raises(DataError, match="dataset of the Hub"):
        read("nobody/no-such-dataset")
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(DataError, match="unknown kind of file"):
        read(tmp_path / "rows.xlsx")


# What columnar files and CSV do to rows.


def test_messages_and_ids_in_every_kind(tmp_path: Path) -> None:
    question, good, bad = (
        {"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "g"), ("assistant", "b"))
    )
    chats = [{"prompt": [question], "chosen": [good], "rejected": [bad]}]
    ids = [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}]
    chat = Comparison(prompt=(question,), completions=((good,), (bad,)), ranks=(0, 1))
    tokens = Comparison(prompt=TokenIds((1, 2)), completions=(TokenIds((3,)), TokenIds((4, 5))), ranks=(0, 1))
    for name, rows, expected in (("chats", chats, chat), ("ids", ids, tokens)):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(rows))
        (tmp_path / f"{name}.parquet").write_bytes(parquet(rows))
        (tmp_path / f"{name}.csv").write_bytes(csv_text([{k: json.dumps(v) for k, v in r.items()} for r in rows]))
        for kind in ("jsonl", "parquet", "csv"):
            assert read(tmp_path / f"{name}.{kind}") == [expected], kind


def test_csv_cells_are_what_their_column_says(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('q,good,bad,margin\n1,[not a list,42,\n"a, b","say ""x""",no,0.5\n')
    first, second = read(path, prompt="q", chosen="good", rejected="bad")
    assert first == Comparison(prompt="1", completions=("[not a list", "42"), ranks=(0, 1))
    assert second == Comparison(prompt="a, b", completions=('say "x"', "no"), ranks=(0, 1), margin=0.5)
    path.write_text("prompt,completion,label\np,c,True\np,d,0\n")
    assert [r.label for r in read(path, "outcome") if isinstance(r, OutcomeExample)] == [True, False]
    path.write_text('prompt,steps,labels\np,"[""a"", ""b""]","[1, -1]"\n')
    assert read(path, "process") == [ProcessExample(prompt="p", steps=Steps(("a", "b")), labels=(1, -1))]


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


def test_dates_and_decimals_beside_our_columns_do_no_harm(tmp_path: Path) -> None:
    import datetime
    import decimal

    rows = [{**r, "when": datetime.date(2024, 1, 1), "price": decimal.Decimal("1.5"), "raw": b"\xff"} for r in ROWS]
    (tmp_path / "rows.parquet").write_bytes(parquet(rows))
    assert read(tmp_path / "rows.parquet") == EXPECTED


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


@pytest.mark.parametrize("source", ["missing.jsonl", "missing.jsonl.gz", ""])
def test_a_file_that_is_not_there_is_not_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "describe", lambda name: pytest.fail(f"asked the Hub for {name!r}"))
    with pytest.raises(DataError, match=r"no such file|without a name"):
        find_files(source)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(jsonl(ROWS)))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match="damaged") as error:
        read(tmp_path / "rows.jsonl.gz")
    assert error.value.where == str(tmp_path / "rows.jsonl.gz")


def test_an_unknown_objective_or_column_stops_before_reading(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown objective"):
        read(tmp_path / "missing.jsonl", "bradly_terry")
    with pytest.raises(ConfigError, match="unknown column"):
        read(tmp_path / "missing.jsonl", chosn="x")
