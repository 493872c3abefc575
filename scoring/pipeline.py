"""The live pipeline: records from a source, through the processor, into one transaction, out to the risk view.

Memory never runs ahead of the store for readers: what the view and the outbox show has been committed. When the store
does not answer, the pipeline pauses with its work in hand and loses nothing (fails closed: no new answers, old ones
turn stale). When another worker owns the partition, `Fenced` ends this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import structlog

from ..ingest.errors import CorruptLog, Unavailable
from ..ingest.source import DurableSource, RecordBatch
from .notify.alert import alert_row
from .policy import PolicyTable
from .processor import Applied, Processor
from .records import AgentRow, Commit, DeadLetter, Decision, OutboxRow, Position, RiskLevel
from .stages import Stages
from .store import Store

_log = structlog.get_logger(__name__)

PARTITION = 0


class PipelineSettings(NamedTuple):
    """How the pipeline works. Times in seconds of the injected monotonic clock."""

    batch: int = 1000
    commit_interval_s: float = 1.0
    most_dirty: int = 20_000  # agents and dead letters that may wait for a commit before it is made early
    retry_s: float = 0.5
    poll_s: float = 0.2
    service: str = "https://trustwatch.invalid"  # `source` of alerts


class Committed(NamedTuple):
    """What became durable, for the risk view: changed agents, decisions, and how far the partition is."""

    rows: Sequence[AgentRow]
    decisions: Sequence[Decision]
    position: Position
    behind: int  # records that wait
    dropped_dead_letters: int


class Pipeline:
    """One worker of one partition.

    Args:
        source: hands out records.
        processor: applies them.
        store: keeps state, decisions, outbox, dead letters and position in one transaction.
        policy: token policies, for alerts.
        settings: see PipelineSettings.
        monotonic: seconds on a clock that never goes back.
        sleep: waits between tries while the store does not answer.
        on_commit: called after each commit with what became durable.
    """

    def __init__(
        self, source: DurableSource, processor: Processor, store: Store, policy: PolicyTable,
        settings: PipelineSettings, monotonic: Callable[[], float], sleep: Callable[[float], None],
        on_commit: Callable[[Committed], None],
    ) -> None:  # fmt: skip
        self._source = source
        self._processor = processor
        self._store = store
        self._policy = policy
        self._settings = settings
        self._monotonic = monotonic
        self._sleep = sleep
        self._on_commit = on_commit
        self._decisions: list[Decision] = []
        self._dead: list[DeadLetter] = []
        self.stages = Stages(monotonic)
        self.position = Position(PARTITION, 0, 0)
        self._next = 0
        self._committed_at = monotonic()
        processor.residence.wait = self._pause

    def start(self) -> None:
        """Take the partition over, go to where its state was stored, and rebuild the duplicate window from the log.

        Raises:
            CorruptLog: the stored position lies behind the end of the log: the log has lost acknowledged records.
        """
        self.position = self._store.claim(PARTITION)
        self._next = self.position.offset
        end = self._source.end_offset(PARTITION)
        if self._next > end:
            raise CorruptLog(
                f"state was stored up to offset {self._next}, but the event log ends at {end}: it has lost records or "
                "belongs to another data directory; restore both from the same back-up"
            )
        window = self._processor.window
        first = window.first_offset_to_rebuild(self._next)
        window.restore(first, self._source.read_id_hashes(first, self._next))
        self._source.seek(PARTITION, self._next)

    def step(self) -> int:
        """Read and apply one batch, commit when it is time; returns the number of records."""
        with self.stages.timed("poll"):
            batch = self._source.poll(self._settings.batch, self._settings.poll_s)
        if batch is not None:
            self._apply(batch)
        if self._next != self.position.offset and (self._urgent() or self._late()):
            self.commit()
        return 0 if batch is None else len(batch.records)

    def finish(self) -> None:
        """Commit what was applied."""
        if self._next != self.position.offset:
            self.commit()

    def _apply(self, batch: RecordBatch) -> None:
        with self.stages.timed("apply"):
            applied = self._processor.apply(batch)
        self._decisions.extend(applied.decisions)
        self._dead.extend(applied.dead)
        self._next = batch.next_offset
        self.stages.count(applied)

    def _urgent(self) -> bool:
        """A change of level is made durable at once, so that its alert leaves and its answer shows."""
        dirty = self._processor.engine.dirty
        waiting = int(np.count_nonzero(dirty)) + len(self._processor.residence.gone) + len(self._dead)
        return bool(self._decisions) or waiting >= self._settings.most_dirty

    def _late(self) -> bool:
        return self._monotonic() - self._committed_at >= self._settings.commit_interval_s

    def commit(self) -> None:
        """Write everything since the last commit in one transaction, then show it to the view."""
        with self.stages.timed("rows"):
            rows = self._processor.residence.take_dirty()
        position = Position(PARTITION, self.position.epoch, self._next)
        outbox = [row for decision in self._decisions if (row := self._alert(decision)) is not None]
        commit = Commit(self.position, position, rows, self._decisions, outbox, self._dead)
        with self.stages.timed("commit"):
            dropped = self._write(commit)
        self._processor.residence.settled()
        self.position = position
        self._committed_at = self._monotonic()
        done = Committed(rows, self._decisions, position, self._source.end_offset(PARTITION) - self._next, dropped)
        self._decisions, self._dead = [], []
        self._on_commit(done)

    def _write(self, commit: Commit) -> int:
        """Commit; where the outcome is unknown, look before trying again, so that nothing is applied twice."""
        while True:
            try:
                return self._store.commit(commit).dropped_dead_letters
            except Unavailable as error:
                self._pause(error)
            try:
                if self._store.position(PARTITION) == commit.position:
                    return 0
            except Unavailable:
                continue

    def _pause(self, error: Unavailable) -> None:
        _log.warning("store does not answer; the pipeline waits", error=str(error), offset=self._next)
        self._sleep(self._settings.retry_s)

    def _alert(self, decision: Decision) -> OutboxRow | None:
        """Alerts tell of every change of level that people act on; cold starts are no news."""
        if max(decision.level, decision.previous_level) < RiskLevel.MEDIUM:
            return None
        return alert_row(decision, policy_dict(self._policy, decision.level), self._settings.service)


def policy_dict(policy: PolicyTable, level: int) -> dict[str, Any]:
    """Token policy of a level as plain data."""
    value = policy[level]
    return {name: getattr(value, name) for name in value.__struct_fields__}


__all__ = ["PARTITION", "Applied", "Committed", "Pipeline", "PipelineSettings", "policy_dict"]
