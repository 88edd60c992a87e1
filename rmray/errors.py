"""The one exception tree: every error says what, where, why and what to do next.

    RmrayError
    ├── UserError            the user can mend it: the command line prints it alone and exits with 2
    │   ├── ConfigError      a config file, an override or an option
    │   ├── DataError        an input file or a prepared set
    │   │   └── RowError     one bad row: quarantined, it never stops a job by itself
    │   ├── ModelError       a base model, tokenizer or device that cannot do what is asked
    │   ├── BundleError      a bundle or checkpoint that must not be used
    │   ├── ClusterError     the Ray cluster cannot hold what is asked
    │   └── RunError         a run directory in use, a resume that does not fit
    ├── RequestError         one score request (or one of its items) that cannot be answered
    └── TrainingError        training broke off: the run's own fault, not the user's input
        └── RunInterruptedError   this process was told to terminate; the run is saved and can be resumed

Raise `Kind(what, where=..., why=..., next_step=...)`; `str()` of it is the message a person reads.
"""

from __future__ import annotations

from typing import Any


class RmrayError(Exception):
    """Base of all errors rmray raises on purpose.

    what: the fault in one sentence. where: file, line, dotted path or object. why: what rmray expected or found.
    next_step: what the reader can do.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", next_step: str = "") -> None:
        super().__init__(what, where, why, next_step)
        self.what, self.where, self.why, self.next_step = what, where, why, next_step

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return "\n".join([head, *(f"  {label}: {text}" for label, text in self._details() if text)])

    def _details(self) -> list[tuple[str, str]]:
        return [("why", self.why), ("next", self.next_step)]

    # Ray and multiprocessing ship exceptions between processes: keyword-only fields need to be told to pickle.
    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.why, self.next_step, self.__dict__)


def _rebuild(
    kind: type[RmrayError], what: str, where: str, why: str, next_step: str, state: dict[str, Any]
) -> RmrayError:
    error = kind.__new__(kind)
    RmrayError.__init__(error, what, where=where, why=why, next_step=next_step)
    error.__dict__.update(state)
    return error


class UserError(RmrayError):
    """Something the user can mend; the command line exits with 2."""


class ConfigError(UserError):
    """A config file, a dotted override or a command-line option is wrong."""


class DataError(UserError):
    """An input file or a prepared set cannot be used."""


class RowError(DataError):
    """One row is bad. `code` is the short, countable reason (`missing_field`, `blank_completion`, ...)."""

    def __init__(self, code: str, what: str, **details: str) -> None:
        super().__init__(what, **details)
        self.code = code


class ModelError(UserError):
    """A base model, its tokenizer or the device cannot do what is asked."""


class BundleError(UserError):
    """A bundle or a checkpoint is damaged, untrusted or does not match its goldens."""


class ClusterError(UserError):
    """The Ray cluster cannot hold what is asked."""


class RunError(UserError):
    """A run directory is in use, or what is to be resumed does not fit."""


class RequestError(RmrayError):
    """One score request, or one item of it, cannot be answered.

    code: short and stable (`over_length`, `unfinished`, `tokenizer_mismatch`, `non_finite`, `overloaded`, ...).
    """

    def __init__(self, code: str, what: str, **details: str) -> None:
        super().__init__(what, **details)
        self.code = code


class TrainingError(RmrayError):
    """Training broke off."""


class RunInterruptedError(TrainingError):
    """This process was told to terminate; the run is saved and the same command with --resume goes on."""
