"""Turns of bulk work: bodies and batches that take long in pure Python, in the process that answers gateways.

Few are worked on at a time, one of each tenant, and what a tenant may have waiting is bounded. More is refused with
429, so that no tenant delays the answers to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trustwatch.ingest.errors import Unavailable

AT_ONCE = 2
"""Pieces of bulk work in one process at a time; one of each tenant."""

MAX_TENANT_PIECES = 64
MAX_TENANT_BYTES = 16 * 1024 * 1024
"""Pieces of a tenant that wait or are worked on, and their bytes as they came; one piece may always wait."""

BULK_RETRY_S = 2.0


class TooMuchBulkWork(Unavailable):
    """A tenant has too much bulk work waiting; nothing of the request was kept."""

    code = "too_many_requests"

    def __init__(self) -> None:
        super().__init__(
            f"too many large bodies or batches of this tenant wait: at most {MAX_TENANT_PIECES}, with "
            f"{MAX_TENANT_BYTES} bytes; send them one after another"
        )
        self.retry_after_s = BULK_RETRY_S


class _TenantWork:
    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.pieces = self.bytes = 0


class BulkTurns:
    """Gives turns, to tenants and within each tenant in the order in which they came. For one event loop."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._tenants: dict[str, _TenantWork] = {}

    def check(self, tenant: str, size: int) -> None:
        """Raise TooMuchBulkWork if so many more bytes of a tenant would be refused now."""
        work = self._tenants.get(tenant)
        if work and (work.pieces >= MAX_TENANT_PIECES or work.bytes + size > MAX_TENANT_BYTES):
            raise TooMuchBulkWork

    @asynccontextmanager
    async def turn(self, tenant: str, size: int) -> AsyncIterator[None]:
        """Wait for a turn, and hold it within the block.

        Raises:
            TooMuchBulkWork: the tenant has too much waiting.
        """
        self.check(tenant, size)
        work = self._tenants.setdefault(tenant, _TenantWork())
        work.pieces, work.bytes = work.pieces + 1, work.bytes + size
        try:
            async with work.turn, self._places:
                yield
        finally:
            work.pieces, work.bytes = work.pieces - 1, work.bytes - size
            if not work.pieces:
                del self._tenants[tenant]
