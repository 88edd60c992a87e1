"""A bounded sample that is fair and free of the order of rows: what has the smallest keys, which are hashes.

Called by `surface` and `labelled.words`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class SmallestKeys(Generic[T]):
    """The values of at most `size` keys. Samples of parts of a set merge to the sample of the whole."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._limit = 2**64
        self._kept: dict[int, T] = {}

    def wants(self, key: int) -> bool:
        """Whether the key may be among the smallest: a value that is dear to make is made for these alone."""
        return key < self._limit

    def put(self, entries: Mapping[int, T]) -> None:
        self._kept.update(entries)
        if len(self._kept) >= 2 * self._size:
            self._cut()

    def merge(self, other: SmallestKeys[T]) -> None:
        self.put(other._kept)

    def values(self) -> list[T]:
        """By key."""
        self._cut()
        return [self._kept[key] for key in sorted(self._kept)]

    def _cut(self) -> None:
        if len(self._kept) > self._size:
            keys = sorted(self._kept)[: self._size]
            self._kept = {key: self._kept[key] for key in keys}
            self._limit = keys[-1] + 1
