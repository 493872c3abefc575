"""Agents of a partition that was taken over move into memory before they act, so that no event waits for the store.

A thread reads pages of rows; the pipeline's thread lets each page move in while it has no backlog. Once every page is
read it is also known which agents the store has, and a new one is not looked for there.

What moves in is as true as if the agent's own event had brought it: an agent that was in memory, or erased, since the
take-over is left out, since the page may be older; and pages are read as of a moment at which the partition was ours.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import structlog

from ...ingest.errors import Fenced, Unavailable
from ..records.agents import AgentRow
from ..store.agent_store import AgentStore
from .partition import PartitionPipeline

_log = structlog.get_logger(__name__)

PAGE_SIZE = 250
"""Agents that move in at a time; it takes some milliseconds."""


class _Page(NamedTuple):
    """Stored agents in the order of keys, and whether there may be more."""

    rows: list[AgentRow]
    more: bool


class _Preload(NamedTuple):
    """A partition that is being preloaded, and the key behind which the next page begins."""

    pipeline: PartitionPipeline
    after: int | None = None
    read: int = 0  # agents so far


class AgentPreloader:
    """Preloads partitions, one after the other. For the thread of the pipeline.

    Args:
        agents: where rows are read.
    """

    def __init__(self, agents: AgentStore) -> None:
        self._agents = agents
        self._executor = ThreadPoolExecutor(1, "preload")
        self._waiting: deque[_Preload] = deque()
        self._reading: tuple[_Preload, Future[_Page]] | None = None

    @property
    def busy(self) -> bool:
        """True while a page is being read, or has to be taken."""
        return self._reading is not None

    def begin(self, pipeline: PartitionPipeline) -> None:
        """Preload a partition that was just taken over."""
        pipeline.agent_states.begin_preload()
        self._waiting.append(_Preload(pipeline))
        self._read_next()

    def stop(self, pipeline: PartitionPipeline) -> None:
        """Read no more of a partition that is not ours any more."""
        self._waiting = deque(one for one in self._waiting if one.pipeline is not pipeline)
        if self._reading is not None and self._reading[0].pipeline is pipeline:
            self._reading = None
            self._read_next()

    def step(self, timeout_s: float | None = 0.0) -> None:
        """Let the page that was read move in, if it is there within *timeout_s* seconds (None = wait for it)."""
        if self._reading is None or not wait([self._reading[1]], timeout_s).done:
            return
        (preload, future), self._reading = self._reading, None
        try:
            page = future.result()
        except (Unavailable, Fenced):  # what acts is read by itself; who lost the partition learns it there
            self._end(preload, complete=False)
        else:
            self._move_in(preload, page)
        self._read_next()

    def _move_in(self, preload: _Preload, page: _Page) -> None:
        fits = preload.pipeline.agent_states.preload(page.rows)
        read = preload._replace(read=preload.read + (len(page.rows) if fits else 0))
        if page.more and fits:
            self._waiting.appendleft(read._replace(after=page.rows[-1].name.key))
        else:
            self._end(read, complete=fits and not page.more)

    def _end(self, preload: _Preload, *, complete: bool) -> None:
        preload.pipeline.agent_states.end_preload(complete=complete)
        _log.info(
            "stored agents of the partition are in memory" if complete else "others are read as they act",
            partition=preload.pipeline.partition,
            agents=preload.read,
        )

    def _read_next(self) -> None:
        if self._reading is None and self._waiting:
            preload = self._waiting.popleft()
            self._reading = preload, self._executor.submit(self._read_page, preload)

    def _read_page(self, preload: _Preload) -> _Page:
        rows = self._agents.states_of_partition(preload.pipeline.position, preload.after, PAGE_SIZE)
        return _Page(rows, len(rows) == PAGE_SIZE)

    def close(self) -> None:
        """End the thread, after the page that is being read."""
        self._executor.shutdown(wait=True, cancel_futures=True)
