"""The start of learning mode: a model that knows nothing is put into `model_dir`, where that is what is meant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from trustwatch.ingest.errors import ModelError, Unavailable
from trustwatch.ingest.log.log_database import lock_log
from trustwatch.models.learning_model import LEARNING_VERSION, save_learning_model
from trustwatch.models.model_directory import copy_model, is_model, read_manifest
from trustwatch.models.model_registry import ModelRegistry
from trustwatch.scoring.records.models import ModelSwitch
from trustwatch.scoring.store.database import LeaderLock
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..composition import open_model_registry, open_service_store
from ..settings.root import Settings

LEARNING_DIGEST_KEY: Final = "learning.digest"
"""Key of the store's meta table: digest of the model that all machines began with. Written by the first."""
LEARNING_MADE_KEY: Final = "learning.made_ms"
"""Likewise: when that model was made."""
BEGIN_AGAIN_MS = 600_000
"""Age from which that model, where it is lost and judged nobody, is made anew."""
JOB: Final = "learning"
LOCK_TRIES, LOCK_EVERY_S = 1_200, 0.5
"""Another process has the lock for as long as it takes to make a small model. On a new installation it compiles for
that: minutes on a busy machine."""

_log = structlog.get_logger(__name__)


def begin_learning(settings: Settings, ending: Callable[[], bool] = lambda: False) -> None:
    """Put the model that knows nothing into `model_dir` where there is none, and nothing was judged by another yet.

    With brokers all machines begin with the same one, which the first puts into the versions that they share: each with
    a salt of its own would know agents under other keys, and a version that one trains has to reach the others.

    Raises:
        ModelError: a model was there before, whose states of agents a new one could not read; or `model_dir` looks like
            a typing error; or machines do not share versions; or none can be written.
        LogInUse: another service runs on `data_dir`.
        Unavailable: the database does not answer.
    """
    folder = settings.model_dir
    if is_model(folder):
        if settings.distributed:
            _require_shared_versions(settings)
        return
    if folder.exists() and not _is_empty(folder):
        return  # loading it says what is wrong
    try:
        _require_meant(folder, settings.data_dir)
        if settings.distributed:
            _begin_with_others(settings, ending)
        else:
            _begin_alone(settings)
    except OSError as error:
        raise ModelError(
            f"{folder} holds no model, and none can be put there ({error.strerror}): train one, or name a "
            "`model_dir` in a folder that the service may write to"
        ) from None


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _require_meant(folder: Path, data_dir: Path) -> None:
    """Refuse where a typing error is likelier: the folder above is not there, or a model lies beside.

    An empty folder is made for a model: whoever makes it means it.
    """
    parent = folder.parent
    if folder.is_dir() or (not parent.exists() and data_dir.is_relative_to(parent)):
        return
    if not parent.is_dir():
        found = f"{parent} is no folder"
    elif beside := sorted(path.name for path in parent.iterdir() if not path.name.startswith(".") and is_model(path)):
        found = f"there is one in {parent / beside[0]}"
    else:
        return
    raise ModelError(
        f"{folder} holds no model, and {found}: is `model_dir` right? If the service is to begin without a model, and "
        f"to learn, make that folder: mkdir -p {folder}"
    )


def _begin_alone(settings: Settings) -> None:
    log = settings.data_dir / "log"
    log.mkdir(parents=True, exist_ok=True)
    with lock_log(log):
        if is_model(settings.model_dir):
            return  # of a service that began at the same time
        with closing(open_service_store(settings)) as store:
            _refuse_lost_model(settings, store.models.list_switches(1))
        save_learning_model(settings.model_dir, clock.now_ms())
    _tell(settings)


