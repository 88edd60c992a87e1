"""What a served model costs and how it scales, and the names that serving and its clients must agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from rmray.config.judge import ENVIRONMENT_NAME, JudgeConfig, JudgeSection
from rmray.config.load import load_config
from rmray.config.train import PositiveInt, Section
from rmray.errors import ConfigError

RAY_NAMESPACE = "rmray"
"""Ray namespace of rmray's own named actors."""
ALIAS_ACTOR = "aliases"
"""The detached actor that knows which app answers for a name."""
SCORER_DEPLOYMENT = "scorer"
"""The one deployment inside every app of a model."""
ALIAS_TTL_S = 1.0
"""So long a client and the gateway trust the alias they know while nobody would tell them of a change; a replaced app
stays up for longer than that."""
ALIAS_WATCH_S = 60.0
"""So long at most a question for changes waits at the alias actor."""
GATEWAY_APP = "rmray-gateway"
"""The app that answers HTTP for all names."""
API_KEYS_ENV = "RMRAY_API_KEYS"
"""Environment variable that names the gateway's file of API keys, one a line; unset, it asks for none."""

SERVED_DIR_ENV = "RMRAY_SERVED_DIR"
"""Environment variable that names a directory on shared storage: what is served stands there, for the next cluster."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Seconds = Annotated[float, Field(strict=False, gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(strict=False, ge=0, allow_inf_nan=False)]


class ServeOptions(Section):
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas that are always there. 0: none where nobody asks; the first call then waits for one to load."""
    max_replicas: PositiveInt = 1
    """Replicas at most; between the two their number follows the load."""
    max_replicas_per_node: Annotated[int, Field(gt=0, le=100)] | None = None
    """Replicas at most on one node. null: as many as fit."""
    cpus: _Share = 1.0
    """CPUs, and torch threads, per replica."""
    gpus: _Share = 0.0
    """GPUs, or a share of one, per replica."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of a bundle's weights. auto: bfloat16 on a GPU that has it, float32 elsewhere. The head stays float32."""
    max_batch_tokens: PositiveInt = 16384
    """Tokens in one forward; a larger group gets a forward of its own."""
    max_queued_tokens: PositiveInt = 262144
    """Tokens a replica accepts before it answers `overloaded`."""
    patience_s: _Share = 1.0
    """A request that has waited so long is taken in order of arrival, whatever its length."""
    encode_threads: PositiveInt = 1
    """Threads that render and tokenise."""
    max_ongoing_requests: PositiveInt = 4096
    """Calls in flight on one replica: more than `max_queued_tokens` lets in, of 64 tokens and more. Others wait in
    Serve's handles, which find a replica with room too late to keep it busy (docs/serving.md)."""
    target_tokens: PositiveInt = 4096
    """Tokens, accepted and waiting, per replica that autoscaling aims at: a quarter of a batch (docs/scaling.md)."""
    metrics_interval_s: _Seconds = 2.0
    """How often every replica and every client's handle tells Serve of its load; decisions look back twice as long."""
    max_queued_requests: PositiveInt = 1000
    """Calls that wait in one client's handle for a replica before it answers `overloaded`."""
    upscale_delay_s: _Share = 10.0
    """Load must last so long before replicas are added."""
    downscale_delay_s: _Share = 600.0
    """Idleness must last so long before replicas are taken away."""
    downscale_to_zero_delay_s: _Share = 600.0
    """With min_replicas 0, nobody may have asked for so long before the last one is taken away."""
    check_every_s: _Seconds = 60.0
    """Each replica is checked so often: of a bundle a golden is scored again, of anything else a probe."""
    finish_s: _Seconds = 120.0
    """Time for a replica that is taken away to answer what it has accepted."""
    start_timeout_s: _Seconds = 900.0
    """Time for a new version to load, check its goldens and warm up, and for the gateway to run."""
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


class RemoteSection(Section):
    url: str
    """Address of a vLLM server with a reward model (/classify or /pooling)."""
    bundle_rules: str
    """The bundle by whose rules it is asked."""
    key_env: Annotated[str, Field(pattern=ENVIRONMENT_NAME)] | None = None
    """Environment variable with the server's key, in the environment of the replicas. null: no key is sent."""


def _read_judge(value: Any) -> Any:
    return load_config(JudgeConfig, value).judge if isinstance(value, str) else value


class ServeConfig(Section):
    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")] = "reward-model"
    """What clients ask for."""
    bundle: str | None = None
    """Directory of the bundle, at the same path on every node. One of `bundle`, `judge` and `remote` is given."""
    judge: Annotated[JudgeSection, BeforeValidator(_read_judge)] | None = None
    """A judge: the file of its config, or what stands there under `judge`."""
    remote: RemoteSection | None = None
    """A reward model on another server."""
    http_port: Annotated[int, Field(gt=0, lt=65536)] | None = None
    """Serve's HTTP port, set when it starts. null: the port it runs on, else 8000, else a free one."""
    options: ServeOptions = ServeOptions()

    @model_validator(mode="after")
    def _check(self) -> ServeConfig:
        given = [name for name in ("bundle", "judge", "remote") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of `bundle`, `judge` and `remote` is to be served, and {len(given)} are given")
        if self.bundle is None and self.options.dtype != "auto":
            raise ValueError("`options.dtype` is of bundles")
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


def check_share(canary: float) -> float:
    """The share of the calls that a canary takes, or ConfigError."""
    if not 0 < canary < 1:
        raise ConfigError(f"the canary's share is {canary:g}", why="it is a part of the calls, between 0 and 1")
    return canary


def app_name(name: str, model_version: str, attempt: int = 0) -> str:
    """The Serve app of one version of one model. attempt: counts up where that app exists with other options."""
    return f"{name}-{model_version[:12]}" + (f"-{attempt}" if attempt else "")


def name_of_app(app: str, model_version: str) -> str:
    """The name that `app_name` made the app's of; of an app that it didn't name, the app's own."""
    return app.rpartition(f"-{model_version[:12]}")[0] or app


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What an alias points to: the app that answers for `name`, and who is in it. canary: a version that answers a
    share of the calls in its place."""

    name: str
    app: str
    kind: str
    model_version: str
    reference: str
    tokenizer_hash: str
    max_length: int
    options_digest: str = ""
    canary: ServedModel | None = None
    share: float = 0.0

    def pick(self, draw: float) -> ServedModel:
        """Who answers a call. draw: uniform in [0, 1), one a call, so that no answer mixes versions."""
        return self if self.canary is None or draw >= self.share else self.canary

    @property
    def apps(self) -> set[str]:
        """Those that answer for the name."""
        return {self.app} if self.canary is None else {self.app, self.canary.app}
