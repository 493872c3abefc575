"""A question to the archive: what columns and bytes can tell, how far it looks, and what it can not read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trustwatch.ingest.archive.archive_files import data_files, rewrite_lock
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.archive.event_search import ArchiveSearch, FoundEvents, search_events
from trustwatch.ingest.archive.latest_events import LoggedEvent, LookupLimits
from trustwatch.ingest.events import decode_event

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
EVENTS = 200


def event(number: int) -> bytes:
    """An event; a day has 100 of them."""
    at = datetime.fromtimestamp(START_MS / 1000 + number * 864, UTC).isoformat()
    made = {
        "id": f"e-{number}",
        "time": at,
        "type": "api.call",
        "action": ("read", "write")[number % 10 == 0],
        "outcome": "success",
        "agent": {"id": f"agent-{number % 7}"},
        "tenant": ("acme", "globex")[number % 2],
        "client": {"user_agent": f"Curl/{number % 5}"},
    }
    return json.dumps(made).encode()


EACH = [EventToArchive(n, START_MS + n, decode_event(event(n)), event(n)) for n in range(EVENTS)]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """An archive in 20 ranges."""
    archive = EventArchive(tmp_path / "archive")
    archive.start()
    for base in range(0, EVENTS, 10):
        archive.write(base, base + 10, EACH[base : base + 10])
    archive.close()
    yield tmp_path / "archive"


def everything(_: LoggedEvent) -> bool:
    return True


def never() -> bool:
    return False


@pytest.fixture
def ask(directory: Path) -> Callable[..., tuple[list[int], FoundEvents]]:
    """Numbers of the events that are found, and all that is said of it."""

    def find(
        accepts: Callable[[LoggedEvent], bool] = everything,
        bounds: LookupLimits | None = None,
        expired: Callable[[], bool] = never,
        **asked: object,
    ) -> tuple[list[int], FoundEvents]:
        given = ArchiveSearch(**{"limit": EVENTS, **asked})  # type: ignore[arg-type]
        found = search_events(directory, "", given, accepts, expired, *(() if bounds is None else (bounds,)))
        assert found is not None
        return [row.offset for row in found.rows], found

    return find


def test_columns_and_bytes_narrow(ask: Callable[..., tuple[list[int], FoundEvents]]) -> None:
    """Newest first; whatever is asked for has to hold."""
    offsets, found = ask(equal={"action": "write"}, tenants=["acme"])
    assert offsets == list(range(190, -1, -10))
    assert (found.rows_examined, found.complete, found.damaged_files) == (EVENTS // 2, True, 0)
    assert ask(parts=(("CURL", "none"), ("/3",), ("agent-1",)))[0] == [
        n for n in range(EVENTS - 1, -1, -1) if n % 5 == 3 and n % 7 == 1
    ]
    assert ask(tenants=[])[0] == []
    assert ask(lambda row: row.offset % 50 == 0)[0] == [150, 100, 50, 0]
    assert ask(before={0: 30}, equal={"action": "write"})[0] == [20, 10, 0]
    assert ask(before={0: EVENTS})[1].complete is True
    assert ask(before={0: EVENTS + 1})[1].complete is False, "who reads the log from there on misses a record"


def test_times_bound_it(ask: Callable[..., tuple[list[int], FoundEvents]]) -> None:
    """From the first on and before the second."""
    bounds = {
        "since": datetime.fromtimestamp(START_MS / 1000 + 50 * 864, UTC),
        "until": datetime.fromtimestamp(START_MS / 1000 + 53 * 864, UTC),
    }
    assert ask(**bounds)[0] == [52, 51, 50]


def test_a_look_that_is_cut_short_says_so(ask: Callable[..., tuple[list[int], FoundEvents]]) -> None:
    """By what was wanted, files, rows or bytes."""
    assert set(ask(limit=3)[0]) <= set(range(190, 200))
    for bounds in (LookupLimits(files=2), LookupLimits(rows=10), LookupLimits(raw_bytes=1)):
        offsets, found = ask(bounds=bounds)
        assert 0 < len(offsets) < EVENTS
        assert not found.complete
    assert ask(expired=iter([False, False, True, True]).__next__)[1].complete is False
    offsets, found = ask(limit=EVENTS)
    assert (len(offsets), found.complete) == (EVENTS, True)
    assert not ask(limit=EVENTS - 1)[1].complete


def test_a_damaged_file_is_counted_and_the_others_are_read(
    directory: Path, ask: Callable[..., tuple[list[int], FoundEvents]]
) -> None:
    """What can not be read is told, not hidden."""
    data_files(directory)[0].path.write_bytes(b"PAR1 no more PAR1")
    offsets, found = ask()
    assert found.damaged_files == 1
    assert len(offsets) == EVENTS - 5


def test_it_waits_for_nobody(directory: Path) -> None:
    """While files are rewritten the caller is told; without an archive there is nothing."""
    with rewrite_lock(directory), pytest.raises(BlockingIOError):
        search_events(directory, "", ArchiveSearch(), everything, never)
    assert search_events(directory.parent / "none", "", ArchiveSearch(), everything, never) is None