def _begin_with_others(settings: Settings, ending: Callable[[], bool]) -> None:
    registry = open_model_registry(settings)
    with closing(open_service_store(settings)) as store:
        lock = _take_lock(store, ending)
        try:
            if is_model(settings.model_dir):
                return  # another machine shares the folder, and was quicker
            digest = store.metadata.get(LEARNING_DIGEST_KEY) or ""
            if not digest or _is_lost_unused(registry, store):
                digest = _make_shared_model(settings, store, registry)
            _refuse_lost_model(settings, [one for one in store.models.list_switches(1) if one.installed != digest])
            copy_model(_shared_model(registry, digest), settings.model_dir)
        finally:
            lock.release()
    _tell(settings)


def _is_lost_unused(registry: ModelRegistry, store: SqlStore) -> bool:
    """True if the model that all began with is gone here, and neither judged anybody nor has a successor.

    A volume that was not mounted takes it along. Nothing is lost with it, so the deployment begins again, but only
    after a while: a machine that starts beside the first and does not share its versions finds none either.
    """
    made_ms = int(store.metadata.get(LEARNING_MADE_KEY) or 0)
    if is_model(registry.directory_of(LEARNING_VERSION)) or clock.now_ms() - made_ms < BEGIN_AGAIN_MS:
        return False
    return not store.models.list_switches(1) and not _other_versions(store)


def _other_versions(store: SqlStore) -> list[str]:
    """Versions that are known but the one that learns; two at the most."""
    return [model.version for model in store.models.page(limit=2).items if model.version != LEARNING_VERSION]


def _take_lock(store: SqlStore, ending: Callable[[], bool]) -> LeaderLock:
    for tried in range(LOCK_TRIES):
        if (lock := store.database.acquire_leader_lock(JOB)) is not None:
            return lock
        if not tried:
            _log.info("another process makes the first model: waiting for it")
        if ending():
            break
        clock.sleep(LOCK_EVERY_S)
    raise Unavailable("another machine puts the first model into `model_dir`, and does not end: start again later")


def _make_shared_model(settings: Settings, store: SqlStore, registry: ModelRegistry) -> str:
    """Make the model that all machines begin with; returns its digest."""
    _refuse_lost_model(settings, store.models.list_switches(1))
    if others := _other_versions(store):
        raise ModelError(
            f"{settings.model_dir} holds no model, and another machine has {others[0]!r}: all machines need "
            "the same one, so copy its `model_dir` to this one"
        )
    directory = registry.directory_of(LEARNING_VERSION)
    save_learning_model(directory, clock.now_ms())
    digest = read_manifest(directory)[1]
    store.metadata.put(LEARNING_MADE_KEY, str(clock.now_ms()))
    store.metadata.put(LEARNING_DIGEST_KEY, digest)
    return digest


def _shared_model(registry: ModelRegistry, digest: str) -> Path:
    """Directory of the model that all machines began with. Raises ModelError where this one does not share it."""
    directory = registry.directory_of(LEARNING_VERSION)
    if not is_model(directory) or read_manifest(directory)[1] != digest:
        raise ModelError(
            f"{directory} is not the model that this deployment began with. It learns: the first model that it trains "
            "reaches a machine by `data_dir`/models alone. Let all machines share that folder; or train a model with "
            "`trustwatch train`, and copy it to `model_dir` of each"
        )
    return directory


def _require_shared_versions(settings: Settings) -> None:
    """A machine whose `model_dir` alone is shared would not find the first version that is trained."""
    manifest, digest = read_manifest(settings.model_dir)
    if manifest.learns:
        _shared_model(open_model_registry(settings), digest)


def _refuse_lost_model(settings: Settings, before: list[ModelSwitch]) -> None:
    if before:
        raise ModelError(
            f"{settings.model_dir} holds no model, but agents were judged by {before[0].version!r} before: put it back "
            f"(it may be below {settings.data_dir / 'models'}), or restore a back-up"
        )


def _tell(settings: Settings) -> None:
    _log.warning(
        "no model in model_dir: the service learns, and knows no agent until then", model_dir=str(settings.model_dir)
    )
