"""Agents of a partition that was taken over move into memory before they act, so that no event waits for the store.

A thread reads pages of rows; the pipeline's thread lets them move in, some at a time, while it has no backlog. Once
every page is read it is also known which agents the store has, and a new one is not looked for there.

What moves in is as true as if the agent's own event had brought it: an agent that was in memory, or erased, since the
take-over is left out, since the page may be older; and pages are read as of a moment at which the partition was ours.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog

from ...ingest.errors import Fenced, Unavailable
from ..records.agents import AgentRow
from ..store.agent_store import AgentStore
from .partition import PartitionPipeline

_log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000
"""Agents that are read at a time."""

STEP_SIZE = 500
"""Agents that move in at a time; it takes some milliseconds."""


class _Preload:
    """A partition that is being preloaded.

    Args:
        pipeline: of the partition.
    """

    def __init__(self, pipeline: PartitionPipeline) -> None:
        self.pipeline = pipeline
        self.page: Future[list[AgentRow]] | None = None
        """The page that is being read, in the order of keys."""
        self.rows: list[AgentRow] = []
        """Agents of the page before that are still to move in."""
        self.begun = self.all_read = False
        self.moved_in = 0


class AgentPreloader:
    """Preloads partitions, one after the other. For the thread of the pipeline.

    Args:
        agents: where rows are read.
    """

    def __init__(self, agents: AgentStore) -> None:
        self._agents = agents
        self._executor = ThreadPoolExecutor(1, "preload")
        self._waiting: deque[_Preload] = deque()

    @property
    def busy(self) -> bool:
        """True while agents are being read, or have to move in."""
        return bool(self._waiting)

    @property
    def has_agents(self) -> bool:
        """True if agents are there that can move in at once."""
        first = self._waiting[0] if self._waiting else None
        return first is not None and (bool(first.rows) or (first.page is not None and first.page.done()))

    def begin(self, pipeline: PartitionPipeline) -> None:
        """Preload a partition that was just taken over."""
        pipeline.agent_states.begin_preload()
        self._waiting.append(_Preload(pipeline))
        self._begin_next()

    def stop(self, pipeline: PartitionPipeline) -> None:
        """Read no more of a partition that is not ours any more."""
        self._waiting = deque(preload for preload in self._waiting if preload.pipeline is not pipeline)
        self._begin_next()

    def step(self, timeout_s: float | None = 0.0) -> None:
        """Let some agents move in that are there within *timeout_s* seconds (None = wait for them)."""
        if not self._waiting:
            return
        preload = self._waiting[0]
        try:
            if not preload.rows and not self._take_page(preload, timeout_s):
                return
        except (Unavailable, Fenced):  # what acts is read by itself; who lost the partition learns it there
            self._end(preload, complete=False)
            return
        rows, preload.rows = preload.rows[:STEP_SIZE], preload.rows[STEP_SIZE:]
        moved_in = preload.pipeline.agent_states.preload(rows)
        if moved_in is None:
            self._end(preload, complete=False)
            return
        preload.moved_in += moved_in
        if preload.all_read and not preload.rows:
            self._end(preload, complete=True)

    def _take_page(self, preload: _Preload, timeout_s: float | None) -> bool:
        """Take the page that was read, and have the next one read while its agents move in; False = it is not there."""
        if preload.page is None or not wait([preload.page], timeout_s).done:
            return False
        page, preload.page = preload.page, None
        preload.rows = page.result()
        preload.all_read = len(preload.rows) < PAGE_SIZE
        if not preload.all_read:
            self._read(preload, preload.rows[-1].name.key)
        return True

    def _end(self, preload: _Preload, *, complete: bool) -> None:
        self._waiting.popleft()
        preload.pipeline.agent_states.end_preload(complete=complete)
        _log.info(
            "stored agents of the partition are in memory" if complete else "others are read as they act",
            partition=preload.pipeline.partition,
            agents=preload.moved_in,
        )
        self._begin_next()

    def _begin_next(self) -> None:
        """Have the first page of the first partition read, unless that is under way."""
        if self._waiting and not self._waiting[0].begun:
            self._waiting[0].begun = True
            self._read(self._waiting[0], None)

    def _read(self, preload: _Preload, after: int | None) -> None:
        """Have the page behind the key *after* read."""
        preload.page = self._executor.submit(self._read_page, preload.pipeline, after)

    def _read_page(self, pipeline: PartitionPipeline, after: int | None) -> list[AgentRow]:
        return self._agents.states_of_partition(pipeline.position, after, PAGE_SIZE)

    def close(self) -> None:
        """End the thread, after the page that is being read."""
        self._executor.shutdown(wait=True, cancel_futures=True)
