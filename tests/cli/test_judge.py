"""A judge on the command line: evaluated, scoring a file, labelling pairs, all over a server with known logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmray.cli import main
from tests.models.judge.stand_ins import Server, completion, gullible, serving


@pytest.fixture
def server() -> Iterator[Server]:
    def answer(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        material = body["messages"][-1]["content"]
        logits = gullible(material) if "<answer_a>" in material else {"A": 0.0, "B": 0.0}
        return 200, {}, completion({"The": -9.0} if "odd" in material else logits)

    with serving(answer) as served:
        yield served


@pytest.fixture
def judge(server: Server, tmp_path: Path) -> str:
    path = tmp_path / "judge.yaml"
    path.write_text(f"judge: {{backend: openai, url: '{server.url}', model: tiny, rubric: Count good.}}\n")
    return str(path)


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_judge_is_evaluated_beside_a_rule(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "good " * (i % 3), "rejected": "bad " * 3} for i in range(1, 12)]
    rows = [row if row["chosen"] else {**row, "chosen": "odd"} for row in rows]
    rewardbench = {"id": 1, "prompt": "q", "chosen": "good", "rejected": "bad", "subset": "llmbar-natural"}
    result = run(
        capsys, "evaluate", "--judge", judge, "--rule", "length", "--data", write(tmp_path / "pairs.jsonl", *rows),
        "--benchmark", f"rewardbench={write(tmp_path / 'rb.jsonl', rewardbench)}",
    )  # fmt: skip
    assert result["accuracy"] == 1.0
    assert (result["pairs"], result["margin"]) == (8, pytest.approx(1.5)), "the log-odds, of those with a verdict"
    assert [model["model_name"] for model in result["models"]] == ["judge:tiny", "length"]
    assert result["benchmarks"][0]["score"] == 1.0


def test_a_judge_scores_a_file(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write(tmp_path / "rows.jsonl", {"prompt": "p", "completions": ["good", "bad", "odd"]})
    result = run(capsys, "score", "--judge", judge, "--input", rows, "--output", str(tmp_path / "out"))
    [line] = map(json.loads, Path(result["scores"]).read_text().splitlines())
    assert [r.get("raw") for r in line["results"]] == [pytest.approx(0.5), pytest.approx(-0.5), None]
    assert line["results"][2]["error"]["code"] == "no_verdict"
    assert result["errors"] == {"no_verdict": 1}


def test_a_judge_labels_pairs(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "p", "completions": ["bad", "good good"]},
        {"prompt": "p", "completions": ["same", "same"]},
        {"prompt": "p", "completions": ["odd", "good"]},
    ]
    words = ["label", "--judge", judge, "--input", write(tmp_path / "rows.jsonl", *rows), "--output", str(tmp_path)]
    result = run(capsys, *words)
    assert {name: result[name] for name in ("rows", "pairs", "ties", "unjudged")} == {
        "rows": 3, "pairs": 1, "ties": 1, "unjudged": 1,
    }  # fmt: skip
    assert result["errors"] == {"no_verdict": 2}
    [pair] = map(json.loads, Path(result["labelled"]).read_text().splitlines())
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("good good", "bad", pytest.approx(2.0))


def test_a_judge_picks_the_best(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "p", "completions": ["bad", "good good", "good", "odd"]},
        {"prompt": "p", "completions": ["same", "same"]},
        {"prompt": "p", "completion": "alone"},
    ]
    words = ["--judge", judge, "--input", write(tmp_path / "rows.jsonl", *rows), "--output", str(tmp_path / "out")]
    result = run(capsys, "best-of-n", *words)
    best, tie, alone = map(json.loads, Path(result["best"]).read_text().splitlines())
    assert (best["best"], best["completion"], best["rewards"][3]["error"]["code"]) == (1, "good good", "no_verdict")
    assert (best["reward"], best["margin"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (tie["tied"], tie["margin"], alone["error"]["code"]) == ([0, 1], 0.0, "no_score")
    assert [result[name] for name in ("rows", "picked", "ties", "failed")] == [3, 2, 1, 1]
    assert main(["best-of-n", *words]) == 0
    shown = capsys.readouterr().out
    assert "picked in 2 of 3 rows, 1 by a tie's draw, 1 failed" in shown
    assert "1 x no_opponent" in shown


def test_a_slip_of_the_server_is_counted_and_ends_nothing(
    server: Server, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = server.answer
    server.answer = lambda body: (401, {}, {}) if "slip" in str(body) else judged(body)
    rows = [{"prompt": "p", "completions": ["bad", "good"]}, {"prompt": "slip", "completions": ["bad", "good"]}]
    words = ["--judge", judge, "--input", write(tmp_path / "rows.jsonl", *rows), "--output", str(tmp_path / "out")]
    labelled = run(capsys, "label", *words)
    assert (labelled["pairs"], labelled["unjudged"], labelled["errors"]) == (1, 1, {"unauthorized": 2})
    assert run(capsys, "score", *words)["errors"] == {"unauthorized": 2}
    assert main(["label", *words]) == 0
    assert "2 x unauthorized" in capsys.readouterr().out


def test_what_cannot_be_judged_is_told(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write(tmp_path / "rows.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    for words, message in (
        (["evaluate", "--judge", judge, "--data", rows, "--workers", "2"], "--workers"),
        (["evaluate", "--judge", "missing.yaml", "--data", rows], "cannot read the config"),
        (["label", "--judge", judge, "--input", "missing.jsonl", "--output", str(tmp_path)], "no such file"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    both = ["--judge", judge, "--bundle", "b"]
    score = ["score", "--input", rows, "--output", str(tmp_path)]
    for words in (score, [*score, *both], ["serve", *both]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    for verb in (["best-of-n", "--input", rows, "--output", str(tmp_path)], ["serve"]):
        assert main([*verb, "--remote", "http://h"]) == 2
        assert "--bundle-rules" in capsys.readouterr().err
        assert main([*verb, "--judge", "missing.yaml"]) == 2
        assert "cannot read the config" in capsys.readouterr().err
