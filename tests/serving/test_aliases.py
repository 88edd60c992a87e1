"""The alias actor's calls, made again by Ray after a restart: they change nothing more, and get the answer they got."""

import asyncio
from dataclasses import replace

import pytest

from rmray.config.serve import ServedModel
from rmray.serving.app import aliases as aliases_module
from rmray.serving.app.aliases import Aliases

V1 = ServedModel(name="n", app="n-1", kind="scalar", model_version="1", reference="r", tokenizer_hash="t", max_length=9)
V2, V3 = (replace(V1, app=f"n-{i}", model_version=str(i)) for i in (2, 3))


@pytest.fixture
def restart(monkeypatch):
    """restart() -> the actor's object anew, over what the one before has put into the cluster's store."""
    store = {}
    monkeypatch.setattr(aliases_module.internal_kv, "_internal_kv_get", lambda key, namespace: store.get(key))
    monkeypatch.setattr(
        aliases_module.internal_kv, "_internal_kv_put", lambda key, raw, overwrite, namespace: store.update({key: raw})
    )
    return Aliases


def run(call):
    return asyncio.run(call)


def test_a_repeated_move_says_who_answered_before_it(restart):
    assert run(restart().move("a", V1, b"1")) is run(restart().move("a", V1, b"1")) is None
    assert run(restart().move("b", V2, b"2")) == run(restart().move("b", V2, b"2")) == V1
    alias = run(restart().find("n"))
    assert (alias.model, alias.start, alias.start_before) == (V2, b"2", b"1")
    # Another deployment of the very same is not a repeated one: nothing was replaced.
    assert run(restart().move("c", V2, b"2")) == V2


def test_a_repeated_canary_says_whose_share_it_took(restart):
    run(restart().move("a", V1, b"1"))
    run(restart().set_canary("b", V2, b"2", 0.1))
    shared = replace(V1, canary=V2, share=0.1)
    assert run(restart().set_canary("c", V3, b"3", 0.2)) == run(restart().set_canary("c", V3, b"3", 0.2)) == shared


def test_a_repeated_removal_says_what_it_removed(restart):
    run(restart().move("a", V1, b"1"))
    assert run(restart().remove("b", "n")) == run(restart().remove("b", "n")) == V1
    assert run(restart().remove("c", "n")) is None
    assert run(restart().move("d", V1, b"1")) is None


def test_who_waits_for_a_change_is_told_of_each(restart):
    async def main():
        actor = restart()
        waiting = asyncio.create_task(actor.changed({}, 1e6))
        await asyncio.sleep(0)
        assert not waiting.done()
        await actor.move("a", V1, b"")
        assert await asyncio.wait_for(waiting, 5.0) == {"n": V1}
        assert await actor.changed({}, 10.0) == {"n": V1}, "what has changed already is told at once"
        assert await actor.changed({"n": V1}, 0.0) == {"n": V1}, "its time is up"

    run(main())
