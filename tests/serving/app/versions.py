"""Versions of a scorer by arithmetic, deployed with small means. Used by the tests of this folder."""

import os
from functools import partial
from pathlib import Path

from rmray.errors import BundleError
from rmray.schema import ScoreFailure, ScoreRequest
from tests.fakes import ArithmeticScorer
from tests.waiting import wait_for

QUICK = {"cpus": 0.1, "drain_s": 1.5, "start_timeout_s": 60.0}


def arithmetic(version):
    """A version's scores: length of the completion plus the number in its name."""
    offset = float(version.removeprefix("v"))
    return ArithmeticScorer(lambda prompt, completion: len(completion) + offset, version=version)


class Gated(ArithmeticScorer):
    """Says in `folder` that a forward has begun, and ends none before `open` is there."""

    def __init__(self, folder, version):
        super().__init__(version=version)
        self._folder = Path(folder)

    def forward(self, batch):
        if batch[0].request.id != "probe":
            (self._folder / "entered").touch()
            wait_for((self._folder / "open").exists, timeout_s=40, what="leave to end the forward")
        return super().forward(batch)


def gated(folder, version):
    return Gated(folder, version)


def drifting(folder, version):
    """Scores 1 more once the folder holds a file with the name of this process, which it writes as `pid`."""
    mine = str(os.getpid())
    (Path(folder) / "pid").write_text(mine)
    return ArithmeticScorer(
        lambda prompt, completion: float(len(completion) + (Path(folder) / mine).exists()), version=version
    )


def golden_of_length(scorer):
    """The check of scorers whose score is the length."""

    def check():
        (encoded,) = scorer.encode([ScoreRequest(prompt="golden", completions=("abc",))])
        (raw,) = scorer.forward([encoded])
        if raw.tolist() != [3.0]:
            raise BundleError("the golden scores differently", why=f"{raw.tolist()} here, 3.0 in the bundle")

    return check


def broken(version):
    raise BundleError("a golden differs", where="golden 3", why="0.5 here, 0.7 in the bundle", next_step="export again")


def deploy(name, version, factory=arithmetic, **options):
    from rmray.serving.app import deploy_scorer

    return deploy_scorer(partial(factory, version), name=name, model_version=version, **{**QUICK, **options})


def raws(results):
    return [r.code if isinstance(r, ScoreFailure) else r.raw for r in results]


def apps_of(name):
    from ray import serve

    return sorted(a for a in serve.status().applications if a.startswith(name))


def running_replicas(name):
    """Actor names of the replicas of a name's app that run."""
    from ray.serve.context import _get_global_client

    from rmray.serving.app import served_models

    details = _get_global_client().get_serve_details()
    replicas = details["applications"][served_models()[name].app]["deployments"]["scorer"]["replicas"]
    return [r["actor_name"] for r in replicas if r["state"] == "RUNNING"]


def running_replica(name):
    (running,) = running_replicas(name)
    return running
