"""Bounds in time of the events of a history that are wanted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

_CLOCK_TOLERANCE = timedelta(hours=1)
"""Tolerated lead of a sender's clock: an event may carry a time that much later than its arrival."""


class TimeWindow(NamedTuple):
    """Event times that are wanted, from the first on and before the second; None = no bound."""

    after: datetime | None = None
    before: datetime | None = None

    def may_contain(self, received_ms: int) -> bool:
        """True if what arrived then may have happened within the window, given that senders' clocks may run ahead."""
        return self.after is None or received_ms >= (self.after - _CLOCK_TOLERANCE).timestamp() * 1000
