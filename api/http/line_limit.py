"""A bound on lines of the log that others cause: a flood of refusals fills no disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

LINES_PER_S: Final = 20


class LineLimit:
    """Lets some lines of one kind through each second. For one event loop.

    Args:
        monotonic: seconds on a clock that never goes back.
        per_s: lines of one second.
    """

    def __init__(self, monotonic: Callable[[], float], per_s: int = LINES_PER_S) -> None:
        self._monotonic = monotonic
        self._per_s = per_s
        self._second = -1
        self._written = 0
        self._left_out = 0

    def write(self, line: Callable[..., Any], event: str, **members: Any) -> None:
        """Write a line, or leave it out; the next one that is written says how many were."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_s:
            self._left_out += 1 + members.get("left_out", 0)
            return
        self._written += 1
        if self._left_out:
            members["left_out"] = members.get("left_out", 0) + self._left_out
            self._left_out = 0
        line(event, **members)
