"""Make special tokens that user text writes out harmless. Called by `Renderer`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


class Escaper:
    """Puts a space into every written-out special token, so that user text cannot speak as the template does."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # Longest first, so that a token that contains another is found whole. A token of one character cannot be split.
        longest_first = sorted((t for t in set(tokens) if len(t) > 1), key=lambda t: (-len(t), t))
        self._special = re.compile("|".join(re.escape(t) for t in longest_first) or r"(?!)")

    def text(self, text: str, boundary: int = 0) -> tuple[str, int, int]:
        """The escaped text, the boundary moved along, and how many tokens were escaped."""
        total = 0
        while True:  # tokens that overlap need another round
            moved = 0

            def split(match: re.Match[str], boundary: int = boundary) -> str:
                nonlocal moved
                moved += match.start() + 1 <= boundary
                return f"{match.group()[0]} {match.group()[1:]}"

            text, count = self._special.subn(split, text)
            if not count:
                return text, boundary, total
            boundary, total = boundary + moved, total + count

    def everything(self, value: Any) -> tuple[Any, int]:
        """The same for every string inside messages or tools; roles are names, checked by the schema."""
        if isinstance(value, str):
            text, _, count = self.text(value)
            return text, count
        if isinstance(value, Mapping):
            escaped = {k: (v, 0) if k == "role" else self.everything(v) for k, v in value.items()}
            return {k: v for k, (v, _) in escaped.items()}, sum(count for _, count in escaped.values())
        if isinstance(value, list | tuple):
            parts = [self.everything(v) for v in value]
            return [v for v, _ in parts], sum(count for _, count in parts)
        return value, 0
