"""The only place of the client that reads clocks; tests pass another one."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since 1970 (`wall`), and seconds that never go back (`steady`)."""

    def wall(self) -> float: ...

    def steady(self) -> float: ...


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()
