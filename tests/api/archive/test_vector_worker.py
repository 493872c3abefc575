"""Vectors of a partition that goes from worker to worker: every event is in the archive once, whoever had it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trustwatch.api import clock
from trustwatch.api.archive import worker
from trustwatch.api.archive.worker import ArchiveMaintenance
from trustwatch.api.composition import open_spool, spool_directory
from trustwatch.api.service.pipeline_worker import start_vector_collector
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.archive.archive_files import data_files
from trustwatch.ingest.archive.archive_reader import archive_dataset
from trustwatch.ingest.archive.event_archive import VectorArchive
from trustwatch.ingest.archive.file_merging import merge_small_files
from trustwatch.ingest.archive.vector_spool import VectorFrame, encode_frame

PARTITION = 3


def frame(first: int, end: int) -> VectorFrame:
    """Events of the offsets [first, end) of one agent and day."""
    numbers = np.arange(first, end)
    told = [
        msgspec.json.encode({"id": f"e-{n}", "time": datetime(2025, 12, 1, tzinfo=UTC), "agent": {"id": "a"}})
        for n in numbers
    ]
    some = numbers / 1000.0
    vectors = numbers[:, None].astype(np.float32)
    return VectorFrame(
        PARTITION, "m", ("pace",), numbers, vectors, some, some, some, (numbers % 5).astype(np.int8), told
    )


class Worker:
    """One worker with a disk of its own, and the archive that all of them write to."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self.settings = Settings(data_dir=folder, archive=ArchiveSettings(vectors=archive))
        self.spool = open_spool(self.settings)
        levels = ("unknown", "low", "medium", "high", "critical")
        self.archive = VectorArchive(archive, spool_directory(self.settings), levels, named=True)

    def own(self, first: int, end: int) -> None:
        """Take the partition over, and commit what it brings until it goes to another."""
        assert self.spool is not None
        assert start_vector_collector(self.spool, PARTITION) is not None
        for at in range(first, end, 10):
            self.spool.append([encode_frame(frame(at, min(at + 10, end)))], 10)

    def archived(self, *, over: bool = False) -> None:
        """Make files of what was handed on; *over*: of everything, the worker ends."""
        assert self.spool is not None
        if over:
            self.spool.close()
        while self.archive.archive_next_file():
            pass


def offsets(archive: Path) -> Sequence[int]:
    return sorted(archive_dataset(archive, "vectors").to_table()["offset"].to_pylist())


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_partition_that_comes_back_hides_nothing_of_who_had_it_meanwhile(tmp_path: Path, order: str) -> None:
    """All of it within the minute that a spool file is open; merging removes nothing either."""
    archive = tmp_path / "vectors"
    workers = {name: Worker(tmp_path / name, archive) for name in "ab"}
    workers["a"].own(0, 40)
    workers["b"].own(40, 90)
    workers["a"].own(90, 120)
    workers["b"].own(120, 130)
    for name in order:
        workers[name].archived(over=True)

    assert offsets(archive) == list(range(130))
    assert len(data_files(archive, "vectors")) == 4
    for _ in merge_small_files(archive, "vectors", date(2026, 1, 1)):
        pass
    assert offsets(archive) == list(range(130))


def test_what_another_worker_is_about_to_write_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of one worker become one only once the file between them is there, however old their date."""
    archive = tmp_path / "vectors"
    first, second = Worker(tmp_path / "a", archive), Worker(tmp_path / "b", archive)
    first.own(0, 40)
    second.own(40, 90)
    first.own(90, 120)
    first.archived(over=True)
    assert merged(archive) == 0
    second.archived(over=True)
    later = clock.now_ms() + worker.VECTOR_MERGE_DELAY_MS + 1_000
    monkeypatch.setattr(clock, "now_ms", lambda: later)

    assert merged(archive) == 3
    assert offsets(archive) == list(range(120))


def merged(archive: Path) -> int:
    upkeep = ArchiveMaintenance(archive, "vectors", ArchiveSettings(vectors=archive, retention_days=36_500))
    upkeep._due_at = float("-inf")
    while upkeep.step():
        pass
    return upkeep.merged


def test_without_an_archive_nothing_is_collected(tmp_path: Path) -> None:
    assert open_spool(Settings(data_dir=tmp_path)) is None
    assert start_vector_collector(None, PARTITION) is None
