"""What a rollback, a canary and a restoration refuse, before anything is started."""

import asyncio
import shutil
from dataclasses import replace

import pytest
import torch
from ray.exceptions import ActorDiedError

from rmray.config.serve import SERVED_DIR_ENV, ServedModel, check_share, serve_options
from rmray.errors import BundleError, ClusterError, ConfigError
from rmray.retry import Backoff
from rmray.serving.app.apps import options_digest
from rmray.serving.app.deploy import _check_alike
from rmray.serving.app.gateway import HandleBackend
from rmray.serving.app.recipes import Recipe, bundle_recipe
from rmray.serving.app.record import remove_record, restore, write_record
from rmray.serving.app.versions import _check_is_there
from tests.models.bundle.conftest import edit_json

SERVING = ServedModel(
    name="n", app="n-1", kind="scalar", model_version="1", reference="r", tokenizer_hash="t", max_length=9
)


def test_one_draw_a_call_picks_by_share():
    shared = replace(SERVING, canary=replace(SERVING, app="n-2"), share=0.1)
    assert [shared.pick(draw).app for draw in (0.0, 0.09, 0.1, 0.99)] == ["n-2", "n-2", "n-1", "n-1"]
    assert (SERVING.pick(0.0), shared.apps) == (SERVING, {"n-1", "n-2"})


class Shared(HandleBackend):
    """Beside a version that answers, a canary that always takes the call and does what it is told."""

    def __init__(self, canary):
        self._push, self._backoff, self._canary, self.asked = lambda _: None, Backoff(first_s=0.0), canary, []

    async def _call(self, app, requests, timeout_s):
        self.asked.append((app, round(timeout_s)))
        if app == "n-2":
            raise self._canary
        return ["answered"]


@pytest.mark.parametrize("canary", [TimeoutError(), ActorDiedError()])
def test_over_http_too_a_canary_that_does_not_answer_costs_no_call(canary):
    backend = Shared(canary)
    shared = replace(SERVING, canary=replace(SERVING, app="n-2"), share=1.0)
    assert asyncio.run(backend.score(shared, [], timeout_s=10)) == ["answered"]
    assert backend.asked == [("n-2", 5), ("n-1", 10)]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_share_is_a_part_of_the_calls(share):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        check_share(share)


@pytest.mark.parametrize("field", ["kind", "reference", "tokenizer_hash"])
def test_a_canary_that_callers_could_tell_apart_is_refused(field):
    _check_alike(SERVING, replace(SERVING, app="n-2"))
    with pytest.raises(ConfigError, match=f"the canary's {field} is other"):
        _check_alike(SERVING, replace(SERVING, app="n-2", **{field: "other"}))
    with pytest.raises(ConfigError, match="serves all calls already"):
        _check_alike(SERVING, SERVING)


def test_a_rollback_says_what_became_of_the_bundle(bundle_dir, tmp_path):
    directory = tmp_path / "bundle"
    shutil.copytree(bundle_dir, directory)
    recipe = bundle_recipe(directory, 0.0)
    _check_is_there(recipe)
    _check_is_there(Recipe(lambda: None, "v1"))
    edit_json(directory / "rmray.json", model_version="0" * 64)
    with pytest.raises(BundleError, match="holds version 000000000000 by now"):
        _check_is_there(recipe)
    shutil.rmtree(directory)
    with pytest.raises(BundleError, match="its directory is gone"):
        _check_is_there(recipe)


def test_a_copy_of_a_bundle_is_another_app_of_the_same_version(bundle_dir, tmp_path):
    copy = shutil.copytree(bundle_dir, tmp_path / "copy")
    recipes = [bundle_recipe(directory, 0.0) for directory in (bundle_dir, copy)]
    assert len({recipe.model_version for recipe in recipes}) == 1
    assert len({options_digest(serve_options(), recipe.settings) for recipe in recipes}) == 2


def test_a_bundle_is_loaded_and_checked_in_the_dtype_that_is_asked_for(bundle_dir):
    recipe = bundle_recipe(bundle_dir, 0.0, "bfloat16")
    scorer = recipe.factory()
    assert {p.dtype for name, p in scorer.backbone.named_parameters() if "layers" in name} == {torch.bfloat16}
    recipe.check_maker(scorer)()


def test_what_somebodys_own_code_makes_is_not_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv(SERVED_DIR_ENV, str(tmp_path))
    write_record("n", Recipe(lambda: None, "v1", source={"bundle": "b"}), serve_options())
    assert (tmp_path / "n.yaml").read_text() == "name: n\nbundle: b\noptions: {}\n"
    write_record("n", Recipe(lambda: None, "v2"), serve_options())
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_down_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(SERVED_DIR_ENV, str(tmp_path / "file"))
    with pytest.raises(ClusterError, match="cannot be written down"):
        write_record("n", Recipe(lambda: None, "v1", source={"bundle": "b"}), serve_options())
    with pytest.raises(ClusterError, match="cannot be written down"):
        remove_record("n")


def test_a_restoration_names_what_it_cannot_read(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        restore(tmp_path / "missing")
    (tmp_path / "a.yaml").write_text("name: a\nbundle: /nowhere\n")
    (tmp_path / "b.yaml").write_text("name: b\nbundel: x\n")
    with pytest.raises(ClusterError, match="2 of 2 models") as caught:
        restore(tmp_path)
    assert "/nowhere" in str(caught.value)
    assert "did you mean `bundle`" in str(caught.value)
