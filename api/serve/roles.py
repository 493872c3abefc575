"""What a `serve` process does: everything, or its part of the distributed form."""

from __future__ import annotations

from typing import NamedTuple

from ...ingest.errors import ConfigError
from ..settings import Settings


class ServiceRoles(NamedTuple):
    """The parts that run here."""

    api: bool = True
    """Answers questions and takes events in."""
    workers: bool = True
    """Scores events, delivers alerts, keeps the store in order."""
    archiver: bool = True
    """Keeps the archive of events, where one is set. At most one process of a deployment does."""


def check_service_roles(roles: ServiceRoles, settings: Settings) -> None:
    """Raise ConfigError where the settings do not allow a part to run alone."""
    if roles.api and roles.workers:
        return
    option = "--api-only" if roles.api else "--workers-only" if roles.workers else "--archiver-only"
    if not settings.kafka.bootstrap_servers:
        raise ConfigError(
            f"{option} is for the distributed form: set kafka.bootstrap_servers or TRUSTWATCH_KAFKA_BOOTSTRAP_SERVERS, "
            "or leave it out to run everything on this machine"
        )
    if settings.store.url is None:
        raise ConfigError(
            f"{option} needs a database that all processes share: set store.url or TRUSTWATCH_STORE_URL to a "
            "postgresql:// URL"
        )
    if not (roles.api or roles.workers) and settings.archive.directory is None:
        raise ConfigError(f"{option} needs a place for the archive: set archive.directory")
