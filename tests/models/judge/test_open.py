"""A judge from its config: what is read, what is refused, and what its version tells apart."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmray.config import load_config
from rmray.config.judge import JudgeConfig
from rmray.errors import ConfigError, RequestError
from rmray.evaluation.source import RewardSource
from rmray.models.judge import PairwiseJudge, PointwiseJudge, build_judge, open_judge
from rmray.models.judge import open as opening
from rmray.models.judge.open import judge_version, open_backend
from rmray.schema import ScoreRequest
from tests.models.judge.stand_ins import StubModel, completion, gullible, serving

SERVER = {"backend": "openai", "model": "org/judge", "url": "http://host:8000/v1"}


def write(path: Path, **fields: Any) -> Path:
    path.write_text(yaml.safe_dump({"judge": fields}))
    return path


def config(**fields: Any) -> Any:
    return JudgeConfig.model_validate({"judge": {**SERVER, **fields}}).judge


def local(directory: Path, **fields: Any) -> Any:
    return JudgeConfig.model_validate({"judge": {"backend": "transformers", "model": str(directory), **fields}}).judge


def test_the_whole_route_is_an_address_too() -> None:
    assert config(url="http://h/v1/chat/completions/").url == "http://h/v1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "openai", "model": "m"}, "`judge.url` is missing"),
        ({**SERVER, "url": "host:8000"}, "http://HOST:PORT"),
        ({**SERVER, "url": "http://me:secret@host"}, "api_key_env"),
        ({**SERVER, "api_key": "sk-1"}, "unknown key `judge.api_key`; did you mean `judge.api_key_env`"),
        ({**SERVER, "max_length": 10}, "of no use with the backend openai"),
        ({"backend": "transformers", "model": "m", "url": "http://h"}, "of no use with the backend transformers"),
        ({"backend": "transformers", "model": "m", "verdicts": "text"}, "gives probabilities"),
        ({**SERVER, "scale": "0-9"}, "of the pointwise mode"),
        ({**SERVER, "mode": "pairwize"}, "'pairwise' or 'pointwise'"),
        ({**SERVER, "extra_body": {"temperature": 1, "x": 2}}, "must not set temperature"),
        ({**SERVER, "rubric": " \n"}, "judge.rubric"),
        ({**SERVER, "model": " "}, "judge.model"),
        ({**SERVER, "url": "http://host:secret"}, "http://HOST:PORT"),
        ({**SERVER, "api_key_env": "sk-live-secret"}, "`judge.api_key_env` is the name of an environment variable"),
        ({**SERVER, "extra_body": {"day": datetime.date(2025, 1, 1)}}, "no JSON"),
        ({**SERVER, "extra_body": {"logit_bias": {}, "top_k": 1}}, "must not set logit_bias, top_k"),
        ({**SERVER, "top_logprobs": 21}, "judge.top_logprobs"),
        ({**SERVER, "top_logprobs": 9, "mode": "pointwise"}, "`judge.top_logprobs` is 9, with 10 verdicts"),
        ({**SERVER, "verdicts": "text", "top_logprobs": 20}, "`judge.top_logprobs`: of no use with `verdicts: text`"),
        ({**SERVER, "verdicts": "text", "min_verdict_mass": 0.1}, "`judge.min_verdict_mass`: of no use"),
        ({**SERVER, "mode": "pointwise", "max_answers": 3}, "`judge.max_answers` is of the pairwise mode"),
        ({**SERVER, "special_tokens": [" "]}, "judge.special_tokens"),
    ],
)
def test_faults_in_the_config_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(JudgeConfig, write(tmp_path / "judge.yaml", **fields))
    assert "secret" not in str(caught.value)


def test_the_version_tells_apart_what_decides_a_verdict_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = StubModel(gullible)
    same = {judge_version(config(**f), stub) for f in ({}, {"concurrency": 3}, {"url": "http://b"}, {"timeout_s": 9})}
    other = [
        {"rubric": "Brevity."},
        {"mode": "pointwise"},
        {"verdicts": "text"},
        {"mode": "pointwise", "scale": "1-10"},
    ]
    monkeypatch.setattr(opening, "READ_VERSION", opening.READ_VERSION + 1)
    same_words_read_otherwise = judge_version(config(), stub)
    monkeypatch.undo()
    assert same_words_read_otherwise not in same
    tokens = {judge_version(c, open_backend(c)) for c in (config(), config(special_tokens=["<@>"]))}
    assert len(tokens) == 2
    changed = {judge_version(config(**f), stub) for f in other}
    stub.identity = "other"  # type: ignore[misc]
    assert len({*same, *changed, judge_version(config(), stub)}) == 1 + len(other) + 1
    assert all(re.fullmatch("[0-9a-f]{16}", version) for version in same)


def test_the_mode_decides_which_judge_it_is() -> None:
    pair: RewardSource = build_judge(config(), StubModel(gullible))
    grade: RewardSource = build_judge(config(mode="pointwise", scale="yes-no"), StubModel(gullible))
    assert isinstance(pair, PairwiseJudge)
    assert isinstance(grade, PointwiseJudge)
    assert (pair.info.name, pair.info.kind, pair.info.reference) == ("judge:judge", "judge", "none")
    assert pair.info.model_version != grade.info.model_version


def test_the_key_comes_from_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    with serving(lambda body: (200, {}, completion({"A": 1.0, "B": 0.0}))) as server:
        path = write(tmp_path / "judge.yaml", backend="openai", model="m", url=server.url, api_key_env="JUDGE_KEY")
        judge = open_judge(path, environment={"JUDGE_KEY": "sk-secret\n"})
        judge.score([ScoreRequest(prompt="p", completions=("a", "b"))])
        assert {headers["authorization"] for headers in server.headers} == {"Bearer sk-secret"}
        for environment in ({}, {"JUDGE_KEY": " "}, {"JUDGE_KEY": "sk\nsecret"}):
            with pytest.raises(ConfigError, match="JUDGE_KEY") as caught:
                open_judge(path, environment=environment)
            assert "sk" not in str(caught.value).replace("ask", "")


def test_a_server_that_cannot_be_asked_is_told_when_the_judge_is_opened(tmp_path: Path) -> None:
    refusal = {"error": {"message": "The model `m` does not exist."}}
    with serving(lambda body: (404, {}, refusal)) as server:
        path = write(tmp_path / "judge.yaml", backend="openai", model="m", url=server.url)
        with pytest.raises(RequestError, match=r"no such model(.|\n)*does not exist"):
            open_judge(path)


def test_a_local_model_is_opened(tmp_path: Path, tiny_base: Path) -> None:
    path = write(tmp_path / "judge.yaml", backend="transformers", model=str(tiny_base), min_verdict_mass=0)
    judge = open_judge(path)
    [response] = judge.score([ScoreRequest(prompt="p", completions=("a", "b"))])
    assert {r.model_version for r in response.results} == {judge.info.model_version}  # type: ignore[union-attr]
    assert judge.info.tokenizer_hash
    backend = open_backend(load_config(JudgeConfig, path).judge)
    assert tiny_base.name in backend.identity
    # What `auto` is on this machine is what decides, not the word.
    auto, bfloat16 = (judge_version(c, open_backend(c)) for c in (local(tiny_base), local(tiny_base, dtype="bfloat16")))
    assert auto != bfloat16
    same = local(tiny_base, dtype=backend.identity.rsplit(" ", 1)[1])
    assert judge_version(same, open_backend(same)) == auto


def test_the_readmes_judge_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    [text] = [block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if block.startswith("judge:")]
    (tmp_path / "judge.yaml").write_text(text)
    assert load_config(JudgeConfig, tmp_path / "judge.yaml").judge.mode == "pairwise"
