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
from ..records.agent_pages import LAST_PAGE, AgentColumns, AgentPage
from ..records.agents import AgentRow
from ..store.agent_store import AgentStore
from .partition import PartitionPipeline

_log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000
"""Agents that are read at a time, 3 MB: asking for a page costs as much as a hundred agents."""

PAGES_AHEAD = 2
"""Pages that are read, or being read, while agents move in: reading never waits for the pipeline's thread."""

STEP_SIZE = 1_000
"""Agents that move in at a time; it takes some milliseconds."""

ROW_STEP_SIZE = 500
"""The same of those that come as rows; each takes several times as long."""


class _Preload:
    """A partition that is being preloaded.

    Args:
        pipeline: of the partition.
    """

    def __init__(self, pipeline: PartitionPipeline) -> None:
        self.pipeline = pipeline
        self.state_format = pipeline.agent_states.state_format
        self.pages: deque[Future[AgentPage]] = deque()
        """Pages that are being read, or wait to be, in the order of keys."""
        self.newest: Future[AgentPage] | None = None
        """The last of all pages so far; None = none was asked for."""
        self.parts: deque[AgentColumns | list[AgentRow]] = deque()
        """Agents of the page before that are still to move in, some at a time."""
        self.begun = self.all_read = False
        self.moved_in = 0

    def take(self, page: AgentPage) -> None:
        """Let the agents of a page move in next."""
        columns, rows = page.columns, page.rows
        if columns is not None:
            self.parts += [columns.part(start, start + STEP_SIZE) for start in range(0, columns.agent_count, STEP_SIZE)]
        self.parts += [rows[start : start + ROW_STEP_SIZE] for start in range(0, len(rows), ROW_STEP_SIZE)]
        self.all_read = page.last_key is None

    def cancel(self) -> None:
        """Read no more pages than the one that is being read."""
        for page in reversed(self.pages):  # each is read behind the one before
            page.cancel()

    def move_in(self) -> int | None:
        """Let some agents move in; returns how many did, None = not all of them can."""
        states, part = self.pipeline.agent_states, self.parts.popleft()
        return states.preload(part) if isinstance(part, list) else states.preload_columns(part)


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
        return first is not None and (bool(first.parts) or (bool(first.pages) and first.pages[0].done()))

    def begin(self, pipeline: PartitionPipeline) -> None:
        """Preload a partition that was just taken over."""
        pipeline.agent_states.begin_preload()
        self._waiting.append(_Preload(pipeline))
        self._begin_next()

    def stop(self, pipeline: PartitionPipeline) -> None:
        """Read no more of a partition that is not ours any more."""
        for preload in self._waiting:
            if preload.pipeline is pipeline:
                preload.cancel()
        self._waiting = deque(preload for preload in self._waiting if preload.pipeline is not pipeline)
        self._begin_next()

    def step(self, timeout_s: float | None = 0.0) -> None:
        """Let some agents move in that are there within *timeout_s* seconds (None = wait for them)."""
        if not self._waiting:
            return
        preload = self._waiting[0]
        try:
            if not preload.parts and not self._take_page(preload, timeout_s):
                return
        except (Unavailable, Fenced):  # what acts is read by itself; who lost the partition learns it there
            self._end(preload, complete=False)
            return
        moved_in = preload.move_in() if preload.parts else 0
        if moved_in is None:
            self._end(preload, complete=False)
            return
        preload.moved_in += moved_in
        if preload.all_read and not preload.parts:
            self._end(preload, complete=True)

    def _take_page(self, preload: _Preload, timeout_s: float | None) -> bool:
        """Take the page that was read, and have another one read while its agents move in; False = it is not there."""
        if not preload.pages or not wait([preload.pages[0]], timeout_s).done:
            return False
        page = preload.pages.popleft().result()
        preload.take(page)
        if not preload.all_read:
            self._read(preload)
        return True

    def _end(self, preload: _Preload, *, complete: bool) -> None:
        self._waiting.popleft()
        preload.cancel()
        preload.pipeline.agent_states.end_preload(complete=complete)
        _log.info(
            "stored agents of the partition are in memory" if complete else "others are read as they act",
            partition=preload.pipeline.partition,
            agents=preload.moved_in,
        )
        self._begin_next()

    def _begin_next(self) -> None:
        """Have the first pages of the first partition read, unless that is under way."""
        if self._waiting and not self._waiting[0].begun:
            self._waiting[0].begun = True
            for _ in range(PAGES_AHEAD):
                self._read(self._waiting[0])

    def _read(self, preload: _Preload) -> None:
        """Have the page read behind the last one that is being read."""
        preload.newest = self._executor.submit(self._read_page, preload, preload.newest)
        preload.pages.append(preload.newest)

    def _read_page(self, preload: _Preload, before: Future[AgentPage] | None) -> AgentPage:
        after = None
        if before is not None:
            after = before.result().last_key  # it is read, since one thread reads all; what hindered it, hinders this
            if after is None:
                return LAST_PAGE
        return self._agents.states_of_partition(preload.pipeline.position, after, PAGE_SIZE, preload.state_format)

    def close(self) -> None:
        """End the thread, after the page that is being read."""
        self._executor.shutdown(wait=True, cancel_futures=True)
