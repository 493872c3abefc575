"""Access to the store from the event loop (bounded threads, a time limit), and filtered pages."""

from __future__ import annotations

from collections.abc import Callable
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
