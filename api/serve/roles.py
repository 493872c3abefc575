"""What a `serve` process does: everything, or its part of the distributed form."""

from __future__ import annotations

from typing import NamedTuple

from ...ingest.errors import ConfigError
from ..settings import Settings


class Roles(NamedTuple):
    """The parts that run here."""

    api: bool = True
    """Answers questions and takes events in."""
    workers: bool = True
    """Scores events, delivers alerts, keeps the store in order."""


def check_roles(roles: Roles, settings: Settings) -> None:
    """Raise ConfigError where the settings do not allow a part to run alone."""
    alone = not (roles.api and roles.workers)
    if not alone:
        return
    option = "--api-only" if roles.api else "--workers-only"
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
