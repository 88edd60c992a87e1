"""`rmray serve` on the command line: what file, flags and dotted keys make together, and what is refused."""

from pathlib import Path

import pytest

from rmray.cli import main, serve
from rmray.cli.main import _parser, split_overrides
from rmray.config import load_config, save_config
from rmray.config.serve import ServeConfig
from rmray.errors import ConfigError


def read(*words: str) -> ServeConfig:
    plain, overrides = split_overrides(["serve", *words])
    arguments = _parser().parse_args(plain)
    arguments.overrides = overrides
    return serve.read_config(arguments)


def test_flags_and_dotted_keys_stand_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("name: helpful\nbundle: b\noptions: {max_replicas: 4, gpus: 1, drain_s: 2}\n")
    config = read(str(path), "--gpus", "0.5", "--dtype", "bfloat16", "--options.drain_s", "3", "--name", "1e5")
    assert (config.name, config.bundle) == ("1e5", "b")
    options = config.options
    assert (options.max_replicas, options.gpus, options.dtype, options.drain_s) == (4, 0.5, "bfloat16", 3.0)


def test_without_a_file_flags_are_enough_and_there_is_room_to_grow() -> None:
    config = read("--bundle", "b", "--max-replicas-per-node", "1", "--target-tokens", "65536")
    options = config.options
    assert (config.name, options.max_replicas_per_node, options.target_tokens) == ("reward-model", 1, 65536)
    assert (options.min_replicas, options.max_replicas) == (1, 2)
    assert read("--bundle", "b", "--min-replicas", "3").options.max_replicas == 3


def test_a_judge_stands_in_the_config_with_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text("judge: {backend: openai, url: 'http://h:1/v1', model: m}\n")
    config = read("--judge", str(path))
    assert config.judge is not None
    assert config.judge.url == "http://h:1/v1"
    save_config(config, tmp_path / "served.yaml", exclude_unset=True)
    assert load_config(ServeConfig, tmp_path / "served.yaml") == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what is to be served"),
        (["--bundle", "b", "--options.target_token", "5"], "did you mean `options.target_tokens`"),
        (["--bundle", "b", "--http-port", "0"], "http_port"),
        (["--bundle", "b", "--name", "no/name"], "name"),
        (["--remote", "http://h", "--bundle-rules", "b", "--dtype", "float32"], "of bundles"),
        (["--rollback"], "--rollback needs --name"),
        (["--promote", "--name", "n", "--max-replicas", "3"], "--max-replicas has no meaning with --promote"),
        (["--rollback", "--name", "n", "--options.cpus", "2"], "--options.cpus has no meaning with --rollback"),
        (["s.yaml", "--restore", "d"], "s.yaml has no meaning with --restore"),
        (["--restore", "d", "--canary", "0.1"], "--canary has no meaning with --restore"),
        (["--bundle", "b", "--canary", "1.5"], "the canary's share is 1.5"),
    ],
)
def test_what_is_wrong_is_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert message in capsys.readouterr().err


def test_one_model_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("bundle: b\nremote: {url: 'http://h', bundle_rules: b}\n")
    with pytest.raises(ConfigError, match="and 2 are given"):
        load_config(ServeConfig, path)
