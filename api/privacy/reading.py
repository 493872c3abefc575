"""Who is left out where the events topic is read again, as the settings of whoever reads it say."""

from __future__ import annotations

from contextlib import closing

import structlog

from ...ingest.errors import ConfigError
from ...ingest.unread import ErasedFilter
from ...scoring.store import open_reading_store, sqlite_url
from ..settings import Settings

_log = structlog.get_logger(__name__)


def load_erased_filter(settings: Settings, topic: str) -> ErasedFilter:
    """The list of the erased, as it is now: of the shared database, or of the file of a service on this machine.

    Args:
        settings: of the service.
        topic: that is read; of others nothing is known.

    Raises:
        ConfigError: the database is none of ours; or there is none, and nothing says to read without the list.
        Unavailable: it does not answer; nobody reads events meanwhile, since some may have been erased.
    """
    if topic != settings.kafka.names.events:
        return ErasedFilter()
    url = _erased_list_url(settings, topic)
    if url is None:
        _log.warning("read without the list of the erased: whoever was erased is seen", topic=topic)
        return ErasedFilter()
    password = None if settings.store.password is None else settings.store.password.reveal()
    with closing(open_reading_store(url, password=password)) as store:
        return ErasedFilter(store.bygone())


def _erased_list_url(settings: Settings, topic: str) -> str | None:
    if settings.store.url is not None:
        return settings.store.url
    file = settings.data_dir / "trustwatch.db"
    if file.is_file():
        return sqlite_url(file)
    if settings.privacy.read_unlisted:
        return None
    raise ConfigError(
        f"{topic} may hold records of who was erased, and without a database nobody knows of whom: set store.url or "
        "TRUSTWATCH_STORE_URL to the service's database (reading it is enough), or privacy.read_unlisted: true if "
        "nobody was ever erased there"
    )
