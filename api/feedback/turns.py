"""One thing at a time, for tenants that share it: who waits is let in by tenant, not by when it came."""

from __future__ import annotations

import asyncio
from collections import deque


class FairQueue:
    """Gives the turn to one task at a time; of the tenants that wait, to the one that had it longest ago.

    Within a tenant the first to come is the first. For one event loop.
    """

    def __init__(self) -> None:
        self._busy = False
        self._turn_count = 0
        self._last_turns: dict[str, int] = {}
        """When a tenant had its last turn, counted; only while somebody has one."""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def acquire(self, tenant: str) -> None:
        """Wait for the turn; whoever has it gives it back with `release`."""
        if not self._busy:
            self._take(tenant)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it came in the moment in which nobody wanted it any more
            else:
                self._forget(tenant, turn)
            raise

    def release(self) -> None:
        """Give the turn to the next, if anybody waits."""
        if not self._waiting:
            self._busy = False
            self._last_turns.clear()
            return
        tenant = min(self._waiting, key=lambda one: self._last_turns.get(one, -1))
        turn = self._waiting[tenant][0]
        self._forget(tenant, turn)
        self._take(tenant)
        turn.set_result(None)

    def _take(self, tenant: str) -> None:
        self._busy = True
        self._turn_count += 1
        self._last_turns[tenant] = self._turn_count

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        self._waiting[tenant].remove(turn)
        if not self._waiting[tenant]:
            del self._waiting[tenant]
