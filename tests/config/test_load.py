"""A config is read strictly, and a fault names its path, value, file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmray.config import TrainConfig, load_config, save_config
from rmray.config.load import nearest
from rmray.errors import ConfigError

MINIMAL = "data: {train: [a.jsonl]}\nmodel: {base: some/base}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_defaults_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "optim:\n  lr: 1e-4\n")
    config = load_config(TrainConfig, path, [("optim.epochs", "3"), ("run.name", "no"), ("data.train", "b.jsonl")])
    assert config.optim.lr == 1e-4  # YAML 1.1 would read a string
    assert config.optim.epochs == 3
    assert config.run.name == "no"  # YAML 1.1 would read false
    assert config.data.train == ["b.jsonl"]
    assert config.optim.max_grad_norm == 1.0


def test_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(TrainConfig, write(tmp_path, MINIMAL), [("objective.margin", "0.5"), ("data.holdout", "0.1")])
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(TrainConfig, tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("name", ["1e5", "1234e567", "no", "0x10", "1.0", "null", "2024-01-01", "true", "12:30"])
def test_text_that_looks_like_something_else_reads_back_as_text(tmp_path: Path, name: str) -> None:
    config = load_config(TrainConfig, write(tmp_path, f'data: {{train: ["{name}"]}}\nmodel: {{base: "{name}"}}\n'))
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(TrainConfig, tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("optim.learning_rate", "`optim.lr`"),
        ("optim.leraning_rate", "`optim.lr`"),
        ("optim.epoch", "`optim.epochs`"),
        ("data.maxlength", "`data.max_length`"),
        ("max_length", "`data.max_length`"),
        ("model.bases", "`model.base`"),
        ("optimm", "`optim`"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(tmp_path: Path, override: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, write(tmp_path, MINIMAL), [(override, "1")])
    assert f"unknown key `{override}`; did you mean {suggestion}?" in str(error.value)
    assert f"--{override} 1" in str(error.value)


def test_wrong_type_names_path_value_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "optim:\n  lr: 1e-4\n  epochs: many\n")
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, path)
    assert f"{path}:5" in str(error.value)
    assert "`optim.epochs` is 'many'" in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("objective: {margin: wide}", ["`objective.margin` is 'wide'", "'rating_difference'", "a valid number"]),
        ("objective: {margin: 1.0e+39}", ["`objective.margin` is 1e+39", "less than or equal to 34028"]),
        ("objective: {margin: -1.0e+39}", ["`objective.margin` is -1e+39", "greater than or equal to -34028"]),
        ("optim: {betas: [0.9]}", ["`optim.betas` is [0.9]"]),
        ("optim: {betas: [0.9, 2]}", ["`optim.betas` is 2", "less than 1"]),
        ("run: {seed: -1}", ["`run.seed` is -1"]),
        ("model: {base: x, lora: {r: 0}}", ["`model.lora.r` is 0", "greater than 0"]),
        ("model: {base: x, lora: {targets: []}}", ["`model.lora.targets` is []"]),
        ("model: {base: x, lora: {rank: 8}}", ["unknown key `model.lora.rank`"]),
        ("model: {base: x, freeze: head}", ["`model.freeze` is 'head'", "'backbone'", "a valid integer"]),
        ("optim: {layer_decay: 1.1}", ["`optim.layer_decay` is 1.1", "less than or equal to 1"]),
        ("? [a, b]\n: c", ["a key must be a word"]),
    ],
)
def test_values_that_cannot_be_are_told_with_what_can(tmp_path: Path, line: str, words: list[str]) -> None:
    text = "data: {train: [a.jsonl]}\n" + line + "\n" + ("" if line.startswith("model") else "model: {base: x}\n")
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, write(tmp_path, text))
    for word in words:
        assert word in str(error.value)


def test_nothing_is_suggested_that_the_config_lacks() -> None:
    assert nearest(("learning_rate",), {("port",), ("name",)}) is None


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {train: []}\nmodel: {base: x, dtype: float8}\nworkers: {num: 0}\n")
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, path)
    message = str(error.value)
    assert "3 faults" in message
    for dotted, line in [("data.train", 1), ("model.dtype", 2), ("workers.num", 3)]:
        assert f"`{dotted}`" in message
        assert f"{path}:{line}" in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([("workers.max_micro_batch_tokens", "100")], ["100", "2 x data.max_length = 2048"]),
        ([("optim.global_batch_size", "2"), ("workers.num", "4")], ["global_batch_size is 2", "workers.num 4"]),
        ([("data.eval", "[x.jsonl]"), ("data.holdout", "10")], ["exclude each other"]),
        ([("run.name", "prepared")], ["holds prepared sets"]),
        ([("evaluate.patience", "2")], ["evaluate.patience need", "nothing is held out", "data.holdout"]),
        ([("objective.name", "plackett_luce"), ("objective.margin", "data")], ["margin is data", "use all_pairs"]),
        (
            [("objective", "{name: plackett_luce, center: 0.01, label_smoothing: 0.1}")],
            ["center is 0.01 and label_smoothing is 0.1", "plackett_luce has none"],
        ),
        ([("objective.label_smoothing", "0.5")], ["objective.label_smoothing", "less than 0.5"]),
        ([("model.lora", "{r: 8}"), ("model.freeze", "2")], ["model.freeze is 2 beside model.lora", "take one out"]),
        ([("model.freeze", "backbone"), ("optim.layer_decay", "0.9")], ["layer_decay is 0.9", "no layer is trained"]),
        (
            [("ensemble.members", "2"), ("objective.name", "process")],
            ["ensemble.members is 2", "which process models are not", "take it out, or train with bradley_terry"],
        ),
        ([("checkpoint.export", "best")], ["checkpoint.export: best need", "nothing is held out", "data.eval"]),
    ],
)
def test_arithmetic_that_does_not_work_out_is_shown(
    tmp_path: Path, overrides: list[tuple[str, str]], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, write(tmp_path, MINIMAL), overrides)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [1\n", "not valid YAML"),
        ("run: {name: a, name: b}\n", "is there twice"),
        ("- a\n- b\n", "a mapping of sections"),
        (MINIMAL + "optim: {lr: .nan}\n", "`optim.lr`"),
        (MINIMAL + "optim: {lr: true}\n", "`optim.lr`"),
        (MINIMAL + "run: {name: ../elsewhere}\n", "`run.name`"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(TrainConfig, write(tmp_path, text))


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(TrainConfig, "nowhere.yaml")


def test_every_field_is_documented() -> None:
    for section in TrainConfig.model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert field.description, name


@pytest.mark.parametrize(
    ("overrides", "lr"),
    [
        ([], 1e-5),
        ([("model.lora", "null")], 1e-5),
        ([("model.lora", "{}")], 1e-4),
        ([("model.lora.r", "4"), ("optim.epochs", "2")], 1e-4),
        ([("model.lora.r", "4"), ("optim.lr", "3e-4")], 3e-4),
        ([("model.freeze", "backbone")], 1e-5),
    ],
)
def test_the_learning_rate_not_given_is_that_of_what_is_trained(
    tmp_path: Path, overrides: list[tuple[str, str]], lr: float
) -> None:
    config = load_config(TrainConfig, write(tmp_path, MINIMAL), overrides)
    assert config.optim.lr == lr
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(TrainConfig, tmp_path / "resolved.yaml") == config
