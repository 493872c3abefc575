"""Publication of the risk of one partition's agents: which agents, as of which offset, and when."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection

from trustwatch.ingest.errors import Unavailable, retry_until_available

from ..records.agents import AgentIdentity
from ..records.commits import Position
from ..records.erasures import PartitionErasure
from .pipeline_context import PipelineContext
from .processor import Processor

MIN_RISK_INTERVAL_S = 0.005
"""Least time between two publications of risk, however little they cost."""

MAX_RISK_INTERVAL_S = 1.0
"""Longest time between two publications of risk, however much they cost."""

RISK_SHARE = 0.2
"""Share of the pipeline's time that publications of risk may take; during a backlog, half of it."""

STORED_RISK_CHUNK = 10_000
"""Agents of the store that are published at a time."""


class RiskPublication:
    """Publishes the risk of agents that moved, through the context's `on_risk`.

    An answer never returns to an earlier state. After a worker dies, the next one applies again what was published, and
    publishes nothing until then. A worker that may have lost the partition checks the store first.
    """

    def __init__(
        self, processor: Processor, context: PipelineContext, wait_before_retry: Callable[[Unavailable], None]
    ) -> None:
        self._agents = processor.engine.agent_states
        self._control_records = processor.control_records
        self._context = context
        self._wait_before_retry = wait_before_retry
        self.offset = 0
        """Offset before which all records are part of the published risk."""
        self.received_ms = 0
        """Arrival of the last record before `offset`; 0 = none was applied here."""
        self._applied = Position(0, 0, 0)
        self._applied_ms = 0
        self._held_until = 0
        self._unpublished_above: int | None = None
        """Offset above which the store has risk that may not be published; None if it has none."""
        self._published_erasures = 0
        """Number of erasures since the last begun commit that are published."""
        self._unpublished_erasures: list[PartitionErasure] = []
        """Erasures of earlier commits that are not published."""
        self._must_confirm, self._confirm_at = False, 0.0
        self._level_changed = self._batch_full = False
        self._published_at, self._took_s = context.monotonic(), 0.0

    def take_over(self, owner: Position, held_until: int, published: int) -> None:
        """Continue from a stored position."""
        self._applied, self.offset, self._held_until = owner, owner.offset, held_until
        if published < owner.offset and self._context.on_risk is not None:
            self._unpublished_above = published
        if not self._is_held:
            self._publish()

    def note_applied(self, next_offset: int, received_ms: int, *, batch_full: bool, level_changed: bool) -> None:
        """Note that a batch was applied, the last record of which arrived at *received_ms*."""
        applied = self._applied
        self._applied, self._applied_ms = Position(applied.partition, applied.epoch, next_offset), received_ms
        self._batch_full = batch_full
        self._level_changed = self._level_changed or level_changed

    def begin_commit(self) -> bool:
        """Note that a commit takes everything that was applied; return whether the risk in it is published."""
        self._unpublished_erasures += self._control_records.erasures[self._published_erasures :]
        self._published_erasures = 0
        return self.offset >= self._applied.offset and self._unpublished_above is None

    def publish_due(self, *, at_once: bool = False) -> None:
        """Publish agents that moved, if that is due, or *at_once*.

        Raises Fenced if the owner had to be checked and another worker owns the partition; the caller drops it.
        """
        if self._applied.offset == self.offset or self._is_held or (self._wait_s() > 0.0 and not at_once):
            return
        if self._must_confirm and not self._is_confirmed():
            return
        started = self._context.monotonic()
        with self._context.stages.timed("publish_risk"):
            self._publish()
        self.offset, self.received_ms = self._applied.offset, self._applied_ms
        self._published_at, self._level_changed = self._context.monotonic(), False
        self._took_s = self._published_at - started

    def due_in_s(self) -> float:
        """Seconds until a publication is due; infinite if nothing waits."""
        return math.inf if self._applied.offset == self.offset or self._is_held else self._wait_s()

    def confirm_first(self) -> None:
        """Check the owner in the store before more risk is published."""
        self._must_confirm = True

    def _publish(self) -> None:
        erasures = self._control_records.erasures
        unpublished = [*self._unpublished_erasures, *erasures[self._published_erasures :]]
        self._unpublished_erasures, self._published_erasures = [], len(erasures)
        agents, publish = self._agents.take_moved(), self._context.on_risk
        if publish is None:
            return
        if self._unpublished_above is not None:
            moved = {agent.name.identity for agent in agents}
            retry_until_available(lambda: self._publish_stored(moved), self._wait_before_retry)
            self._unpublished_above = None
        publish(self._applied, agents, unpublished)

    def _publish_stored(self, moved: Collection[AgentIdentity]) -> None:
        """Publish the stored risk of agents that have not *moved* since: it still holds."""
        publish, above = self._context.on_risk, self._unpublished_above
        assert publish is not None and above is not None
        stored = self._context.store.agents.iterate_unpublished(self._applied.partition, above)
        unmoved = (versioned.agent for versioned in stored if versioned.agent.name.identity not in moved)
        agents = self._agents.after_erasures(unmoved)
        while part := list(itertools.islice(agents, STORED_RISK_CHUNK)):
            publish(self._applied, part, ())

    @property
    def _is_held(self) -> bool:
        """True while nothing may be published.

        The previous owner may have published more than is applied here, or the store did not confirm the owner and is
        not to be queried again yet.
        """
        if self._applied.offset < self._held_until:
            return True
        return self._must_confirm and self._context.monotonic() < self._confirm_at

    def _is_confirmed(self) -> bool:
        """Return whether the store confirms the owner; False if it does not answer. Raises Fenced."""
        try:
            self._context.store.partitions.check_owner(self._applied)
        except Unavailable:
            self._confirm_at = self._context.monotonic() + self._context.tuning.retry_s
            return False
        self._must_confirm = False
        return True

    def _wait_s(self) -> float:
        """Seconds until the next publication: 0 for a change of level, unless there is a backlog."""
        if self._level_changed and not self._batch_full:
            return 0.0
        share = RISK_SHARE / 2 if self._batch_full else RISK_SHARE
        most_s = min(MAX_RISK_INTERVAL_S, self._context.settings.commit_interval_s)
        interval_s = min(max(MIN_RISK_INTERVAL_S, self._took_s / share), most_s)
        return self._published_at + interval_s - self._context.monotonic()
