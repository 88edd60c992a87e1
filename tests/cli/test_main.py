"""The command line: overrides anywhere, exit codes, one JSON object, quick help."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace

import pytest

from rmray.cli import main
from rmray.cli.main import split_overrides
from rmray.cli.verbs import VERBS, Verb
from rmray.errors import ConfigError, TrainingError


def fake_verb(monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.setitem(VERBS, "fake", Verb("fake", lambda parser: None, run, takes_overrides=True))


def test_overrides_stand_anywhere_and_take_any_value() -> None:
    words = ["train", "--optim.lr", "1e-4", "c.yaml", "--objective.margin", "-0.5", "--run.name=a=b", "--json"]
    plain, overrides = split_overrides(words)
    assert plain == ["train", "c.yaml", "--json"]
    assert overrides == [("optim.lr", "1e-4"), ("objective.margin", "-0.5"), ("run.name", "a=b")]


def test_options_given_twice_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Namespace] = []
    for verb in ("evaluate", "import"):
        monkeypatch.setitem(VERBS, verb, replace(VERBS[verb], run=lambda arguments: seen.append(arguments) or {}))
    columns = ["--columns", "prompt=question", "--columns", "chosen=better", "rejected=worse"]
    assert main(["evaluate", "--bundle", "b", "--data", "x", "y", "--data", "z", *columns]) == 0
    assert main(["import", "m", "--output", "o", "--reference", "r", *columns]) == 0
    assert main(["import", "m", "--output", "o", "--reference", "r"]) == 0
    assert seen[0].data == ["x", "y", "z"]
    assert seen[0].columns == seen[1].columns == ["prompt=question", "chosen=better", "rejected=worse"]
    assert seen[2].columns == []


def test_json_is_the_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(arguments):
        print("for people")
        return {"overrides": arguments.overrides}

    fake_verb(monkeypatch, run)
    assert main(["fake", "--a.b", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"overrides": [["a.b", "1"]]}


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("bad key", where="x.yaml:3"), 2), (TrainingError("broke off"), 1)]
)
def test_errors_become_one_message_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    def run(arguments):
        raise error

    fake_verb(monkeypatch, run)
    assert main(["fake"]) == code
    err = capsys.readouterr().err
    assert err.startswith("rmray: error: ")
    assert "Traceback" not in err
    assert main(["fake", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "c.yaml", "--learning_rate", "1"], "did you mean `--optim.lr`?"),
        (["train", "c.yaml", "--optim.lr"], "--optim.lr has no value"),
        (["evaluate", "--bundle", "b", "--data", "d", "--optim.lr", "1"], "this verb has no config"),
        (["train", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_words(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rmray.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
