"""Waits of a writer for brokers: as long as its callers say, until its process is to end."""

from __future__ import annotations

import math
import time


class LastWaits:
    """Bounds waits once the process is to end; after one that was in vain there is no further one.

    So a worker ends soon without brokers, and with them in good order, however long its other work takes.
    """

    def __init__(self) -> None:
        self._within_s = math.inf
        self._since_s = -math.inf

    @property
    def over(self) -> bool:
        """True if nothing is waited for any more."""
        return self._within_s <= 0.0

    def begin(self, within_s: float) -> None:
        """Let each wait last *within_s* seconds at most, one that is under way from now on. Again it changes nothing.

        Any thread and any signal handler may call this.
        """
        if self._within_s == math.inf:
            self._since_s = time.monotonic()
            self._within_s = within_s

    def is_over_at(self, began_s: float, timeout_s: float) -> bool:
        """Tell whether a wait of *timeout_s* seconds that began at *began_s*, of the monotonic clock, is over."""
        return self.left_s(began_s, timeout_s) <= 0.0

    def left_s(self, began_s: float, timeout_s: float) -> float:
        """Seconds that are left of such a wait; 0 = none."""
        ends_s = min(began_s + timeout_s, max(began_s, self._since_s) + self._within_s)
        return max(0.0, ends_s - time.monotonic())

    def note_in_vain(self) -> None:
        """Note that brokers did not acknowledge something."""
        if self._within_s < math.inf:
            self._within_s = 0.0
