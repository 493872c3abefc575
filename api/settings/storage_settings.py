"""Settings of store, identities, archive and privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from trustwatch.ingest.settings import Secret, SettingsPart, setting


class StoreSettings(SettingsPart, frozen=True):
    """The database. By default a file of its own below `data_dir`."""

    url: Annotated[str | None, setting("`postgresql://USER@HOST/NAME`; null is SQLite in `data_dir`")] = None
    password: Annotated[Secret | None, setting("password of the database user")] = None
    agents_days: Annotated[
        int, setting("quiet agents are forgotten after so long without an event, days", ge=1, le=36_500)
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


class IdentitySettings(SettingsPart, frozen=True):
    """The key under which agents are known."""

    key_file: Annotated[
        Path | None,
        setting("identity key, shared by all processes on one database; null is `identity-key` in `data_dir`"),
    ] = None


class ArchiveSettings(SettingsPart, frozen=True):
    """Files of events and feature vectors: places and retention. Needs the extra `archive`."""

    directory: Annotated[Path | None, setting("where the archive of events is; null keeps none")] = None
    retention_days: Annotated[
        int, setting("dates older than this are removed, of events and of vectors, days", ge=1, le=36_500)
    ] = 365
    interval_s: Annotated[
        float, setting("events are in the archive after at most about this long, s; shorter makes more files", gt=0)
    ] = 300.0
    vectors: Annotated[
        Path | None,
        setting("folder of feature vectors and scores; null keeps none"),
    ] = None


class PrivacySettings(SettingsPart, frozen=True):
    """Logging of persons' identifiers, and keys of hashes."""

    pseudonymise_principals: Annotated[bool, setting("log keyed hashes in place of principals' identifiers")] = False
    key_file: Annotated[
        Path | None,
        setting("key of pseudonyms, shared by all replicas; null is `privacy-key` in `data_dir`"),
    ] = None
    origin_key_generation: Annotated[int, setting("raise it to change all keys of arguments at once", ge=0)] = 0
    read_unlisted: Annotated[
        bool,
        setting("read the events topic also without a database that lists erased names"),
    ] = False
