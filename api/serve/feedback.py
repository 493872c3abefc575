"""The feedback desk of a running service."""

from __future__ import annotations

from pathlib import Path

from ...ingest.kafka import KafkaCommitLog
from ...ingest.log import GroupCommit
from ...scoring.store import Store
from .. import clock
from ..feedback import FeedbackService, PreviewRunner
from ..feedback.previews import PreviewProcess
from ..guard import PolicyDecisionPoint
from ..http.services import new_id
from ..settings import Settings


def label_retention_days(settings: Settings) -> int:
    """Days for which labels are kept: else as long as training may read the events that they speak of."""
    archive = settings.archive
    events = max(settings.retention_days, 0 if archive.directory is None else archive.retention_days)
    return events if settings.retention.labels is None else settings.retention.labels


def make_feedback_service(
    settings: Settings, settings_file: Path | None, log: GroupCommit, store: Store, guard: PolicyDecisionPoint
) -> FeedbackService:
    """Everything the desk stands on; rules reach the pipeline by the same log as events."""

    def partitions() -> int:
        return log.log.partitions if isinstance(log.log, KafkaCommitLog) else 1

    previews = PreviewRunner(settings.feedback, store, PreviewProcess(settings_file), clock.now_ms, new_id)
    return FeedbackService(settings, store, log, guard.audit_sink, previews, clock.now_ms, partitions)
