"""Access to the store from the event loop (bounded threads, a time limit), filtered pages, and turns of bulk work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store.database import BadCursor, Page

from .problems import ProblemDetails, ProblemError

P = ParamSpec("P")
T = TypeVar("T")

STORE_THREADS = 4
"""Threads that read the store for the API: lists may wait for each other, but not delay the pipeline."""

STORE_TIMEOUT_S = 15.0
"""Longest time that a request waits for the store."""


class StoreExecutor:
    """Calls the store in a few threads, with a time limit."""

    def __init__(self, threads: int = STORE_THREADS, wait_s: float = STORE_TIMEOUT_S) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._wait_s = wait_s

    async def __call__(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of *read*. Raises Unavailable, ProblemError."""
        call = partial(read, *args, **kwargs)
        try:
            with anyio.fail_after(self._wait_s):
                return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            raise Unavailable("the store does not answer in time") from None
        except BadCursor as error:
            raise ProblemError(ProblemDetails(400, error.code, "Invalid cursor", str(error))) from None

    async def write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of *change*, without a time limit: an abandoned change might still take effect."""
        return await anyio.to_thread.run_sync(partial(change, *args, **kwargs), limiter=self._limiter)


DEFAULT_PAGE_SIZE = 50
MAX_PAGES_READ = 20
"""Pages of the store that are read for one page of a filtered list."""


class FilteredPage(NamedTuple, Generic[T]):
    """Items that match, the cursor of the next page, and how many items were read to find them."""

    items: list[T]
    next_cursor: str | None
    looked_at: int


def read_filtered_page(
    page_at: Callable[[str | None], Page[T]],
    keep: Callable[[T], bool],
    cursor: str | None = None,
    *,
    least_items: int = DEFAULT_PAGE_SIZE,
) -> FilteredPage[T]:
    """Read pages until *least_items* are found, the list ends, or `MAX_PAGES_READ` pages are read.

    Whole pages are used, so that the cursor continues exactly after what was read. There may be up to a page more
    items. Blocks; raises what *page_at* raises.
    """
    items: list[T] = []
    looked_at = 0
    for _ in range(MAX_PAGES_READ):
        page = page_at(cursor)
        looked_at += len(page.items)
        items += filter(keep, page.items)
        cursor = page.next_cursor
        if cursor is None or len(items) >= least_items:
            break
    return FilteredPage(items, cursor, looked_at)


AT_ONCE = 2
"""Pieces of bulk work in one process at a time; one of each tenant."""

MAX_TENANT_PIECES = 64
MAX_TENANT_BYTES = 16 * 1024 * 1024
"""Pieces of a tenant that wait or are worked on, and their bytes as they came; one piece may always wait."""

BULK_RETRY_S = 2.0


class TooMuchBulkWork(Unavailable):
    """A tenant has too much bulk work waiting; no part of the request was kept."""

    code = "too_many_requests"

    def __init__(self) -> None:
        super().__init__(
            f"too many large bodies or batches of this tenant wait: at most {MAX_TENANT_PIECES}, with "
            f"{MAX_TENANT_BYTES} bytes; send them one after another"
        )
        self.retry_after_s = BULK_RETRY_S


@dataclass(eq=False)
class _TenantWork:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    pieces: int = 0
    bytes: int = 0


class BulkTurns:
    """Gives turns to tenants, and within each tenant in the order of arrival. For one event loop."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._tenants: dict[str, _TenantWork] = {}

    def check(self, tenant: str, size: int) -> None:
        """Raise TooMuchBulkWork if that many more bytes of a tenant would be refused now."""
        work = self._tenants.get(tenant)
        if work and (work.pieces >= MAX_TENANT_PIECES or work.bytes + size > MAX_TENANT_BYTES):
            raise TooMuchBulkWork

    @asynccontextmanager
    async def turn(self, tenant: str, size: int) -> AsyncIterator[None]:
        """Wait for a turn, and hold it within the block. Raises TooMuchBulkWork."""
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
