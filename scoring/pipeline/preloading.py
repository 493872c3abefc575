"""Preloads the agents of a partition that was taken over, so that no event waits for the store.

Threads read pages of rows; the pipeline's thread moves their agents into memory, some at a time, while it has no
backlog. Once every page is read, the pipeline knows all stored agents and does not query the store for new ones.

An agent that was in memory, or erased, since the take-over is left out, since the page may be older. Pages are read as
of a moment at which this worker owned the partition.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

import structlog

from trustwatch.ingest.errors import Fenced, Unavailable

from ..records.agent_pages import AgentColumns, AgentPage
from ..records.agents import AgentRow
from ..store.sql_store import SqlStore
from .partition import PartitionPipeline

_log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000
"""Agents that are read at a time, 3 MB: a query costs as much as a hundred agents."""

KEY_RANGES = ((None, 2**64 - 1), (2**64 - 1, None))
"""Key after which each reader begins, and key up to which it reads, in the order of signed numbers. Keys are hashes:
each range has half of a partition's agents. While one page is cut into columns, the database reads the other."""

STEP_S = 0.01
"""Longest time of a step, in which no event is applied: some microseconds for each agent, and several times that in
fresh memory or from rows."""

MIN_STEP_SIZE, MAX_STEP_SIZE = 100, 1_000
"""Fewest and most agents of a step."""

FEW = 1_000
"""If no more agents are left, they move in even during a backlog: then new agents are not looked up in the store."""


class _RangeReader:
    """Reads the agents of a partition with keys in a range, one page at a time, on any thread."""

    def __init__(self, pipeline: PartitionPipeline, store: SqlStore, after: int | None, last: int | None) -> None:
        self._store, self._owner, self._state_format = store, pipeline.position, pipeline.agent_states.state_format
        self._after, self._last = after, last
        self.page: Future[AgentPage] | None = None
        """The page that waits, is being read, or was not taken yet."""
        self.has_more = True

    def read(self) -> AgentPage:
        """Read the next page. Raises Unavailable, Fenced."""
        agents = self._store.agents
        page = agents.states_of_partition(self._owner, self._after, PAGE_SIZE, self._state_format, self._last)
        self._after, self.has_more = page.last_key, page.last_key is not None
        return page


class _Preload:
    """A partition that is being preloaded."""

    def __init__(self, pipeline: PartitionPipeline, store: SqlStore) -> None:
        self.pipeline = pipeline
        self.unread = [_RangeReader(pipeline, store, after, last) for after, last in KEY_RANGES]
        """Readers with pages that were not taken; the first one is next."""
        self.taken: deque[AgentColumns | list[AgentRow]] = deque()
        """Agents of taken pages that are still to move in."""
        self._begun = 0
        """Number of agents of the first of these that moved in."""
        self._step_size = MIN_STEP_SIZE
        self.moved_in = 0

    @property
    def pages(self) -> list[Future[AgentPage]]:
        """Pages that wait, are being read, or were not taken yet."""
        return [reader.page for reader in self.unread if reader.page is not None]

    @property
    def has_agents(self) -> bool:
        return bool(self.taken) or any(page.done() for page in self.pages)

    @property
    def has_few_left(self) -> bool:
        """True if all remaining agents were read and are few."""
        pages = self.pages
        if len(pages) < len(self.unread) or not all(page.done() for page in pages):
            return False
        read = [page.result() for page in pages if page.exception() is None]
        left = sum(map(_count, self.taken)) - self._begun
        is_last = not any(reader.has_more for reader in self.unread)
        return is_last and left + sum(page.agent_count for page in read) <= FEW

    def take(self, reader: _RangeReader, page: AgentPage) -> None:
        """Queue the agents of a page. The other reader has the next turn."""
        self.taken += [part for part in (page.columns, page.rows) if part is not None and _count(part)]
        self.unread.remove(reader)
        reader.page = None
        if reader.has_more:
            self.unread.append(reader)

    def cancel(self) -> None:
        """Cancel pages that are not being read yet."""
        for page in self.pages:
            page.cancel()

    def move_in(self, monotonic: Callable[[], float]) -> int | None:
        """Move agents in for about `STEP_S`; return their number, or None if not all of them can."""
        states, taken, start, started = self.pipeline.agent_states, self.taken[0], self._begun, monotonic()
        end = min(start + self._step_size, _count(taken))
        if isinstance(taken, list):
            moved_in = states.preload(taken[start:end])
        else:
            moved_in = states.preload_columns(taken.part(start, end))
        self._begun = end
        if end == _count(taken):
            self.taken.popleft()
            self._begun = 0
        took_s = monotonic() - started
        if took_s <= STEP_S:
            self._step_size = min(MAX_STEP_SIZE, 2 * self._step_size)
        else:
            self._step_size = max(MIN_STEP_SIZE, int((end - start) * STEP_S / took_s))
        return moved_in


