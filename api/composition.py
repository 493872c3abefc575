"""Composition: values for the layers below, made of the settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.archive.vector_spool import VectorSpoolWriter
from trustwatch.ingest.duplicate_window import PARTITION_WINDOW, DuplicateWindow
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import (
    IDENTITY_KEY_FILE,
    PRIVACY_KEY_FILE,
    IdentityHasher,
    PrivacyKey,
    open_identity_key,
    open_privacy_key,
)
from trustwatch.ingest.log.log_reader import LogGroupSource
from trustwatch.ingest.record_erasure import ErasedFilter
from trustwatch.ingest.settings import Secret, reveal
from trustwatch.ingest.source import GroupSource
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.seeded_agents import ErasedAgents
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook, PolicyTable, read_policy_book
from trustwatch.scoring.store.retention_settings import RetentionCutoffs, row_cutoffs
from trustwatch.scoring.store.sql_store import SqlStore, open_reading_store, open_store, sqlite_url

from . import clock
from .brokers import open_group_source
from .settings.access_settings import ANY_TENANT
from .settings.root import Settings

_log = structlog.get_logger(__name__)


def engine_settings(settings: Settings, *, learn: bool = True, capacity: int | None = None) -> EngineSettings:
    """Return the settings of the scoring engine; *capacity* agents in memory, None = that of the settings."""
    return EngineSettings(settings.risk, settings.pipeline.resident_agents if capacity is None else capacity, learn)


def policy_book(settings: Settings) -> PolicyBook:
    """Return the token policies of all agents. Raises ConfigError if the policy file is invalid."""
    if settings.token_policy_file is not None:
        return read_policy_book(settings.token_policy_file)
    modes = {name: tenant.mode for name, tenant in settings.tenants.items() if name != ANY_TENANT}
    return PolicyBook(PolicyTable(version="1"), (), modes, settings.tenant(ANY_TENANT).mode)


def live_policy(settings: Settings) -> LivePolicy:
    """Return the active policy book, and how it is reloaded. Raises ConfigError."""
    return LivePolicy(policy_book(settings), settings.token_policy_file, lambda: policy_book(settings))


def console_url(settings: Settings) -> str:
    """Return the URL of the console, for links in alerts; "" if there is no console."""
    return f"{settings.listen.url()}/console" if settings.console.enabled else ""


class StoreAddress(NamedTuple):
    """Address of the database of a service."""

    url: str
    password: Secret | None
    file: Path | None  # None: on a server
    data_dir: Path

    @property
    def may_exist(self) -> bool:
        """False for a missing file; a server is not queried."""
        return self.file is None or self.file.is_file()

    def open(self) -> SqlStore:
        """Open the store and migrate it. Raises as `trustwatch.scoring.store.sql_store.open_store`.

        Files of checkpoints and snapshots of builds after 0.2 go then: an erasure does not look at them any more.
        """
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        checkpoints = self.data_dir / CHECKPOINTS_FOLDER
        store = open_store(self.url, password=reveal(self.password) or None, checkpoints=checkpoints)
        for folder in (checkpoints, self.data_dir / "snapshots"):
            shutil.rmtree(folder, ignore_errors=True)
        return store

    def open_reading(self) -> SqlStore:
        """Open the store for reading. Raises as `trustwatch.scoring.store.sql_store.open_reading_store`."""
        return open_reading_store(self.url, password=reveal(self.password) or None)


CHECKPOINTS_FOLDER: Final = "checkpoints"
"""Below `data_dir`; builds after 0.2 kept states of agents there."""
RESTORING_FOLDER: Final = ".restoring"
"""Below `data_dir` while a backup is restored into it, and after a restore that did not finish."""


def require_whole_data(data_dir: Path) -> None:
    """Raise ConfigError if a restore did not finish: a key that is made then would not fit."""
    if (data_dir / RESTORING_FOLDER).exists():
        raise ConfigError(
            f"data_dir: a restore into {data_dir} is not finished, so its contents do not belong together "
            f"(`{RESTORING_FOLDER}`). If no `trustwatch restore` runs, empty the folder and restore again"
        )


def store_address(settings: Settings) -> StoreAddress:
    """Return the database of the settings, by default a separate file. Raises ConfigError if a restore did not
    finish."""
    require_whole_data(settings.data_dir)
    store = settings.store
    if store.url is not None:
        return StoreAddress(store.url, store.password, None, settings.data_dir)
    file = settings.data_dir / "trustwatch.db"
    return StoreAddress(sqlite_url(file), None, file, settings.data_dir)


def open_service_store_reading(settings: Settings) -> SqlStore:
    """Open the store for reading. Raises as `trustwatch.scoring.store.sql_store.open_reading_store`.

    If the identity key is missing, what is found by an agent's key cannot be read: `Database.known_identities` reports
    it.
    """
    store = store_address(settings).open_reading()
    try:
        if store.has_identity_key() and identity_key_path(settings).is_file():
            store.read_with_identities(open_service_identities(settings))
    except BaseException:
        store.close()
        raise
    return store


def open_service_store(settings: Settings) -> SqlStore:
    """Open the store and migrate it, with the identity key of the deployment. Raises ConfigError or Unavailable."""
    store = store_address(settings).open()
    try:
        changed = store.use_identities(open_service_identities(settings, create=not store.has_identity_key()))
    except BaseException:
        store.close()
        raise
    if changed:
        _log.info("agents are known under the identity key of this deployment from now on", changed_rows=changed)
    return store


def identity_key_path(settings: Settings) -> Path:
    return settings.identity.key_file or settings.data_dir / IDENTITY_KEY_FILE


def open_service_identities(settings: Settings, *, create: bool = False) -> IdentityHasher:
    """Open the identities of the deployment. Raises ConfigError."""
    return open_identity_key(identity_key_path(settings), create=create)


def retention_cutoffs(settings: Settings, now_ms: int) -> RetentionCutoffs:
    """Return the times before which rows of the store are deleted. Labels stay as long as training may read their
    events."""
    archive = settings.archive
    events_days = max(settings.retention_days, 0 if archive.directory is None else archive.retention_days)
    return row_cutoffs(
        settings.retention,
        now_ms,
        default_days=settings.retention_days,
        agents_days=settings.store.agents_days,
        events_days=events_days,
    )


def open_model_registry(settings: Settings) -> ModelRegistry:
    return ModelRegistry(settings.data_dir / "models", settings.model_dir)


def load_active_model(settings: Settings, store: SqlStore) -> TrainedModel:
    """Load the active model. Raises ModelError, OSError, Unavailable."""
    models = ActiveModels(open_model_registry(settings), lambda: 0)
    chosen = models.choose(next(iter(store.models.list_switches(1)), None))
    return models.load(chosen.version, chosen.digest)


def open_service_privacy_key(settings: Settings) -> PrivacyKey:
    """Open the key of this installation, made on first use. Raises ConfigError."""
    require_whole_data(settings.data_dir)
    return open_privacy_key(settings.privacy.key_file or settings.data_dir / PRIVACY_KEY_FILE)


def principal_alias(settings: Settings) -> Callable[[str, str], str] | None:
    """Return the aliases logged in place of principals; None = their identifiers are logged. Raises ConfigError."""
    return open_service_privacy_key(settings).pseudonym if settings.privacy.pseudonymise_principals else None


def load_erased_filter(settings: Settings, topic: str) -> ErasedFilter:
    """Load the list of erased agents and principals: from the shared database, or from the file of a service on this
    machine.

    Raises:
        ConfigError: the database is not ours; or there is none, and no setting allows reading without the list.
        Unavailable: it does not answer. Events must not be read meanwhile, since some may have been erased.
    """
    if topic != settings.brokers.topic_names.events:
        return ErasedFilter()
    address = store_address(settings)
    if address.may_exist:
        with closing(address.open_reading()) as store:
            return ErasedFilter(store.erasures.erased_in_topic())
    if settings.privacy.read_unlisted:
        _log.warning("reading without the list of erased names: their records are read, too", topic=topic)
        return ErasedFilter()
    raise ConfigError(
        f"{topic} may hold records of erased agents and principals, whose list is in the database: set store.url or "
        "TRUSTWATCH_STORE_URL to the service's database (rights to read are enough), or privacy.read_unlisted: true "
        "if no agent or principal was ever erased"
    )


# The log of events, on this machine or in a topic, for processes that follow it.


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
    """Return the name under which an archive knows the log: the topic, or "" for the log of this machine."""
    return settings.brokers.topic_names.events if settings.distributed else ""


def make_duplicate_window(settings: Settings) -> DuplicateWindow:
    """Return a window that recognizes repeated events of one partition as the workers do."""
    return DuplicateWindow(PARTITION_WINDOW) if settings.distributed else DuplicateWindow()


def load_erased_from_log(settings: Settings) -> ErasedFilter:
    """Load the filter of erased records that are still in the log. A log on this machine has none: erasures rewrite it.

    Raises as `load_erased_filter`.
    """
    return load_erased_filter(settings, settings.brokers.topic_names.events) if settings.distributed else ErasedFilter()


def new_id() -> str:
    """Return a unique text."""
    return token_hex(16)


def load_forgotten_agents(settings: Settings, store: SqlStore) -> ErasedAgents:
    """Load the agents that must not continue from a model's history. Raises ConfigError, Unavailable."""
    marks = store.erasures.list_marks()
    return ErasedAgents(open_service_privacy_key(settings), marks) if marks else ErasedAgents()


SPOOL_FOLDER = "vectors-spool"

SPOOL_MB = 1_024
"""Room for vectors that wait to become files; what comes beyond is dropped and counted, MiB."""

MAX_ROLL_S = 60.0


def spool_directory(settings: Settings) -> Path:
    """Return the folder between pipeline and archive, on the pipeline's disk."""
    return settings.data_dir / SPOOL_FOLDER


def open_spool(settings: Settings) -> VectorSpoolWriter | None:
    """Open the pipeline's side of the spool; None if no vectors are kept."""
    if settings.archive.vectors is None:
        return None
    return VectorSpoolWriter(
        spool_directory(settings),
        SPOOL_MB << 20,
        clock.monotonic,
        roll_s=min(settings.archive.interval_s, MAX_ROLL_S),
    )
