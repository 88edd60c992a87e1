"""`rmray ensemble`, and what scores and evaluates with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmray.cli import main
from rmray.models.bundle import load_bundle
from rmray.models.bundle.request_json import request_to_json
from tests.models.bundle.conftest import REFERENCE


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_bundles_are_combined_scored_and_evaluated(
    member_dirs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "reference.jsonl"
    reference.write_text("".join(f"{json.dumps(request_to_json(r))}\n" for r in REFERENCE))
    words = ["ensemble", *map(str, member_dirs), "--output", str(tmp_path / "three")]
    made = ask(capsys, *words, "--reference", str(reference), "--combine", "mean_minus_std", "--k", "0.5")
    scorer = load_bundle(tmp_path / "three")
    assert (scorer.info.model_version, scorer.info.name) == (made["model_version"], "three")
    assert str(scorer.combination) == "mean - 0.5 x std"

    rows = tmp_path / "pairs.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"prompt": f"What is {a} plus three? ", "chosen": f"It is {a + 3}.", "rejected": "No."}) + "\n"
            for a in range(12)
        )
    )
    scored = ask(capsys, "score", "--bundle", made["bundle"], "--input", str(rows), "--output", str(tmp_path / "s"))
    first = json.loads(Path(scored["scores"]).read_text().splitlines()[0])["results"][0]
    assert len(first["member_scores"]) == 3
    assert first["disagreement"] > 0

    figures = ask(capsys, "evaluate", "--bundle", made["bundle"], "--data", str(rows))
    again = ask(capsys, "evaluate", "--scores", scored["scores"], "--data", str(rows))
    assert len(figures["disagreement"]["members"]) == 3
    assert again["disagreement"] == figures["disagreement"]
