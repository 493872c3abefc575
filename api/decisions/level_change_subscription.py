"""Changes of level as they happen, for somebody who watches."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import TracebackType

from trustwatch.scoring.pipeline.ipc import LevelChange
from trustwatch.scoring.pipeline.pipeline_status import LevelChangeQueue, PipelineStatus


class SubscriptionEnded(Exception):
    """There will be no more changes: the service stops, or this watcher did not keep up."""


class LevelChangeSubscription:
    """Changes of level from now on, of some tenants alone. A context manager, for one event loop.

    Args:
        status: whose changes are watched.
        tenants: those whose changes are passed on; None = all.
    """

    def __init__(self, status: PipelineStatus, tenants: Collection[str] | None) -> None:
        self._status = status
        self._tenants = None if tenants is None else frozenset(tenants)
        self._queue: LevelChangeQueue | None = None

    def __enter__(self) -> LevelChangeSubscription:
        self._queue = self._status.subscribe()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._queue is not None:
            self._status.unsubscribe(self._queue)

    async def next_change(self, wait_s: float) -> LevelChange | None:
        """The next change; None where none came in *wait_s* seconds. Raises SubscriptionEnded."""
        queue = self._entered_queue()
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    change = await queue.get()
                    if change is None:
                        raise SubscriptionEnded
                    if self._is_visible(change):
                        return change
        except TimeoutError:
            return None

    def pending_changes(self) -> list[LevelChange]:
        """Changes that came meanwhile, without waiting; `next_change` raises at the end."""
        queue = self._entered_queue()
        changes: list[LevelChange] = []
        while not queue.empty():
            change = queue.get_nowait()
            if change is None:
                queue.put_nowait(None)
                break
            if self._is_visible(change):
                changes.append(change)
        return changes

    def _entered_queue(self) -> LevelChangeQueue:
        assert self._queue is not None  # changes are heard inside the `with` block alone
        return self._queue

    def _is_visible(self, change: LevelChange) -> bool:
        return self._tenants is None or change.tenant in self._tenants
