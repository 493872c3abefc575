"""Extras that the settings need, looked at before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import ExtraName, extra_missing, install_line, missing_packages
from trustwatch.ingest.objects.object_store import CLOUD_SCHEMES

from ..composition import store_address
from ..settings.root import Settings

_log = structlog.get_logger(__name__)


def check_extras(settings: Settings) -> None:
    """Raise ConfigError with every extra that the settings need and that is not installed.

    Without `otlp` the service starts: OTLP/JSON needs no library. A caller that may send protobuf is warned of.
    """
    lacking = [
        extra_missing(extra, needed_by, packages)
        for extra, needed_by in _needed(settings)
        if (packages := missing_packages(extra))
    ]
    if lacking:
        raise ConfigError("; ".join(lacking))
    senders = [caller.name for caller in settings.callers if caller.format == "otlp"]
    if senders and missing_packages("otlp"):
        _log.warning("otlp_as_json_alone", callers=senders, protobuf_needs=install_line("otlp"))


def _needed(settings: Settings) -> Iterator[tuple[ExtraName, str]]:
    """Extras with the setting that asks for them."""
    if settings.archive.directory is not None or settings.archive.vectors is not None:
        yield "archive", "`archive` names a folder"
    yield from settings.brokers.needed_extras()
    if store_address(settings).url.startswith("postgresql"):
        yield "postgres", "`store.url` names PostgreSQL"
    scheme, is_url, _ = (settings.store.checkpoints or "").partition("://")
    if is_url and scheme.lower() in CLOUD_SCHEMES:
        yield "objects", "`store.checkpoints` names a bucket"
