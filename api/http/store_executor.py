"""Access to the store from the event loop: short reads in bounded threads, searches in the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store.database import BadCursor
from trustwatch.scoring.store.read_scope import current_read_scope
from trustwatch.scoring.store.searches import FailedSearch, search_in_worker
from trustwatch.scoring.store.sql_store import SqlStore

from .auth.callers import AuthenticatedCaller
from .ledger import Ledger, Overloaded, party_of
from .problems import ProblemDetails, ProblemError
from .worker_pool import WorkerPool

P = ParamSpec("P")
T = TypeVar("T")

STORE_THREADS = 4
"""Threads that read the store for the API: lists may wait for each other, but not delay the pipeline."""

STORE_TIMEOUT_S = 15.0
"""Longest time that a request waits for the store."""


def invalid_cursor(reason: str) -> ProblemError:
    """Return the error for a cursor that the store did not return."""
    return ProblemError(ProblemDetails(400, BadCursor.code, "Invalid cursor", reason))


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
            raise invalid_cursor(str(error)) from None

    async def write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of *change*, without a time limit: an abandoned change might still take effect."""
        return await anyio.to_thread.run_sync(partial(change, *args, **kwargs), limiter=self._limiter)


@dataclass(eq=False, repr=False)
class BulkWork:
    """Work in the pool, so that it does not delay answers, with a ticket of the caller's tenant."""

    _store: SqlStore
    _ledger: Ledger
    _pool: WorkerPool

    def ticket(self, caller: AuthenticatedCaller) -> AbstractAsyncContextManager[None]:
        """Wait for a ticket, and hold it within the block. Raises Overloaded."""
        return self._ledger.bulk(party_of(caller.binding))

    async def run(self, caller: AuthenticatedCaller, function: Callable[..., T], *args: object) -> T:
        """Return the result of *function*, which is pickled. Raises Overloaded, UnprocessableWork, BodyTooLarge."""
        async with self.ticket(caller):
            return await self._pool.run(function, *args)

    async def search(self, caller: AuthenticatedCaller, search: Callable[..., T], *args: object) -> T:
        """Return the result of *search*, which is given the store first. Raises as `run`, Unavailable, ProblemError."""
        url = self._store.database.engine.url.render_as_string(hide_password=False)
        found: T | FailedSearch = await self.run(caller, search_in_worker, url, current_read_scope(), search, args)
        if isinstance(found, FailedSearch):
            raise invalid_cursor(found.reason) if found.is_cursor else Unavailable(found.reason)
        return found

    async def pieces(self, caller: AuthenticatedCaller, pieces: Iterator[T]) -> AsyncIterator[T]:
        """Yield *pieces*, each with a ticket: whoever takes them slowly holds none meanwhile."""
        piece: T | None = None
        while True:
            try:
                async with self.ticket(caller):
                    piece = await anyio.to_thread.run_sync(next, pieces, None)
            except Overloaded as error:  # the answer has begun, so it goes on later
                await anyio.sleep(error.retry_after_s)
                continue
            if piece is None:
                return
            yield piece
