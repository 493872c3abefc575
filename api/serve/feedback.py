"""The feedback desk of a running service."""

from __future__ import annotations

from pathlib import Path

from ...ingest.kafka import KafkaLog
from ...ingest.log import GroupCommit
from ...scoring.store import Store
from .. import clock
from ..feedback import FeedbackDesk, Previews
from ..feedback.previews import PreviewProcess
from ..guard import Guard
from ..http.services import new_id
from ..settings import Settings


def make_feedback(
    settings: Settings, settings_file: Path | None, log: GroupCommit, store: Store, guard: Guard
) -> FeedbackDesk:
    """Everything the desk stands on; rules reach the pipeline by the same log as events."""

    def partitions() -> int:
        return log.log.partitions if isinstance(log.log, KafkaLog) else 1

    previews = Previews(settings.feedback, store, PreviewProcess(settings_file), clock.now_ms, new_id)
    return FeedbackDesk(settings, store, log, guard.audit, previews, clock.now_ms, partitions)
