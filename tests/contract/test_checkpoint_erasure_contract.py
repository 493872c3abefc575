"""Erasure in checkpoints on every store: files of before an order go, whoever left them; those in use never do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trustwatch.api.privacy.embedded_targets import WRITTEN_WITHIN_S, CheckpointErasure, CheckpointsNotErased
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.scoring.records.commits import Checkpoint, Commit, Position
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.sql_store import SqlStore

from ..support.stored_rows import agent, name

ORDERED = {0: 99, 1: 7}
"""Offsets of an order in two partitions."""


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(FolderObjects(tmp_path / "checkpoints"))


def wrote(files: CheckpointFiles, partition: int, epoch: int, offset: int) -> Checkpoint:
    """A file that a worker wrote, whether or not a commit then named it."""
    return files.write(Position(partition, epoch, offset), [agent(name(f"bot-{offset}"), 1)])


def committed(store: SqlStore, files: CheckpointFiles, at: Position, offset: int) -> Checkpoint:
    """A checkpoint that a commit names."""
    made = wrote(files, at.partition, at.epoch, offset)
    store.commit(Commit(at, made.position, [], [], [], [], checkpoint=made))
    return made


def places(tmp_path: Path, files: CheckpointFiles) -> dict[str, CheckpointFiles]:
    return {str(tmp_path / "checkpoints"): files}


def test_what_workers_left_goes_and_what_is_in_use_stays(
    store: SqlStore, files: CheckpointFiles, tmp_path: Path
) -> None:
    """Of a commit that never came, of a worker that died, of one that had lost the partition and was further."""
    for _ in range(3):
        owner = store.partitions.claim(0)
    used = committed(store, files, owner, 150)
    next_one = wrote(files, 0, owner.epoch, 180)  # its commit is under way
    left = [(0, owner.epoch, 40), (0, owner.epoch - 1, 99), (0, owner.epoch - 2, 5_000), (1, 1, 7)]
    for place in left:
        wrote(files, *place)
    erasure = CheckpointErasure(places(tmp_path, files), store)
    before = erasure.remaining(ORDERED)
    erased = erasure.erase(ORDERED)

    assert before == {"checkpoints.files": 4}
    assert erased == {"checkpoints.files": 4}
    assert erasure.remaining(ORDERED) == {}
    assert files.list_files().keys() == {used.name, next_one.name}
    assert erasure.erase(ORDERED) == {"checkpoints.files": 0}


def test_a_file_that_a_partition_goes_on_from_is_never_removed(
    store: SqlStore, files: CheckpointFiles, tmp_path: Path
) -> None:
    """Not even where it is of before the order: the worker has to write rows first."""
    used = committed(store, files, store.partitions.claim(0), 50)
    erasure = CheckpointErasure(places(tmp_path, files), store)
    with pytest.raises(CheckpointsNotErased, match=f"{used.name} is of before the order.*stop it cleanly"):
        erasure.erase(ORDERED)

    assert files.read(used)
    assert erasure.remaining(ORDERED) == {"checkpoints.files": 1}


def test_a_file_without_its_name_is_waited_for(store: SqlStore, files: CheckpointFiles, tmp_path: Path) -> None:
    """A crash in the middle of writing leaves states under no name; a writer at work is not disturbed."""
    wrote(files, 0, 1, 50)
    left = tmp_path / "checkpoints" / "partition-000000" / f".{'a' * 32}.tmp"
    left.write_bytes(b"half of a file")
    erasure = CheckpointErasure(places(tmp_path, files), store)
    with pytest.raises(CheckpointsNotErased, match="a crash left it"):
        erasure.erase(ORDERED)
    young = left.exists()
    written = left.stat().st_mtime - WRITTEN_WITHIN_S - 1
    os.utime(left, (written, written))

    assert young
    assert erasure.remaining(ORDERED) == {"checkpoints.unfinished_files": 1}
    assert erasure.erase(ORDERED) == {"checkpoints.files": 0}
    assert not left.exists()


def test_files_that_can_not_be_removed_are_said(store: SqlStore, files: CheckpointFiles, tmp_path: Path) -> None:
    """A place that refuses, or is gone, is no place without files."""
    wrote(files, 0, 1, 50)
    erasure = CheckpointErasure(places(tmp_path, files), store)
    (tmp_path / "checkpoints").rename(tmp_path / "unmounted")
    told = rf"checkpoints at {tmp_path}/checkpoints can not be removed: .* is its disk mounted"
    for look in (erasure.erase, erasure.remaining):
        with pytest.raises(CheckpointsNotErased, match=told):
            look(ORDERED)
    (tmp_path / "unmounted").rename(tmp_path / "checkpoints")

    assert erasure.erase(ORDERED) == {"checkpoints.files": 1}


def test_what_is_not_reached_and_what_stays_is_named(store: SqlStore, files: CheckpointFiles) -> None:
    """A replica may have no such folder; a bucket keeps versions by rules of its own."""
    replica = CheckpointErasure({}, store, "/shared/checkpoints")
    in_bucket = CheckpointErasure({"s3://bucket/states": files}, store)

    assert replica.erase(ORDERED) == replica.remaining(ORDERED) == {}
    assert replica.not_checked() == ["files of checkpoints at /shared/checkpoints, which workers reach"]
    assert [what for what, _, _ in in_bucket.remains()] == [
        "earlier versions and copies of removed checkpoint files, where s3://bucket/states keeps such"
    ]
    assert CheckpointErasure({"/shared/checkpoints": files}, store).remains() == []
