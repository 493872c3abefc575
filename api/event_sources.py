"""The log of events for processes next to the pipeline, on this machine or in a topic of brokers.

Archive and model worker follow it through `GroupSource`. What differs by the kind of the log is here: who else is a
member, how far back repeated events are recognized, and how the erased are left out.
"""

from __future__ import annotations

import msgspec

from trustwatch.ingest.duplicate_window import PARTITION_WINDOW, DuplicateWindow
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.log_reader import LogGroupSource
from trustwatch.ingest.record_erasure import ErasedFilter
from trustwatch.ingest.source import GroupSource

from .brokers import open_group_source
from .composition import load_erased_filter, open_service_identities
from .settings.root import Settings


def open_event_source(
    settings: Settings, *, suffix: str = "", member: str = "", identities: IdentityHasher | None = None
) -> GroupSource:
    """Open the partitions of the log for the workers, or for a follower whose group has *suffix*.

    Raises ConfigError, Unavailable.
    """
    if not settings.distributed:
        return LogGroupSource(settings.data_dir / "log")
    brokers = msgspec.structs.replace(settings.brokers, group_id=settings.brokers.group_id + suffix)
    return open_group_source(brokers, member=member, identities=identities or open_service_identities(settings))


def event_log_name(settings: Settings) -> str:
    """Name under which an archive knows the log: the topic, or "" for that of this machine."""
    return settings.brokers.topic_names.events if settings.distributed else ""


def make_duplicate_window(settings: Settings) -> DuplicateWindow:
    """A window that recognizes repeated events of one partition as the workers do."""
    return DuplicateWindow(PARTITION_WINDOW) if settings.distributed else DuplicateWindow()


def load_erased_from_log(settings: Settings) -> ErasedFilter:
    """Filter of the erased whose records the log still has; the log of this machine is rewritten, and has none.

    Raises as `load_erased_filter`.
    """
    return load_erased_filter(settings, settings.brokers.topic_names.events) if settings.distributed else ErasedFilter()
