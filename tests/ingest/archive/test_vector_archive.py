"""Feature vectors: what the pipeline computed comes out of the files as it went in, and a crash costs what docs say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pandas
import polars
import pyarrow.compute as pc
import pytest

from trustwatch.ingest.archive.archive_files import rewrite_lock
from trustwatch.ingest.archive.archive_reader import archive_dataset
from trustwatch.ingest.archive.event_archive import VectorArchive
from trustwatch.ingest.archive.vector_spool import (
    CLOSED_SUFFIX,
    VectorFrame,
    VectorSpoolWriter,
    closed_spool_files,
    encode_frame,
    read_frames,
    waiting_spool_bytes,
)
from trustwatch.ingest.errors import ConfigError

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
LEVELS = ("unknown", "low", "medium", "high", "critical")
FEATURES = ("pace", "rarity", "depth")


def payload(number: int) -> bytes:
    """An event; a day has 200 of them."""
    at = datetime.fromtimestamp(START_MS / 1000 + number * 432, UTC).isoformat()
    made = {
        "id": f"e-{number}",
        "time": at,
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": f"agent-{number % 7}", "type": "Reader"},
        "tenant": ("acme", "globex/eu")[number % 2],
    }
    return msgspec.json.encode(made)


def frame(
    first: int, end: int, partition: int = 0, features: Sequence[str] = FEATURES, model: str = "m1"
) -> VectorFrame:
    """Events of the offsets [first, end); every number tells its own."""
    numbers = np.arange(first, end)
    vectors = numbers[:, None] + np.arange(len(features)) / 16
    return VectorFrame(
        partition,
        model,
        features,
        numbers,
        vectors.astype(np.float32),
        numbers / 1000.0,
        1e-12 * (numbers + 1),
        numbers / 2000.0,
        (numbers % 5).astype(np.int8),
        [payload(number) for number in numbers.tolist()],
    )


class Clock:
    """Seconds that go on by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def spool(tmp_path: Path) -> Callable[..., VectorSpoolWriter]:
    """Opens the spool of the test."""
    return lambda most=1 << 20, **options: VectorSpoolWriter(
        tmp_path / "spool", most, options.pop("clock", Clock()), **options
    )


def archive_of(tmp_path: Path, **options: Any) -> VectorArchive:
    archive = VectorArchive(tmp_path / "vectors", tmp_path / "spool", LEVELS, **options)
    archive.start()
    return archive


def drained(archive: VectorArchive) -> VectorArchive:
    while archive.archive_next_file():
        pass
    return archive


def test_what_finds_no_room_is_dropped_and_counted(spool: Callable[..., VectorSpoolWriter], tmp_path: Path) -> None:
    """Room that is made is used again after the next file begins."""
    one = encode_frame(frame(0, 20))
    writer = spool(most=3 * len(one))
    for _ in range(5):
        writer.append([one], 20)
        writer.roll_if_due()
    assert writer.dropped_events == 40
    assert waiting_spool_bytes(writer.directory) <= 3 * len(one)
    writer.roll()
    drained(archive_of(tmp_path))
    writer.append([one], 20)
    assert writer.dropped_events == 40
    writer.close()


