"""A small pool of processes for bulk work, so that the process that answers shares no interpreter with it.

Each call has a process of its own while it runs. A call that ends its process, needs too much memory or takes too long
fails alone, and the next one gets a new process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_process
from anyio import BrokenWorkerProcess

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.formats.bodies import BodyTooLarge
from trustwatch.ingest.pool_worker import MEMORY_BYTES, run_within_limits

from .ledger import AT_ONCE

LONGEST_S: Final = 30.0

T = TypeVar("T")


class UnprocessableWork(TrustwatchError):
    """A request ended the process that worked on it, or took too long there. Nothing of it was kept; send less."""

    code = "unprocessable_work"


class WorkerPool:
    """Runs functions of modules in other processes. For one event loop."""

    def __init__(self, processes: int = AT_ONCE) -> None:
        self._limiter = anyio.CapacityLimiter(processes)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return the result of *function*. Arguments, result and errors are pickled.

        Raises BodyTooLarge for lack of memory, and UnprocessableWork.
        """
        try:
            with anyio.fail_after(LONGEST_S):
                return await anyio.to_process.run_sync(
                    run_within_limits, function, args, cancellable=True, limiter=self._limiter
                )
        except MemoryError:
            raise BodyTooLarge(f"this takes more than {MEMORY_BYTES >> 20} MiB of memory: send or ask less") from None
        except (BrokenWorkerProcess, ProcessLookupError):  # the latter by uvloop, if the process is gone already
            raise UnprocessableWork("the process that worked on this request ended: send or ask less") from None
        except TimeoutError:
            raise UnprocessableWork(f"this request took more than {LONGEST_S:g} s: send or ask less") from None
