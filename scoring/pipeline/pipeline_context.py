"""What the partitions of one worker share, and what they report to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trustwatch.ingest.source import DurableSource

from ..policy.book import LivePolicy
from ..records.agents import AgentSummary
from ..records.commits import Position
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from ..store.sql_store import SqlStore
from .processor import StageMetrics, VectorFrames
from .settings import DEFAULT_TUNING, PipelineSettings, PipelineTuning
from .topic_publisher import TopicPublisher


class CommittedChanges(NamedTuple):
    """What a commit of a partition made durable."""

    decisions: Sequence[Decision]
    position: Position
    dropped_dead_letters: int
    vectors: VectorFrames = VectorFrames((), 0)


RiskListener = Callable[[Position, Sequence[AgentSummary], Sequence[PartitionErasure]], None]
"""Publishes erased agents, then agents that moved, as of the position. Does not wait and does not fail."""


class PipelineContext(NamedTuple):
    """Source, store, policy and settings that every partition of a worker shares."""

    source: DurableSource
    store: SqlStore
    policy: LivePolicy
    settings: PipelineSettings
    monotonic: Callable[[], float]  # seconds of a monotonic clock
    sleep: Callable[[float], None]  # waits between tries while a service does not answer; may raise to end the wait
    on_commit: Callable[[CommittedChanges], None]  # called after each commit with what became durable
    stages: StageMetrics
    publisher: TopicPublisher | None = None
    on_risk: RiskListener | None = None
    service: str = "https://trustwatch.invalid"  # `source` of alerts
    tuning: PipelineTuning = DEFAULT_TUNING
    acts_at_every_level: bool = False  # whether an actuator is notified of changes between `unknown` and `low`, too
