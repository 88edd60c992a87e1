"""What a run of `benchmark serve` is told, and which points it measures. Made by the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ENGINE, HANDLE, HTTP, PEER = "engine", "handle", "http", "peer"
BARE = "bare"
IDS, TEXT = "ids", "text"


@dataclass(frozen=True, slots=True)
class Point:
    """One closed loop. transport: `bare` is the forward alone, in this order of batches and without callers; `peer` the
    server that runs one forward a request. completions: K of each request."""

    transport: str
    content: str
    completions: int
    callers: int
    replicas: int = 1

    @property
    def name(self) -> str:
        """For the table and for what is told."""
        with_callers = f", {self.callers} callers" if self.callers else ""
        with_replicas = f", {self.replicas} replicas" if self.replicas > 1 else ""
        return f"{self.transport}, {self.content}, K {self.completions}{with_callers}{with_replicas}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """models: names of `SHAPES`. threads: of torch, of every process that runs forwards. rounds: in which all points of
    a model take turns. seconds: of a closed loop, after every caller had its first answer.

    num_groups: that are asked for again and again; nothing is cached. prompt_chars, completion_chars: means of their
    lengths; prompts have 400 characters at least.

    group_callers, item_callers: in flight at saturation, of groups and of single completions. sweep: numbers of
    callers, of `swept` models. replicas: more than one, of `swept` models. shares: of the saturation, offered as
    Poisson arrivals; half of it to every model. open_requests, open_seconds: of each, whichever is reached first.
    noop_calls: of each kind, one after the other. noop_callers: in flight to see how many calls a second there are.
    haproxy: answers HTTP instead of Serve's own proxy.
    """

    models: tuple[str, ...] = ("5m", "30m")
    swept: tuple[str, ...] = ("5m",)
    threads: int = 1
    rounds: int = 3
    seconds: float = 2.0
    num_groups: int = 48
    prompt_chars: float = 480.0
    completion_chars: float = 160.0
    group_callers: int = 8
    item_callers: int = 128
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    replicas: tuple[int, ...] = (2,)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    open_requests: int = 300
    open_seconds: float = 20.0
    noop_calls: int = 300
    noop_callers: int = 64
    haproxy: bool = False
    seed: int = 0


QUICK = ServeSettings(
    models=("5m",),
    rounds=1,
    seconds=1.0,
    num_groups=8,
    group_callers=2,
    item_callers=4,
    sweep=(1, 2),
    replicas=(),
    shares=(0.5,),
    open_requests=10,
    open_seconds=5.0,
    noop_calls=20,
    noop_callers=8,
)
GROUP_SIZES = (8, 16)
HALF = 0.5


def points_of(model: str, settings: ServeSettings, *, whole: bool = False) -> tuple[Point, ...]:
    """What is measured on a model; the first two are the ceilings. whole: all of it on a model that is not swept."""
    callers, items = settings.group_callers, settings.item_callers
    points = [Point(BARE, IDS, k, 0) for k in GROUP_SIZES]
    points += [Point(HANDLE, IDS, k, callers) for k in GROUP_SIZES]
    points += [Point(HTTP, TEXT, 8, callers), Point(HTTP, TEXT, 1, items)]
    points += [Point(PEER, TEXT, 8, callers), Point(PEER, TEXT, 1, items)]
    if whole or model in settings.swept:
        points += [Point(ENGINE, IDS, 8, callers), Point(HANDLE, TEXT, 8, callers), Point(HTTP, IDS, 8, callers)]
        points += [Point(HANDLE, IDS, 1, items)]
        points += [Point(HANDLE, IDS, 8, number) for number in settings.sweep]
        points += [Point(HANDLE, IDS, 8, callers * number, number) for number in settings.replicas]
    return tuple(dict.fromkeys(points))


def shares_of(model: str, settings: ServeSettings, *, whole: bool = False) -> Sequence[tuple[str, float]]:
    """Transports and shares of the saturation of the open loops: by handle all, over HTTP half."""
    if whole or model in settings.swept:
        return [*((HANDLE, share) for share in settings.shares), (HTTP, HALF)]
    return [(HANDLE, HALF)]
