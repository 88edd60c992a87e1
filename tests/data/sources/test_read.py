"""Files and datasets of every kind give the same records, wherever they lie."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from rmray.data.sources import find_files, hub, read_records
from rmray.errors import ConfigError, DataError
from rmray.schema import Comparison, OutcomeExample, ProcessExample, Steps, TokenIds
from tests.data.sources.files import EXPECTED, KINDS, ROWS, csv_text, jsonl, parquet, read


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


@pytest.mark.parametrize("source", ["missing.jsonl", "missing.jsonl.gz", ""])
def test_a_file_that_is_not_there_is_not_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "describe", lambda name: pytest.fail(f"asked the Hub for {name!r}"))
    with pytest.raises(DataError, match=r"no such file|without a name"):
        find_files(source)


def test_an_unknown_objective_or_column_stops_before_reading(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown objective"):
        read(tmp_path / "missing.jsonl", "bradly_terry")
    with pytest.raises(ConfigError, match="unknown column"):
        read(tmp_path / "missing.jsonl", chosn="x")


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


def test_dates_and_decimals_beside_our_columns_do_no_harm(tmp_path: Path) -> None:
    import datetime
    import decimal

    rows = [{**r, "when": datetime.date(2024, 1, 1), "price": decimal.Decimal("1.5"), "raw": b"\xff"} for r in ROWS]
    (tmp_path / "rows.parquet").write_bytes(parquet(rows))
    assert read(tmp_path / "rows.parquet") == EXPECTED
