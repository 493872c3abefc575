"""The way into the store from the event loop: bounded threads, a time limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store.database import BadCursor

from .problems import ProblemDetails, ProblemError

P = ParamSpec("P")

T = TypeVar("T")

STORE_THREADS = 4
"""Threads that read the store for the API: lists may wait for each other, not hold up the pipeline."""

STORE_TIMEOUT_S = 15.0
"""Longest time that a request waits for the store."""


class StoreExecutor:
    """Calls the store in threads, a few at a time, and waits only so long."""

    def __init__(self, threads: int = STORE_THREADS, wait_s: float = STORE_TIMEOUT_S) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._wait_s = wait_s

    async def __call__(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of *read*.

        Raises:
            Unavailable: the store does not answer in time.
            ProblemError: 400, the cursor is none of ours.
        """
        call = partial(read, *args, **kwargs)
        try:
            with anyio.fail_after(self._wait_s):
                return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            raise Unavailable("the store does not answer in time") from None
        except BadCursor as error:
            raise ProblemError(ProblemDetails(400, error.code, "Invalid cursor", str(error))) from None

    async def write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of *change*, however long it takes: nobody could say whether one that was given up took effect."""
        return await anyio.to_thread.run_sync(partial(change, *args, **kwargs), limiter=self._limiter)
