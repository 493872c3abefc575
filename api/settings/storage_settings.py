"""Settings of store, archive, retention and privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from ...ingest.settings import Secret, SettingsPart, setting


class StoreSettings(SettingsPart, frozen=True):
    """The database. By default a file of its own below `data_dir`."""

    url: Annotated[str | None, setting("`postgresql://USER@HOST/NAME`; null is SQLite below `data_dir`")] = None
    password: Annotated[Secret | None, setting("password of the database user: `{env: NAME}` or `{file: PATH}`")] = None
    agents_days: Annotated[
        int, setting("calm agents that were not seen for so long are forgotten, days", ge=1, le=36_500)
    ] = 365

    def __post_init__(self) -> None:
        if self.url is None:
            return
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise ValueError("`url` is no URL") from None
        if parts.password:
            raise ValueError("`url` may not hold a password; put it in `password`")
        if parts.scheme != "postgresql" or not parts.path.strip("/") or not parts.username:
            raise ValueError("`url` must be postgresql://USER@HOST:PORT/NAME")


class ArchiveSettings(SettingsPart, frozen=True):
    """Files of events and feature vectors: places and retention. Needs the extra `archive`."""

    directory: Annotated[Path | None, setting("where the archive of events is; null keeps none")] = None
    retention_days: Annotated[
        int, setting("dates older than this are removed, of events and of vectors, days", ge=1, le=36_500)
    ] = 365
    interval_s: Annotated[
        float, setting("events are in the archive after at most about this long, s; shorter makes more files", gt=0)
    ] = 300.0
    merge_after_h: Annotated[
        float, setting("small files of a date are merged so long after its end, hours", ge=0, le=876_000)
    ] = 6.0
    vectors: Annotated[
        Path | None,
        setting(
            "where feature vectors and scores of events are kept, a folder beside that of the events; null keeps none"
        ),
    ] = None
    spool_mb: Annotated[
        int, setting("room for vectors that wait to become files; what comes beyond is dropped and counted, MiB", ge=16)
    ] = 1024


Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class PrivacySettings(SettingsPart, frozen=True):
    """Logging of persons' identifiers."""

    pseudonymise_principals: Annotated[
        bool, setting("log keyed hashes in place of principals' identifiers, from the door on")
    ] = False
    key_file: Annotated[
        Path | None,
        setting("key of pseudonyms, the same for all replicas; null is `privacy-key` in `data_dir`, made on first use"),
    ] = None
    read_unlisted: Annotated[
        bool,
        setting(
            "read the events topic also where no database tells who was erased (training, back-tests, notebooks away "
            "from the service): they are seen, then"
        ),
    ] = False


class RetentionSettings(SettingsPart, frozen=True):
    """Retention of rows and log segments, days; null is `retention_days`. Archives: `archive.retention_days`."""

    decisions: Annotated[Days | None, setting("decisions, except an agent's current one")] = None
    deliveries: Annotated[Days | None, setting("alerts and orders without a pending delivery")] = None
    dead_letters: Annotated[Days | None, setting("dead letters that were replayed")] = None
    waiting_dead_letters: Annotated[
        Days | None, setting("dead letters that nobody replayed; null keeps them, bounded by their number")
    ] = None
    interventions: Annotated[Days | None, setting("pins and approvals that ended")] = None
    actuations: Annotated[Days | None, setting("what was done at authorization servers and is undone")] = None
    edges: Annotated[Days | None, setting("who had to do with whom, since it was last seen")] = None
    feedback: Annotated[Days | None, setting("previews of feedback, and what partitions held of rules that ended")] = (
        None
    )
    labels: Annotated[
        Days | None,
        setting(
            "what people said of decisions, once it is over; null is as long as training may read the events: "
            "`retention_days`, or `archive.retention_days` where there is an archive and that is longer"
        ),
    ] = None
    log: Annotated[int, setting("segments of the event log that everybody has come past", ge=1, le=36_500)] = 7
