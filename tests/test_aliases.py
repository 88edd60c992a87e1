"""What is known of the aliases: how seldom the actor is asked, and that no change is missed."""

import asyncio
import pickle
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from rmray.aliases import KnownAliases
from rmray.client import handle
from rmray.client.handle import HandleTransport
from rmray.config.serve import ALIAS_TTL_S, ALIAS_WATCH_S, ServedModel
from rmray.errors import ClusterError

V1 = ServedModel(name="n", app="n-1", kind="scalar", model_version="1", reference="r", tokenizer_hash="t", max_length=9)
V2 = replace(V1, app="n-2", model_version="2")


class Actor:
    """The actor and its handle in one: `all` answers at once, `changed` when told to."""

    def __init__(self):
        self.models, self.num_asked, self.waiting, self.waits_s = {"n": V1}, 0, [], []
        self.fault, self.now_s = None, 0.0
        self.all, self.changed = _Method(self._all), _Method(self._changed)

    async def _all(self):
        self.num_asked += 1
        if self.fault:
            raise self.fault
        return dict(self.models)

    def _changed(self, known, wait_s):
        assert known == self.models, "the rest of the actor is not played here"
        self.waiting.append(Future())
        self.waits_s.append(wait_s)
        return _Ref(self.waiting[-1])

    def tell(self, models):
        self.models = models
        self.waiting[-1].set_result(dict(models))


class _Method:
    def __init__(self, remote):
        self.remote = remote


class _Ref:
    def __init__(self, future):
        self.future = lambda: future


@pytest.fixture
def actor():
    return Actor()


@pytest.fixture
def known(actor):
    return KnownAliases(lambda: actor, clock=lambda: actor.now_s, draw=lambda: 1.0)


def look(known):
    """As a call does: what is trusted, else what the actor says."""
    trusted = known.trusted()
    return asyncio.run(known.ask()) if trusted is None else trusted  # a loop of its own for each


def test_a_busy_process_asks_once_and_then_waits_to_be_told(actor, known):
    for tenth in range(round(ALIAS_WATCH_S * 10)):
        actor.now_s = tenth / 10
        assert look(known) == {"n": V1}
    assert (actor.num_asked, actor.waits_s) == (1, [ALIAS_WATCH_S])
    # The question's time is up at the actor; what it answered then is known, and the next one waits.
    actor.now_s = ALIAS_WATCH_S
    actor.tell({"n": V1})
    assert look(known) == {"n": V1}
    assert (actor.num_asked, len(actor.waiting)) == (1, 2)


def test_a_change_is_known_with_the_next_look(actor, known):
    look(known)
    actor.now_s = 30.0
    actor.tell({"n": V2})
    assert known.trusted() == {"n": V2}
    assert (actor.num_asked, len(actor.waiting)) == (1, 2)


def test_a_process_that_did_nothing_for_long_trusts_nothing_old(actor, known):
    look(known)
    actor.now_s = ALIAS_WATCH_S / 2
    actor.tell({"n": V1})  # nobody looks, so that no question waits from here on
    actor.now_s += ALIAS_TTL_S
    actor.models = {"n": V2}
    assert known.trusted() is None
    assert look(known) == {"n": V2}


def test_an_answer_that_never_comes_is_waited_for_no_longer_than_was_asked(actor, known):
    look(known)
    actor.now_s = ALIAS_WATCH_S + ALIAS_TTL_S
    assert known.trusted() is None
    assert (look(known), actor.num_asked) == ({"n": V1}, 2)


def test_where_the_question_fails_what_is_known_lasts_a_moment(actor, known):
    look(known)
    actor.now_s = 30.0
    actor.waiting[-1].set_exception(RuntimeError("the actor died"))
    assert known.trusted() is None, "it was asked half a minute ago"
    assert look(known) == {"n": V1}
    actor.waiting[-1].set_exception(RuntimeError("again"))
    assert known.trusted() == {"n": V1}


def test_an_actor_that_does_not_answer_is_looked_up_again(actor):
    found = []
    known = KnownAliases(lambda: found.append(1) or actor, clock=lambda: actor.now_s)
    assert asyncio.run(known.ask()) == asyncio.run(known.ask()) == {"n": V1}
    assert len(found) == 1
    actor.fault = RuntimeError("the actor died")
    with pytest.raises(RuntimeError):
        asyncio.run(known.ask())
    assert len(found) == 2, "in the same call: another may have taken its place"
    actor.fault = None
    assert asyncio.run(known.ask()) == {"n": V1}
    assert len(found) == 3


def test_a_lookup_that_blocks_holds_up_no_other_call_of_the_loop(actor):
    blocked, go_on = threading.Event(), threading.Event()

    def find():
        blocked.set()
        go_on.wait(10)
        return actor

    async def main():
        asking = asyncio.create_task(KnownAliases(find).ask())
        await asyncio.to_thread(blocked.wait, 10)
        assert not asking.done()
        go_on.set()
        return await asking

    assert asyncio.run(main()) == {"n": V1}


def test_what_was_asked_before_a_change_does_not_cover_it(actor, known):
    look(known)

    async def main():
        real = actor.all.remote

        async def slow():
            old = await real()
            actor.tell({"n": V2})
            return old

        actor.all.remote = slow
        await known.ask()

    asyncio.run(main())
    assert known.trusted() == {"n": V2}


def test_a_transport_travels_as_its_name():
    transport = pickle.loads(pickle.dumps(HandleTransport("helpful")))
    assert transport.__reduce__() == (HandleTransport, ("helpful",))


def test_clients_share_what_is_known_of_the_cluster_that_their_process_is_connected_to(monkeypatch):
    import ray

    class Context:
        def __init__(self, node, job):
            self.get_node_id, self.get_job_id = (lambda: node), (lambda: job)

    connected = [True]
    monkeypatch.setattr(handle, "_connection", None)
    monkeypatch.setattr(ray, "is_initialized", lambda: connected[0])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Context("node", "01"))
    first = handle._connected()
    assert handle._connected() is first
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Context("node of another cluster", "01"))
    assert handle._connected().aliases is not first.aliases
    connected[0] = False
    with pytest.raises(ClusterError, match="not connected"):
        asyncio.run(HandleTransport("helpful").resolve(refresh=False, timeout_s=1.0))
