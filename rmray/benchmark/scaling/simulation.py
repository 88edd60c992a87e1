"""One simulated run: who calls the deployment, and what came of it. Called by `grid` and `validation`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from rmray.benchmark.scaling.app import SimulatedApp
from rmray.benchmark.scaling.events import every
from rmray.benchmark.scaling.load import Call, Caller, Group, Profile, RolloutActor, set_active
from rmray.benchmark.scaling.records import Actors, Deployment, Outcome
from rmray.benchmark.scaling.routing import Handle

LOOK_S = 1.0
"""The state is noted this often."""


def simulate_actors(
    deployment: Deployment, actors: Actors, profile: Profile, groups: Sequence[Group], *, end_s: float, seed: int = 0
) -> Outcome:
    """Rollout actors against the deployment; the profile says how many of them are active."""
    app = SimulatedApp(deployment, seed=seed)
    crew = []
    for place in range(actors.num_actors):
        handle = app.handle()
        actor = RolloutActor(
            app.events,
            lambda call, handle=handle: app.send(handle, call),  # type: ignore[misc]
            groups,
            groups_per_step=actors.groups_per_step,
            generate_s=actors.generate_s,
            sigma=actors.sigma,
            timeout_s=actors.timeout_s,
            call_s=deployment.call_s,
            rng=random.Random(f"actor {seed} {place}"),
        )
        crew.append(actor)
    every(app.events, LOOK_S, lambda: set_active(crew, profile.level(app.events.now_s)))
    every(app.events, LOOK_S, lambda: app.look(profile.level(app.events.now_s)))
    outcome = app.run(end_s)
    outcome.waited_s = sum(actor.waited_s for actor in crew)
    outcome.generated_s = sum(actor.generated_s for actor in crew)
    return outcome


def simulate_arrivals(
    deployment: Deployment,
    arrivals: Sequence[tuple[float, Group]],
    *,
    timeout_s: float = 300.0,
    num_handles: int = 1,
    rest_s: float = 0.0,
    look_s: float = LOOK_S,
    seed: int = 0,
) -> Outcome:
    """Calls that come at given times, whoever waits, by handles in turn; until the last one is answered, and `rest_s`
    after that. look_s: the state is noted so often."""
    app = SimulatedApp(deployment, seed=seed)
    every(app.events, look_s, lambda: app.look(app.num_open))
    handles = itertools.cycle([app.handle() for _ in range(num_handles)])
    last_s = max((when_s for when_s, _ in arrivals), default=0.0)

    def send(handle: Handle, group: Group) -> None:
        now_s = app.events.now_s
        app.send(handle, Call(group, now_s, now_s + timeout_s, lambda call: None))

    for when_s, group in arrivals:
        app.events.at(when_s, send, next(handles), group)
    app.events.run_until(last_s)
    while app.num_open:
        app.events.run_until(app.events.now_s + 0.01)
    return app.run(app.events.now_s + rest_s)


def simulate_callers(
    deployment: Deployment, orders: Sequence[Sequence[Group]], *, end_s: float, num_handles: int = 1, seed: int = 0
) -> Outcome:
    """Callers in a closed loop by handles in turn, each asking for its groups in order, over and over."""
    app = SimulatedApp(deployment, seed=seed)
    handles = itertools.cycle([app.handle() for _ in range(num_handles)])
    for order, handle in zip(orders, handles, strict=False):
        Caller(app.events, lambda call, handle=handle: app.send(handle, call), order, deployment.call_s).ask()  # type: ignore[misc]
    return app.run(end_s)
