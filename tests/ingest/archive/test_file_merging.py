"""Small files become large ones: the same rows in the same order, for readers at any moment, whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from trustwatch.ingest.archive.archive_files import (
    data_files,
    drop_days_before,
    superseded_files,
)
from trustwatch.ingest.archive.archive_reader import archive_dataset, raw_lines
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.archive.file_merging import merge_small_files
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import decode_event

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
TODAY = date(2025, 12, 3)
EVENTS = 240


def event(number: int) -> bytes:
    """An event; a day has 100 of them."""
    at = datetime.fromtimestamp(START_MS / 1000 + number * 864, UTC).isoformat()
    made = {
        "id": f"e-{number}",
        "time": at,
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": f"agent-{number % 7}"},
        "tenant": ("acme", "globex")[number % 2],
        "padding": "x" * 100,
    }
    return json.dumps(made).encode()


EACH = [EventToArchive(n, START_MS + n, decode_event(event(n)), event(n)) for n in range(EVENTS)]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """An archive in 24 ranges."""
    archive = EventArchive(tmp_path / "archive")
    archive.start()
    for base in range(0, EVENTS, 10):
        archive.write(base, base + 10, EACH[base : base + 10])
    archive.close()
    yield tmp_path / "archive"


def offsets(directory: Path) -> list[int]:
    return [int(json.loads(line)["id"].removeprefix("e-")) for line in raw_lines(directory)]


def test_past_dates_are_merged_and_today_is_left(directory: Path) -> None:
    """One file per date and tenant, every row as it was, and a second run finds nothing to do."""
    assert len(data_files(directory)) == 48
    merged = list(merge_small_files(directory, "events", TODAY))
    assert merged == [10, 10, 10, 10]
    assert len(data_files(directory)) == 4 + 8
    assert [path.name for path in (directory / "date=2025-12-01" / "tenant=acme").iterdir()] == [
        "events-00000000000000000000-00000000000000000100.parquet"
    ]
    assert offsets(directory) == list(range(EVENTS))
    assert list(merge_small_files(directory, "events", TODAY)) == []


def test_large_files_are_left_and_memory_is_bounded_by_row_groups(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files grow to about the size wanted; those of half that size are no small ones."""
    monkeypatch.setattr("trustwatch.ingest.archive.file_merging.MERGED_GROUP_ROWS", 8)
    monkeypatch.setattr("trustwatch.ingest.archive.file_merging._BATCH_ROWS", 4)
    sizes = [file.path.stat().st_size for file in data_files(directory)]
    assert list(merge_small_files(directory, "events", TODAY, target_bytes=2 * min(sizes))) == []
    assert set(merge_small_files(directory, "events", TODAY, target_bytes=int(5.5 * max(sizes)))) == {5}
    (one, *_) = data_files(directory)
    assert (one.first, one.end) == (0, 50)
    told = pq.read_metadata(one.path)
    *groups, _ = [told.row_group(at).num_rows for at in range(told.num_row_groups)]
    assert groups and all(8 <= rows < 12 for rows in groups)
    assert offsets(directory) == list(range(EVENTS))


def test_a_late_event_does_not_rewrite_a_day_each_time(directory: Path) -> None:
    """Little is merged with much only once there are many of them."""
    list(merge_small_files(directory, "events", TODAY))
    archive = EventArchive(directory)
    archive.start()
    for late in range(15):
        base = EVENTS + late
        archive.write(base, base + 1, [EACH[0]._replace(offset=base)])
        counts = list(merge_small_files(directory, "events", TODAY, target_bytes=10 << 20))
        big = [file for file in data_files(directory) if file.first == 0 and file.tenant_folder == "tenant=acme"]
        assert (big[0].end == 100) == (late < 14), (late, counts)
    archive.close()
    assert len(offsets(directory)) == EVENTS + 15


