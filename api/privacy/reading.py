"""Who is left out where the events topic is read again, as the settings of whoever reads it say."""

from __future__ import annotations

from contextlib import closing

from ...ingest.unread import Unread
from ...scoring.store import open_reading_store
from ..settings import Settings


def unread_of(settings: Settings, topic: str) -> Unread:
    """The list of the erased, as it is now.

    Args:
        settings: of the service; without a shared database there is no such list.
        topic: that is read; of others nothing is known.

    Raises:
        ConfigError: the database is none of ours.
        Unavailable: it does not answer; nobody reads events meanwhile, since some may have been erased.
    """
    if settings.store.url is None or topic != settings.kafka.names.events:
        return Unread()
    password = None if settings.store.password is None else settings.store.password.reveal()
    with closing(open_reading_store(settings.store.url, password=password)) as store:
        return Unread(store.bygone())