class AgentPreloader:
    """Preloads partitions one after the other. For the thread of the pipeline."""

    def __init__(self, store: SqlStore, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._executor = ThreadPoolExecutor(len(KEY_RANGES) + 1, "preload")
        self._waiting: deque[_Preload] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @property
    def has_agents(self) -> bool:
        return bool(self._waiting) and self._waiting[0].has_agents

    @property
    def has_few_left(self) -> bool:
        """True if a few steps end the partition, some milliseconds, as for a new one."""
        return bool(self._waiting) and self._waiting[0].has_few_left

    def begin(self, pipeline: PartitionPipeline) -> None:
        """Preload a partition that was just taken over."""
        pipeline.agent_states.begin_preload()
        self._waiting.append(_Preload(pipeline, self._store))
        self._read()

    def stop(self, pipeline: PartitionPipeline) -> None:
        """Stop preloading a partition that another worker owns."""
        for preload in self._waiting:
            if preload.pipeline is pipeline:
                preload.cancel()
        self._waiting = deque(preload for preload in self._waiting if preload.pipeline is not pipeline)
        self._read()

    def step(self, timeout_s: float | None = 0.0) -> None:
        """Move some agents in that are read within *timeout_s* seconds (None = wait for them)."""
        if not self._waiting:
            return
        self._read()
        preload = self._waiting[0]
        try:
            if not preload.taken and not self._take_page(preload, timeout_s):
                return
        except (Unavailable, Fenced):  # agents that act are read one by one, and a lost partition is noticed there
            self._end(preload, complete=False)
            return
        moved_in = preload.move_in(self._monotonic) if preload.taken else 0
        if moved_in is None:
            self._end(preload, complete=False)
            return
        preload.moved_in += moved_in
        if not preload.unread and not preload.taken:
            self._end(preload, complete=True)

    def _take_page(self, preload: _Preload, timeout_s: float | None) -> bool:
        """Take a page that was read, and let its reader continue; return False if there is none."""
        done = wait(preload.pages, timeout_s, FIRST_COMPLETED).done
        reader = next((reader for reader in preload.unread if reader.page in done), None)
        if reader is None or reader.page is None:
            return False
        preload.take(reader, reader.page.result())
        self._read()
        return True

    def _end(self, preload: _Preload, *, complete: bool) -> None:
        self._waiting.popleft()
        preload.cancel()
        preload.pipeline.agent_states.end_preload(complete=complete)
        _log.info(
            "stored agents of the partition are in memory" if complete else "other agents are read when they act",
            partition=preload.pipeline.partition,
            agents=preload.moved_in,
        )
        self._read()

    def _read(self) -> None:
        """Start to read the next page of each reader of the first two partitions, unless that is under way."""
        for preload in islice(self._waiting, 2):
            for reader in preload.unread:
                if reader.page is None:
                    reader.page = self._executor.submit(reader.read)

    def close(self) -> None:
        """End the threads after the pages that they are reading."""
        for preload in self._waiting:
            preload.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)


def _count(agents: AgentColumns | list[AgentRow]) -> int:
    return len(agents) if isinstance(agents, list) else agents.agent_count