@pytest.mark.parametrize("step", range(20))
def test_killed_at_any_step_readers_see_every_row_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before each rename and each removal of a merge; then the next merge makes it whole."""
    calls = iter(range(1000))

    class Crash(BaseException):
        pass

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink"):
            original = getattr(Path, name)

            def failing(path: Path, *to: Path, original: Any = original, **more: Any) -> Any:
                if next(calls) == step:
                    raise Crash
                return original(path, *to, **more)

            patched.setattr(Path, name, failing)
        with pytest.raises(Crash):
            list(merge_small_files(directory, "events", TODAY))
    assert offsets(directory) == list(range(EVENTS))
    archive = EventArchive(directory)
    archive.start()
    archive.close()
    assert superseded_files(directory, "events") == []
    assert not list(directory.rglob("*.tmp"))
    list(merge_small_files(directory, "events", TODAY))
    assert offsets(directory) == list(range(EVENTS))
    assert len(data_files(directory)) == 12


def test_reading_goes_on_while_others_want_to_rewrite(directory: Path) -> None:
    """A reader that has begun sees the files that it began with; merging waits for it."""
    list(merge_small_files(directory, "events", date(2025, 12, 2)))
    lines = raw_lines(directory)
    first = next(lines)
    assert list(merge_small_files(directory, "events", TODAY)) == []
    assert len([first, *lines]) == EVENTS
    assert list(merge_small_files(directory, "events", TODAY)) == [10, 10]


def test_events_are_found_by_time_tenant_and_agent(directory: Path) -> None:
    """Only files of the dates and tenants are opened."""
    list(merge_small_files(directory, "events", TODAY))
    since, until = (datetime.fromtimestamp(START_MS / 1000 + n * 864, UTC) for n in (50, 150))
    for file in data_files(directory, tenant="globex"):
        file.path.write_bytes(b"PAR1")
    mine = (
        (pc.field("time") >= since)
        & (pc.field("time") < until)
        & pc.field("agent_id").isin([f"agent-{n}" for n in range(3)])
    )
    table = archive_dataset(directory, "events", since, until, "acme").to_table(["offset", "raw"], mine)
    expected = [n for n in range(50, 150) if n % 2 == 0 and n % 7 < 3]
    assert table["offset"].to_pylist() == expected
    assert table["raw"].to_pylist() == [event(n) for n in expected]
    with pytest.raises(ConfigError, match="cannot be read"):
        archive_dataset(directory)
    for file in data_files(directory, tenant="globex"):
        file.path.unlink()
    found = [json.loads(line)["id"] for line in raw_lines(directory, since, until)]
    assert found == [f"e-{n}" for n in range(50, 150, 2)]


@pytest.mark.parametrize("damage", ["empty", "footer", "pages"])
def test_a_damaged_file_holds_up_no_other(directory: Path, damage: str) -> None:
    """Those before it and behind it are merged; none covers its range, which would make it count no more."""
    bad = data_files(directory, last_day=date(2025, 12, 1), tenant="acme")[4].path
    whole = bad.read_bytes()
    damages = {"empty": b"", "footer": whole[:-9], "pages": whole[:4] + b"\xff" * 60 + whole[64:]}
    bad.write_bytes(damages[damage])  # of the last, its end still says what would be in it
    if damage == "pages":
        assert pq.read_metadata(bad).num_rows == 5
    left, damaged = bad.read_bytes(), set[Path]()
    while list(merge_small_files(directory, "events", TODAY, damaged=damaged)):
        pass
    assert damaged == {bad} and bad.read_bytes() == left
    found = data_files(directory, last_day=date(2025, 12, 1), tenant="acme")
    assert [(file.first, file.end) for file in found] == [(0, 40), (40, 50), (50, 100)]
    assert not list(directory.rglob("*.tmp"))
    bad.write_bytes(whole)
    assert offsets(directory) == list(range(EVENTS))


def test_a_full_disk_is_nobodys_damage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, leaves no half file, and everything is merged once there is room."""
    damaged = set[Path]()
    with monkeypatch.context() as patched:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            list(merge_small_files(directory, "events", TODAY, damaged=damaged))
    assert not damaged and not list(directory.rglob("*.tmp"))
    assert list(merge_small_files(directory, "events", TODAY, damaged=damaged)) == [10, 10, 10, 10]


def test_a_start_does_not_wait_for_readers(directory: Path) -> None:
    """They lose nothing by it, and whoever rewrites is still kept out."""
    lines = raw_lines(directory)
    first = next(lines)
    uncommitted = data_files(directory)[-1].path
    uncommitted = uncommitted.with_name(f"events-{EVENTS:020d}-{EVENTS + 9:020d}.parquet")
    uncommitted.write_bytes(b"")
    archive = EventArchive(directory)
    assert archive.start() == {0: EVENTS}
    archive.close()
    assert not uncommitted.exists()
    assert len([first, *lines]) == EVENTS


def test_a_date_that_can_not_go_yet_holds_up_no_other(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a late event of it is written at this moment."""
    original = Path.rmdir

    def filled(path: Path) -> None:
        if path.name == "date=2025-12-01":
            raise OSError(39, "Directory not empty")
        original(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rmdir", filled)
        drop_days_before(directory, START_MS + 2 * 86_400_000)
    assert sorted(path.name for path in directory.glob("date=*")) == ["date=2025-12-01", "date=2025-12-03"]
    drop_days_before(directory, START_MS + 2 * 86_400_000)
    assert [path.name for path in directory.glob("date=*")] == ["date=2025-12-03"]
