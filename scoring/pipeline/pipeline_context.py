"""Things that the partitions of one worker share, and what they tell the rest of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from trustwatch.ingest.source import DurableSource

from ..policy.book import LivePolicy
from ..records.agents import AgentSummary
from ..records.commits import Commit, Position
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from ..store.sql_store import SqlStore
from .processor import StageMetrics, VectorFrames
from .settings import DEFAULT_TUNING, PipelineSettings, PipelineTuning


class CommittedChanges(NamedTuple):
    """Changes that became durable with a commit of a partition."""

    decisions: Sequence[Decision]
    position: Position
    dropped_dead_letters: int
    vectors: VectorFrames = VectorFrames((), 0)


class Publisher(Protocol):
    """Publishes by topics what became durable. At least once: versions and ids let readers drop what they have.

    Safe to use from two threads. What was published of risk (`RiskListener`) is waited for with the rest.
    """

    def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Send dead letters. Called before their commit: none is lost with a crash in between.

        Raises Unavailable: send all of them again; a reader knows them by their ids.
        """

    def publish_commit(self, commit: Commit) -> None:
        """Send decisions and alerts of *commit*, and do not wait. Raises Unavailable: send all of it again."""

    def wait_acknowledged(self) -> None:
        """Wait until everything that was published has arrived.

        Raises Unavailable: some of it did not, and is sent again by the next call.
        """

    def republish(self, position: Position, published: int) -> None:
        """Send again erased agents, decisions and alerts of commits after the offset *published*; wait for them.

        Whether they arrived is not known. Raises Unavailable: send all of it again.
        """

    def forget_partition(self, partition: int) -> None:
        """Send no more of a partition that is another worker's now."""


RiskListener = Callable[[Position, Sequence[AgentSummary], Sequence[PartitionErasure]], None]
"""Publishes agents that moved, as of the position, behind those that were erased; does not wait, and does not fail."""


class PipelineContext(NamedTuple):
    """Source, store, policy and settings that every partition of a worker shares."""

    source: DurableSource
    store: SqlStore
    policy: LivePolicy
    settings: PipelineSettings
    monotonic: Callable[[], float]  # seconds on a clock that never goes back
    sleep: Callable[[float], None]  # waits between tries while a service does not answer; may raise to end the wait
    on_commit: Callable[[CommittedChanges], None]  # called after each commit with what became durable
    stages: StageMetrics
    publisher: Publisher | None = None
    on_risk: RiskListener | None = None
    service: str = "https://trustwatch.invalid"  # `source` of alerts
    tuning: PipelineTuning = DEFAULT_TUNING
    acts_at_every_level: bool = False  # whether an actuator hears of changes between `unknown` and `low`, too
