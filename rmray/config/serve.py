"""What a served model costs and how it scales, and the names that serving and its clients must agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from rmray.config.train import PositiveInt, Section
from rmray.errors import ConfigError

RAY_NAMESPACE = "rmray"
"""Ray namespace of rmray's own named actors."""
ALIAS_ACTOR = "aliases"
"""The detached actor that knows which app answers for a name."""
SCORER_DEPLOYMENT = "scorer"
"""The one deployment inside every app of a model."""
ALIAS_TTL_S = 1.0
"""So long a client and the gateway trust the alias they know; a replaced app stays up for longer than that."""
GATEWAY_APP = "rmray-gateway"
"""The app that answers HTTP for all names."""
API_KEYS_ENV = "RMRAY_API_KEYS"
"""Environment variable that names the gateway's file of API keys, one a line; unset, it asks for none."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Seconds = Annotated[float, Field(strict=False, gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(strict=False, ge=0, allow_inf_nan=False)]


class ServeOptions(Section):
    min_replicas: PositiveInt = 1
    """Replicas that are always there."""
    max_replicas: PositiveInt = 1
    """Replicas at most; between the two Serve follows the load."""
    cpus: _Share = 1.0
    """CPUs, and torch threads, per replica."""
    gpus: _Share = 0.0
    """GPUs, or a share of one, per replica."""
    max_batch_tokens: PositiveInt = 16384
    """Tokens in one forward; a larger group gets a forward of its own."""
    max_queued_tokens: PositiveInt = 262144
    """Tokens a replica accepts before it answers `overloaded`."""
    patience_s: _Share = 1.0
    """A request that has waited so long is taken in order of arrival, whatever its length."""
    encode_threads: PositiveInt = 1
    """Threads that render and tokenise."""
    max_ongoing_requests: PositiveInt = 32
    """Calls in flight on one replica: about two batches. Fewer starve the forward, more starve new replicas."""
    target_ongoing_requests: _Seconds = 12.0
    """Calls in flight per replica that autoscaling aims at."""
    max_queued_requests: PositiveInt = 1000
    """Calls that wait in one client's handle for a replica before it answers `overloaded`."""
    upscale_delay_s: _Share = 10.0
    """Load must last so long before replicas are added."""
    downscale_delay_s: _Share = 120.0
    """Idleness must last so long before replicas are taken away."""
    start_timeout_s: _Seconds = 900.0
    """Time for a new version to load, check its goldens and warm up."""
    drain_s: _Share = 5.0
    """After the alias has moved, time for clients to notice before the old version is taken down."""

    @model_validator(mode="after")
    def _check(self) -> ServeOptions:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})")
        if self.max_queued_tokens < self.max_batch_tokens:
            raise ValueError(
                f"max_queued_tokens ({self.max_queued_tokens}) is less than max_batch_tokens ({self.max_batch_tokens})"
            )
        return self


def serve_options(**fields: object) -> ServeOptions:
    """ServeOptions from keyword arguments; ConfigError names every field that is wrong."""
    try:
        return ServeOptions.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            ": ".join(filter(None, [".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")]))
            for e in error.errors(include_url=False)
        )
        raise ConfigError(
            faults, where="serving options", why=f"known: {', '.join(ServeOptions.model_fields)}"
        ) from None


def check_name(name: str) -> str:
    """The name, or ConfigError where it could not stand in an app's name and a URL."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a served model",
            why="a name is letters, digits, dots, dashes and underscores, and begins with a letter or a digit",
        )
    return name


def app_name(name: str, model_version: str, attempt: int = 0) -> str:
    """The Serve app of one version of one model. attempt: counts up where that app exists with other options."""
    return f"{name}-{model_version[:12]}" + (f"-{attempt}" if attempt else "")


def name_of_app(app: str, model_version: str) -> str:
    """The name that `app_name` made the app's of; of an app that it didn't name, the app's own."""
    return app.rpartition(f"-{model_version[:12]}")[0] or app


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What an alias points to: the app that answers for `name`, and who is in it."""

    name: str
    app: str
    kind: str
    model_version: str
    reference: str
    tokenizer_hash: str
    max_length: int
    options_digest: str = ""
