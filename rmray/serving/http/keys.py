"""API keys from a file, compared in constant time. Called by `app.gateway`; `middleware` asks."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from rmray.errors import ConfigError

MIN_KEY_CHARS = 16
"""A shorter one can be guessed; 32 random hex digits are 128 bits."""


class ApiKeys:
    """The keys that are let in. Their hashes alone are kept, so that no message or dump shows one."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def accept(self, given: str) -> bool:
        """Whether `given` is one of the keys. Takes as long for a wrong one as for a right one, whichever it is."""
        digest = _digest(given)
        found = False
        for known in self._digests:  # all of them: leaving early would tell which one was met
            found |= hmac.compare_digest(digest, known)
        return found


def read_api_keys(path: str | Path) -> ApiKeys:
    """Keys from a text file, one a line; blank lines and lines that begin with # say nothing.

    Raises ConfigError where the file can't be read or holds no key, or one that is too short or no printable ASCII.
    """
    file = Path(path).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the file of API keys cannot be read", where=str(file), why=type(error).__name__) from None
    keys = []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                "a line is no API key",
                where=f"{file}:{number}",
                why=f"a key is at least {MIN_KEY_CHARS} printable ASCII characters without blanks",
                next_step="make one with `openssl rand -hex 32`",
            )
        keys.append(key)
    if not keys:
        raise ConfigError("the file holds no API key", where=str(file), next_step="write one key a line into it")
    return ApiKeys(keys)


def _digest(key: str) -> bytes:
    # Of equal length whatever the key's, which comparing in constant time needs.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
