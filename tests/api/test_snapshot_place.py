"""The place of snapshots: beside checkpoints or a folder of its own; without them, what there was goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from trustwatch.api.composition import open_service_store, open_snapshots
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.storage_settings import StoreSettings
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.records.snapshots import Snapshot
from trustwatch.scoring.store.sql_store import SqlStore

NAME = "snapshots/partition-000000/a.rows"


def settings_of(folder: Path, **store: object) -> Settings:
    return Settings(data_dir=folder / "data", store=StoreSettings(**store))  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_service_store(settings_of(tmp_path))) as opened:
        yield opened


def add(store: SqlStore, at: Position) -> None:
    assert store.snapshots.add(at, Snapshot(NAME, 0, bytes(32), store.snapshots.generation(), 1, 1))


@pytest.mark.parametrize(
    ("checkpoints", "folder"), [(None, "snapshots"), ("none", "snapshots"), ("data", "checkpoints")]
)
def test_they_lie_beside_checkpoints_or_by_themselves(
    tmp_path: Path, store: SqlStore, checkpoints: str | None, folder: str
) -> None:
    """In `data_dir`, for its owner alone, and no other database may write there."""
    files = open_snapshots(settings_of(tmp_path, checkpoints=checkpoints), store)
    assert files is not None and files.list_names() == set()
    place = tmp_path / "data" / folder
    assert place.stat().st_mode & 0o777 == 0o700
    with closing(open_service_store(settings_of(tmp_path / "other"))) as other:
        foreign = open_snapshots(settings_of(tmp_path, checkpoints=str(place)), other)
        assert foreign is not None
        with pytest.raises(ConfigError, match="another database"):
            foreign.list_names()


def test_without_snapshots_those_of_before_go(tmp_path: Path, store: SqlStore) -> None:
    """Nobody would remove copies of agents that retention purges: secrets go, and the files that can be reached."""
    off = settings_of(tmp_path, snapshots=False)
    assert open_snapshots(off, store) is None and not (tmp_path / "data" / "snapshots").exists()
    at = store.partitions.claim(0)
    files = open_snapshots(settings_of(tmp_path), store)
    assert files is not None
    path = tmp_path / "data" / "snapshots" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sealed")
    add(store, at)
    assert open_snapshots(off, store) is None
    assert store.snapshots.count() == 0 and files.list_names() == set()


def test_without_snapshots_a_place_of_another_database_is_left_alone(
    tmp_path: Path, store: SqlStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where `store.url` names another database than before: the worker starts, and the files stay."""
    files = open_snapshots(settings_of(tmp_path), store)
    assert files is not None and files.list_names() == set()
    path = tmp_path / "data" / "snapshots" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sealed")
    with closing(open_service_store(settings_of(tmp_path / "other"))) as other:
        assert open_snapshots(settings_of(tmp_path, snapshots=False), other) is None
    assert path.exists() and "remove that folder" in capsys.readouterr().out


def test_a_folder_that_can_not_be_made_is_told(
    tmp_path: Path, store: SqlStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker goes on without copies."""
    (tmp_path / "data" / "snapshots").write_text("a file")
    assert open_snapshots(settings_of(tmp_path), store) is None
    assert "no copies of rows are kept" in capsys.readouterr().out
