"""A start with checkpoints of before: settings that do not reach them are refused by the service, not its workers."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.stored_rows import NOW, agent, commit, name
from trustwatch.api.composition import open_checked_checkpoints, open_checkpoint_files, open_service_store
from trustwatch.api.service.backends import DistributedBackend, ServiceRoles, open_backend
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.storage_settings import StoreSettings
from trustwatch.ingest.errors import ConfigError, CorruptCheckpoint, Unavailable
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.ingest.objects.store_trial import StoreRefused
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.commits import Checkpoint, Commit, Position


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an embedded service that was killed: three records, one agent in a checkpoint."""
    made = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model", store=StoreSettings(checkpoints="data"))
    with EventLog(made.data_dir / "log") as log:
        log.append([Record(RecordKind.EVENT, number, NOW, b"{}") for number in (1, 2, 3)])
        log.sync()
    files = open_checkpoint_files(made)
    assert files is not None
    with closing(open_service_store(made)) as store:
        commit(store, agents=[agent(name("bot"), 1)])
        at = store.partitions.position(0)
        written = files.write(Position(0, at.epoch, 2), [agent(name("bot"), 2)])
        store.commit(Commit(at, written.position, [], [], [], [], checkpoint=written))
    return made


def placed(settings: Settings, place: object) -> Settings:
    return msgspec.structs.replace(settings, store=StoreSettings(checkpoints=str(place)))


def named(settings: Settings) -> Checkpoint:
    with closing(open_service_store(settings)) as store:
        (checkpoint,) = store.checkpoints.list_all()
    return checkpoint


def start(settings: Settings) -> None:
    """A service on one machine, up to where its worker would be started."""

    async def load() -> None:
        async with open_backend(settings, None, ServiceRoles()) as backend:
            backend.load_view(RiskView())

    asyncio.run(load())


def start_group(settings: Settings, roles: ServiceRoles = ServiceRoles()) -> None:  # noqa: B008
    """A process of a service on brokers; its log is not asked."""
    log: Any = None
    with closing(open_service_store(settings)) as store:
        DistributedBackend(settings, None, log, store, roles).load_view(RiskView())


@pytest.mark.parametrize("starts", [start, start_group])
def test_settings_have_to_name_the_place(settings: Settings, tmp_path: Path, starts: Any) -> None:
    """With the one of before it starts; other ones are refused with what to do."""
    starts(settings)
    with pytest.raises(ConfigError, match=r"1 agents of partition 0 are in checkpoints.*name no place of them"):
        starts(placed(settings, "none"))
    told = f"{tmp_path}/empty does not hold {named(settings).name}; 1 of 1 files are missing"
    with pytest.raises(ConfigError, match=told):
        starts(placed(settings, tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file can not hold objects"):
        starts(placed(settings, tmp_path / "file"))


def test_a_changed_checkpoint_is_told_at_the_start(settings: Settings) -> None:
    """By a service on one machine, which reads it: as a log that has lost records."""
    (settings.data_dir / "checkpoints" / named(settings).name).write_bytes(b"something else")
    with pytest.raises(CorruptCheckpoint, match="is not what was written"):
        start(settings)


def test_a_replica_needs_no_checkpoints(settings: Settings) -> None:
    """The place of the workers may be out of its reach."""
    start_group(placed(settings, "none"), ServiceRoles(workers=False))


def test_a_place_that_does_not_answer_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the workers, while answers are given."""
    monkeypatch.setattr(FolderObjects, "check", lambda _: None)
    monkeypatch.setattr(FolderObjects, "list_names", away)
    start(settings)
    start_group(settings)


def test_a_worker_starts_while_the_place_does_not_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """And sees to whose it is before the first use; a place that refuses, or is another one's, stops it at once."""
    checkpoint = named(settings)
    with closing(open_service_store(settings)) as store:
        assert open_checked_checkpoints(placed(settings, "none"), store) is None
        with monkeypatch.context() as patch:
            patch.setattr(FolderObjects, "check", away)
            patch.setattr(FolderObjects, "get", away)
            files = open_checked_checkpoints(settings, store)
            assert files is not None
            with pytest.raises(Unavailable):
                files.read(checkpoint)
        assert len(files.read(checkpoint)) == checkpoint.agents
        (settings.data_dir / "checkpoints" / "deployment").write_text("another one")
        with pytest.raises(ConfigError, match="the place is another database's"):
            open_checked_checkpoints(settings, store)
        with monkeypatch.context() as patch:
            patch.setattr(FolderObjects, "put", refuse)
            with pytest.raises(ConfigError, match="no rights"):
                open_checked_checkpoints(settings, store)


def away(*_: object) -> None:
    raise Unavailable("no answer within 10 s")


def refuse(*_: object) -> None:
    raise StoreRefused("no rights")


def test_checkpoints_that_another_worker_ends_meanwhile_are_not_missed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files go while the next process of the group starts."""
    checkpoint, listed = named(settings), FolderObjects.list_names

    def list_late(objects: FolderObjects, prefix: str) -> list[str]:
        with closing(open_service_store(settings)) as store:
            at = checkpoint.position
            store.commit(Commit(at, at, [], [], [], [], ends_checkpoints=True))
        objects.delete([checkpoint.name])
        return listed(objects, prefix)

    monkeypatch.setattr(FolderObjects, "check", lambda _: None)
    monkeypatch.setattr(FolderObjects, "list_names", list_late)
    start_group(settings)
