"""Which of many names may stand in a record, without asking for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

PATTERN_PART_BYTES = 8
"""Bytes of a name that are looked up."""


class MultiPatternSearch:
    """Finds candidates; whoever asked looks closer at those.

    Of each name the part is looked up that the fewest others have, since names of one house begin or end alike.

    Args:
        needles: of each name, how JSON may write it.
    """

    def __init__(self, needles: Sequence[Collection[bytes]]) -> None:
        shared = Counter(part for several in needles for needle in several for part in _pattern_parts(needle))
        self._count = len(needles)
        self._short: list[tuple[int, Collection[bytes]]] = []
        self._by_part: dict[bytes, list[tuple[int, bytes]]] = {}
        for number, several in enumerate(needles):
            if any(len(needle) < PATTERN_PART_BYTES for needle in several):
                self._short.append((number, several))
                continue
            for needle in several:
                rarest = min(_pattern_parts(needle), key=shared.__getitem__)
                self._by_part.setdefault(rarest, []).append((number, needle))
        self._known = frozenset(self._by_part)

    def candidates(self, raw: bytes) -> Sequence[int]:
        """Numbers of the names that may stand in JSON, in their order; all of them where it can not be read."""
        if not self._count:
            return ()
        if b"\\" in raw:
            try:
                raw = msgspec.json.encode(msgspec.json.decode(raw))  # as we write it
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return range(self._count)
        found = {number for number, several in self._short if any(needle in raw for needle in several)}
        for part in self._known.intersection(_pattern_parts(raw)):
            found.update(number for number, needle in self._by_part[part] if needle in raw)
        return sorted(found)


def _pattern_parts(text: bytes) -> set[bytes]:
    return {text[at : at + PATTERN_PART_BYTES] for at in range(len(text) - PATTERN_PART_BYTES + 1)}
