"""Which storage is warned of or refused, decided without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmray.config.train import TrainConfig
from rmray.errors import ClusterError, RunError
from rmray.training.storage import checkpoint_place, in_submitted_job, storage_warnings, with_absolute_paths
from rmray.training.storage_check import _ask, check_seen_by_all, judge, look

# As Ray's job supervisor sets it for the command of a job.
JOB = {
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(
        {"runtime_env": {"working_dir": "gcs://_ray_pkg_0123.zip"}, "metadata": {"job_submission_id": "raysubmit_x"}}
    )
}
UNPACKED = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123")


def config(run: str = "runs", checkpoint: str | None = None, **sections: dict[str, Any]) -> TrainConfig:
    whole = {"run": {"storage": run}, "checkpoint": {"storage": checkpoint}, "model": {"base": "org/base"}}
    return TrainConfig.model_validate({"data": {"train": ["a"]}, **whole, **sections})


def warnings(directory: Path, environ: dict[str, str], **storage: Any) -> list[str]:
    return storage_warnings(config(**storage), directory=directory, environ=environ)


def test_storage_in_a_jobs_unpacked_working_directory_would_vanish() -> None:
    (warning,) = warnings(UNPACKED, JOB)
    assert "run.storage is 'runs'" in warning
    assert str(UNPACKED / "runs") in warning
    assert "Ray deletes them" in warning
    assert "absolute path that every node sees" in warning
    assert len(warnings(UNPACKED, {})) == 1
    assert len(warnings(UNPACKED, JOB, run=str(UNPACKED / "out"))) == 1
    assert len(warnings(UNPACKED, JOB, checkpoint="checkpoints")) == 2


def test_a_relative_path_in_any_submitted_job_is_told() -> None:
    (warning,) = warnings(Path("/home/ray/rmray"), JOB)
    assert "/home/ray/rmray/runs" in warning
    assert "relative path in a submitted job" in warning


@pytest.mark.parametrize(
    ("directory", "environ", "storage"),
    [
        (Path("/home/me"), {}, {"run": "runs"}),
        (UNPACKED, JOB, {"run": "/mnt/shared"}),
        (UNPACKED, JOB, {"run": "/mnt/shared", "checkpoint": "s3://bucket/checkpoints"}),
        (UNPACKED, JOB, {"run": "~/runs"}),
    ],
)
def test_what_lasts_is_not_warned_of(directory: Path, environ: dict[str, str], storage: dict[str, str]) -> None:
    assert warnings(directory, environ, **storage) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metadata": {}}', '{"metadata": null}'])
def test_a_process_without_a_submission_id_is_no_job(text: str) -> None:
    assert not in_submitted_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": text})
    assert in_submitted_job(JOB)


def test_paths_become_absolute_where_the_run_is_submitted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "base").mkdir()
    data = {"train": ["a.jsonl", "org/on-the-hub"], "eval": [str(tmp_path / "a.jsonl")]}
    found = with_absolute_paths(config(checkpoint="kept", data=data, model={"base": "base"}), tmp_path)
    assert found.run.storage == str(tmp_path / "runs")
    assert found.checkpoint.storage == str(tmp_path / "kept")
    assert found.data.train == [str(tmp_path / "a.jsonl"), "org/on-the-hub"]
    assert found.data.eval == [str(tmp_path / "a.jsonl")]
    assert found.model.base == str(tmp_path / "base")
    assert with_absolute_paths(found) == found
    assert with_absolute_paths(config(checkpoint="s3://bucket/p")).checkpoint.storage == "s3://bucket/p"
    assert with_absolute_paths(config()).checkpoint.storage is None


def test_a_url_is_no_run_storage_and_the_field_for_urls_is_named() -> None:
    with pytest.raises(ValidationError, match=r"checkpoint\.storage takes URLs"):
        config(run="s3://bucket/runs")


def nodes(*names: str, dead: str = "") -> list[dict[str, Any]]:
    return [
        {"NodeID": name * 8, "Alive": name != dead, "NodeManagerHostname": name, "NodeManagerAddress": "10.0.0.1"}
        for name in names
    ]


def test_every_node_that_is_alive_is_asked_about_a_file_that_is_there_meanwhile(tmp_path: Path) -> None:
    asked = []

    def ask(probe: Path, asked_nodes: Any) -> list[str | None]:
        assert look(probe, patience_s=0) == ""
        asked.extend(node["NodeManagerHostname"] for node in asked_nodes)
        return [""] * len(asked_nodes)

    assert check_seen_by_all(tmp_path / "new", nodes("a", "b", "c", dead="b"), ask=ask) == []
    assert asked == ["a", "c"]
    assert list((tmp_path / "new").iterdir()) == []


def test_one_node_has_nobody_to_share_with(tmp_path: Path) -> None:
    def ask(*_: Any) -> list[str | None]:
        raise AssertionError("asked")

    assert check_seen_by_all(tmp_path / "none", nodes("a", "b", dead="b"), ask=ask) == []
    assert not (tmp_path / "none").exists()


def test_nodes_that_do_not_see_it_are_named(tmp_path: Path) -> None:
    def ask(probe: Path, asked_nodes: Any) -> list[str | None]:
        return ["", look(tmp_path / "other" / probe.name, patience_s=0), None]

    with pytest.raises(ClusterError, match=r"run\.storage is not shared") as caught:
        check_seen_by_all(tmp_path / "runs", nodes("a", "b", "c"), ask=ask)
    assert caught.value.why == "node b (10.0.0.1) does not see a file that was written there"
    assert str(tmp_path / "runs") in str(caught.value)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_node_without_an_answer_is_warned_of() -> None:
    (warning,) = judge(Path("/runs"), "checkpoint.storage", {"node a": "", "node b": None})
    assert "checkpoint.storage" in warning
    assert "node b" in warning
    assert "node a" not in warning


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        check_seen_by_all(tmp_path / "file" / "runs", nodes("a", "b"), ask=lambda *_: ["", ""])


def test_a_node_of_a_real_cluster_answers(tmp_path: Path, ray_cluster: None) -> None:
    import ray

    (tmp_path / "probe").touch()
    gone = {"NodeID": "1" * 56, "Alive": True}
    assert _ask(tmp_path / "probe", [*ray.nodes(), gone]) == ["", None]


def test_what_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "may not write" in look(tmp_path)


@pytest.mark.parametrize(
    ("storage", "place"),
    [
        (None, "/runs/tiny/checkpoints"),
        ("/mnt/kept/", "/mnt/kept/tiny"),
        ("/mnt/what?", "/mnt/what?/tiny"),
        ("s3://bucket/p", "s3://bucket/p/tiny"),
        ("s3://bucket/p?scheme=http&region=x", "s3://bucket/p/tiny?scheme=http&region=x"),
    ],
)
def test_each_run_has_a_place_of_its_own_for_checkpoints(storage: str | None, place: str) -> None:
    whole = config(run="/runs", checkpoint=storage)
    named = whole.model_copy(update={"run": whole.run.model_copy(update={"name": "tiny"})})
    assert checkpoint_place(named) == place
