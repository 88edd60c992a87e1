"""A deployment on a virtual clock: calls, handles, replicas that come and go. Called by `simulation`.

The same seed gives the same run. Left out: the network's and the loop's own time but for `call_s`, tokenising (it
overlaps forwards), replicas that die, nodes that have to be found first.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rmray.benchmark.scaling.autoscaler import Autoscaler, LoadReports
from rmray.benchmark.scaling.events import Events, every
from rmray.benchmark.scaling.load import Call
from rmray.benchmark.scaling.records import Deployment, Look, Outcome
from rmray.benchmark.scaling.replica import SimulatedReplica
from rmray.benchmark.scaling.routing import Handle
from rmray.retry import Backoff
from rmray.serving.batching import BatchLimits

HANDLES = "handles"


@dataclass(slots=True, eq=False)
class _Member:
    """A replica of the deployment, from the decision to start it."""

    replica: SimulatedReplica
    asked_s: float
    ready_s: float | None = None
    drains: bool = False
    gone: bool = False


class SimulatedApp:
    """A deployment that is being called. Clients get a handle each and send calls to it."""

    def __init__(self, deployment: Deployment, *, seed: int = 0, keep_batches: bool = False) -> None:
        self.deployment, self.events, self.outcome = deployment, Events(), Outcome()
        self._rng = random.Random(f"app {seed}")
        self._backoff, self._keep_batches = Backoff(), keep_batches
        self.running: list[SimulatedReplica] = []  # those that handles route to
        self.members: list[_Member] = []
        self._handles: list[Handle] = []
        self._open: set[Call] = set()
        self._tokens_open = 0
        scaling = deployment.scaling
        self._target = deployment.replicas
        self._starts_s = iter(deployment.starts_s)
        if scaling:
            self._reports, self._autoscaler = LoadReports(scaling.look_back_s), Autoscaler(scaling)
        for _ in range(self._target):
            self._start(ready_s=0.0)
        if scaling:
            every(self.events, scaling.record_s, self._note_handles)
            every(self.events, scaling.metrics_interval_s, lambda: self._push(HANDLES))
            every(self.events, scaling.control_s, self._control)

    # Clients

    def handle(self) -> Handle:
        """A client's way in."""
        handle = Handle(
            self.events,
            self.running,
            max_ongoing_requests=self.deployment.max_ongoing_requests,
            rng=self._rng,
            accept=self._accept,
            late=lambda call: self._answer(call, "deadline"),
        )
        self._handles.append(handle)
        return handle

    def send(self, handle: Handle, call: Call) -> None:
        """Begin a call."""
        self._open.add(call)
        self._tokens_open += call.group.tokens
        handle.send(call)

    @property
    def num_open(self) -> int:
        """Calls begun and not yet over."""
        return len(self._open)

    @property
    def num_pending(self) -> int:
        """Calls that wait in handles."""
        return sum(handle.num_pending for handle in self._handles)

    def _accept(self, handle: Handle, replica: SimulatedReplica, call: Call) -> None:
        again_s = replica.accept(call)
        if again_s is None:
            return
        self.outcome.rejections += 1
        left_s = call.deadline_s - self.events.now_s
        delay_s = self._backoff.delay_s(call.attempt, left_s=left_s, jitter=self._rng.random(), hint_s=again_s)
        call.attempt += 1
        if delay_s is None:
            self._answer(call, "overloaded")
        else:
            self.events.after(delay_s, handle.send, call)

    def _answer(self, call: Call, failure: str | None) -> None:
        self._open.remove(call)
        self._tokens_open -= call.group.tokens
        if failure is None:
            self.outcome.sent_s.append(call.sent_s)
            self.outcome.latencies_s.append(self.events.now_s - call.sent_s + self.deployment.call_s)
            self.outcome.completions += call.group.completions
            self.outcome.tokens += call.group.tokens
        else:
            self.outcome.failures[failure] += 1
        call.answered(call)

    # Replicas

    def _start(self, ready_s: float) -> None:
        deployment = self.deployment
        replica = SimulatedReplica(
            self.events,
            deployment.cost,
            BatchLimits(deployment.max_batch_tokens, deployment.patience_s),
            max_queued_tokens=deployment.max_queued_tokens,
            rng=self._rng,
            answer=self._answer,
        )
        if self._keep_batches:
            replica.batches = []
        member = _Member(replica, self.events.now_s)
        self.members.append(member)
        if ready_s:
            self.events.after(ready_s, self._ready, member)
        else:
            self._ready(member)

    def _ready(self, member: _Member) -> None:
        if member.gone:
            return
        member.ready_s = self.events.now_s
        self.running.append(member.replica)
        if scaling := self.deployment.scaling:
            every(self.events, scaling.record_s, lambda: self._note(member))
            every(
                self.events, scaling.metrics_interval_s, lambda: None if member.drains else self._push(member.replica)
            )

    def _note_handles(self) -> None:
        self._reports.note(HANDLES, self.events.now_s, self.num_pending)

    def _note(self, member: _Member) -> None:
        if member.drains:
            self._reports.forget(member.replica)
        else:
            self._reports.note(member.replica, self.events.now_s, member.replica.accepted_tokens)

    def _push(self, source: object) -> None:
        self._reports.push(source, self.events.now_s)

    def _control(self) -> None:
        mean = self.outcome.tokens / self.outcome.num_calls if self.outcome.num_calls else 0.0
        target = self._autoscaler.decide(
            self._reports,
            self.running,
            HANDLES,
            target=self._target,
            mean_call_tokens=mean,
            now_s=self.events.now_s,
        )
        staying = [m for m in self.members if not m.drains and not m.gone]
        for _ in range(target - len(staying)):
            self._start(next(self._starts_s, self.deployment.start_s))
        # Those that have not started yet go first, then the youngest.
        for member in sorted(staying, key=lambda m: (m.ready_s is not None, -m.asked_s))[
            : max(0, len(staying) - target)
        ]:
            self._stop(member)
        self._target = target
        for member in self.members:
            if member.drains and not member.gone and not member.replica.num_ongoing:
                self._end(member)
        self.members = [m for m in self.members if not m.gone]

    def _stop(self, member: _Member) -> None:
        member.drains = True
        if member.ready_s is None:
            self._end(member)
        else:
            self.running.remove(member.replica)

    def _end(self, member: _Member) -> None:
        member.gone = True
        self._count(member)

    def _count(self, member: _Member) -> None:
        now_s, outcome = self.events.now_s, self.outcome
        outcome.replica_s += now_s - member.asked_s
        outcome.running_s += now_s - member.ready_s if member.ready_s is not None else 0.0
        outcome.busy_s += member.replica.busy_s
        outcome.num_batches += member.replica.num_batches

    # The run

    def look(self, level: float) -> None:
        """Note the state."""
        starting = sum(m.ready_s is None for m in self.members)
        draining = sum(m.drains for m in self.members)
        running = len(self.running)
        self.outcome.looks.append(
            Look(self.events.now_s, level, self._tokens_open, self._target, running, starting, draining)
        )

    def run(self, end_s: float) -> Outcome:
        """Let time pass until `end_s`; what happened."""
        self.events.run_until(end_s)
        for member in self.members:
            self._count(member)
        self.outcome.end_s = end_s
        return self.outcome