def test_a_full_disk_costs_its_frames_and_no_others(
    spool: Callable[..., VectorSpoolWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a frame would hide those behind it."""
    writer = spool()
    writer.append([encode_frame(frame(0, 5))], 5)
    with monkeypatch.context() as patched:
        import os

        original = os.write

        def full(file: int, data: Any) -> int:
            if len(data) < 100:
                raise OSError(28, "No space left on device")
            return original(file, data[: len(data) // 2])

        patched.setattr(os, "write", full)
        writer.append([encode_frame(frame(5, 9))], 4)
    writer.append([encode_frame(frame(9, 12))], 3)
    writer.close()
    assert writer.dropped_events == 4
    assert [one.offsets.tolist() for one in read_frames(*closed_spool_files(writer.directory))] == [
        [0, 1, 2, 3, 4],
        [9, 10, 11],
    ]


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_what_a_crash_leaves_is_read_up_to_the_damage(spool: Callable[..., VectorSpoolWriter], damage: str) -> None:
    """A kill cuts the last frame off; a power loss may leave zeros in it."""
    writer = spool()
    writer.append([encode_frame(frame(0, 5)), encode_frame(frame(5, 9))], 9)
    left = next(iter(writer.directory.iterdir()))
    content = left.read_bytes()
    left.write_bytes(content[:-1] if damage == "cut" else content[:-300] + bytes(300))
    again = spool()  # the next writer hands on what it finds
    (path,) = closed_spool_files(again.directory)
    assert path.suffix == CLOSED_SUFFIX
    assert [one.offsets.tolist() for one in read_frames(path)] == [[0, 1, 2, 3, 4]]
    writer.close()
    again.close()


def test_three_tools_read_the_files(spool: Callable[..., VectorSpoolWriter], tmp_path: Path) -> None:
    """pandas, DuckDB and Polars see every row with its numbers, and date and tenant as partitions."""
    writer = spool()
    writer.append([encode_frame(frame(0, 150)), encode_frame(frame(150, 500))], 500)
    writer.close()
    assert drained(archive_of(tmp_path)).rows_written == 500
    assert not closed_spool_files(writer.directory)
    folder = tmp_path / "vectors"
    frame_ = pandas.read_parquet(folder).sort_values("offset").reset_index(drop=True)
    numbers = np.arange(500)
    assert frame_["id"].tolist() == [f"e-{n}" for n in range(500)]
    assert frame_["rarity"].dtype == np.float32 and np.array_equal(frame_["rarity"], (numbers + 1 / 16).astype("f4"))
    assert np.array_equal(frame_["p_value"], 1e-12 * (numbers + 1))
    assert frame_["risk_level"].tolist() == [LEVELS[n % 5] for n in range(500)]
    assert set(frame_["model_version"]) == {"m1"} and set(frame_["date"].astype(str)) == {
        "2025-12-01",
        "2025-12-02",
        "2025-12-03",
    }
    counted = duckdb.sql(
        f"select tenant, count(*), sum(depth) from read_parquet('{folder}/*/*/*.parquet', hive_partitioning=true) "
        "where date = '2025-12-02' group by all order by 1"
    ).fetchall()
    assert [(tenant, rows) for tenant, rows, _ in counted] == [("acme", 100), ("globex/eu", 100)]
    scanned = polars.scan_parquet(f"{folder}/**/*.parquet", hive_partitioning=True)
    assert scanned.filter(polars.col("agent_id") == "agent-3").collect().height == len(range(3, 500, 7))


def test_a_crash_between_file_and_spool_doubles_nothing(
    spool: Callable[..., VectorSpoolWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind any of the renames: the same names are written again."""
    writer = spool()
    writer.append([encode_frame(frame(0, 300))], 300)
    writer.close()
    for step in range(20):
        calls = iter(range(100))

        def failing(path: Path, to: Path, at: int = step, calls: Any = calls) -> Path:
            if next(calls) == at:
                raise KeyboardInterrupt
            path.rename(to)
            return to

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", failing)
            try:
                drained(archive_of(tmp_path))
                break
            except KeyboardInterrupt:
                assert closed_spool_files(writer.directory)
    assert step == 4  # two dates, two tenants
    assert sorted(archive_dataset(tmp_path / "vectors", "vectors").to_table()["offset"].to_pylist()) == list(range(300))


def test_rows_are_found_by_time_tenant_and_agent(spool: Callable[..., VectorSpoolWriter], tmp_path: Path) -> None:
    writer = spool()
    writer.append([encode_frame(frame(0, 300))], 300)
    writer.roll()
    writer.append([encode_frame(frame(300, 400, features=(*FEATURES, "new"), model="m2"))], 100)
    writer.close()
    drained(archive_of(tmp_path))
    folder = tmp_path / "vectors"
    since, until = (datetime.fromtimestamp(START_MS / 1000 + n * 432, UTC) for n in (100, 250))
    mine = (pc.field("time") >= since) & (pc.field("time") < until) & pc.field("agent_id").isin(["agent-1", "agent-2"])
    found = archive_dataset(folder, "vectors", since, until, "globex/eu").to_table(["offset", "pace"], mine)
    expected = [n for n in range(100, 250) if n % 2 == 1 and n % 7 in (1, 2)]
    assert sorted(found["offset"].to_pylist()) == expected
    whole = archive_dataset(folder, "vectors").to_table()
    assert whole.num_rows == 400 and whole["new"].null_count == 300
    assert archive_dataset(folder, "vectors", tenant="nobody").count_rows() == 0
    with pytest.raises(ConfigError, match="no such folder"):
        archive_dataset(tmp_path / "nowhere", "vectors")


def test_a_record_that_nobody_can_read_holds_up_no_other(
    spool: Callable[..., VectorSpoolWriter], tmp_path: Path
) -> None:
    """It is left out, with the others of its frame kept."""
    writer = spool()
    odd = frame(0, 3)
    payloads = [odd.payloads[0], b'{"time": "soon"}', odd.payloads[2]]
    writer.append([encode_frame(odd._replace(payloads=payloads))], 3)
    writer.close()
    assert drained(archive_of(tmp_path)).rows_written == 2
    assert sorted(archive_dataset(tmp_path / "vectors", "vectors").to_table()["pace"].to_pylist()) == [0.0, 2.0]


def test_what_a_crash_left_half_written_goes_at_the_start(tmp_path: Path) -> None:
    """Unless others write the folder, too, or somebody rewrites files of it at this moment."""
    left = tmp_path / "vectors" / "date=2025-12-01" / "tenant=acme" / "vectors-0-1.parquet.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    archive_of(tmp_path, named=True)
    with rewrite_lock(tmp_path / "vectors"):
        archive_of(tmp_path)
    assert left.exists()
    archive_of(tmp_path)
    assert not left.exists()
