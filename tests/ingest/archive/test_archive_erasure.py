"""Archived files without whom was erased: of events and of vectors, and whatever is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from trustwatch.ingest.archive import archive_files, file_merging
from trustwatch.ingest.archive.archive_files import event_folder
from trustwatch.ingest.archive.event_archive import EventToArchive, event_table, write_table
from trustwatch.ingest.archive.file_merging import FileErasureCount, erase_files
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_erasure import ErasureSubject

DAY = 1_764_547_200_000
CANARY = ErasureSubject("agent", "acme", "https://as", "canary", "erased~1")
PERSON = ErasureSubject("principal", "acme", "", "ann@acme.example", "erased~2")


def event(agent: str, tenant: str = "acme", **more: Any) -> dict[str, Any]:
    made = {"time": "2025-12-01T00:00:00Z", "type": "tool.call", "action": "read", "outcome": "success"}
    return {**made, "tenant": tenant, "agent": {"id": agent, "issuer": "https://as"}, **more}


def write(directory: Path, name: str, events: list[dict[str, Any]], first: int = 0) -> Path:
    raws = [json.dumps(made).encode() for made in events]
    rows = [EventToArchive(at, DAY, decode_event(raw), raw) for at, raw in enumerate(raws, first)]
    path = directory / event_folder(DAY, events[0]["tenant"]) / name
    write_table(path, event_table(rows))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two files of a tenant, one of another, and one that only the erased agent filled."""
    person = {"principal": {"id": PERSON.name}}
    write(
        tmp_path,
        archive_files.file_name("events", None, 0, 4),
        [
            event("canary"),
            event("other", delegation=["other", "canary"], peer="canary"),
            event("other"),
            event("third", **person, attributes={"to": ["mail:ann@acme.example"]}),
        ],
    )
    write(tmp_path, archive_files.file_name("events", None, 4, 5), [event("canary", **person)], 4)
    write(tmp_path, archive_files.file_name("events", None, 0, 5), [event("canary", "globex")])
    write(tmp_path, archive_files.file_name("events", None, 5, 7), [event("canary"), event("other")], 5)
    return tmp_path


def rows(directory: Path, tenant: str = "acme") -> list[dict[str, Any]]:
    found = []
    for path in sorted(directory.glob(f"date=*/tenant={tenant}/*.parquet")):
        found += pq.ParquetFile(path).read().to_pylist()
    return found


def test_an_agents_rows_go(archive: Path) -> None:
    """Up to the offset of the erasure; other tenants and later rows stay; an empty file goes."""
    dry = erase_files(archive, "events", CANARY, {0: 5}, dry=True)
    found = erase_files(archive, "events", CANARY, {0: 5})
    left = rows(archive)

    assert dry == found == FileErasureCount(2, 1, 2)
    assert [(row["offset"], row["agent_id"]) for row in left] == [
        (1, "other"),
        (2, "other"),
        (3, "third"),
        (5, "canary"),
        (6, "other"),
    ]
    assert left[0]["delegation"] == ["other", "erased~1"]
    assert json.loads(left[0]["raw"])["peer"] == left[0]["peer"] == "erased~1"
    assert rows(archive, "globex")[0]["agent_id"] == "canary"
    assert erase_files(archive, "events", CANARY, {0: 5}) == FileErasureCount()
    assert len(list(archive.glob("date=*/tenant=acme/*.parquet"))) == 2


def test_a_principal_is_replaced(archive: Path) -> None:
    """In every column and in the record as it was logged; rows that do not name it are as they were."""
    before = rows(archive)
    found = erase_files(archive, "events", PERSON, {0: 7})
    after = rows(archive)

    assert found == FileErasureCount(0, 2, 2)
    assert b"ann@" not in b"".join(path.read_bytes() for path in archive.rglob("*.parquet"))
    assert json.loads(after[3]["raw"])["attributes"] == {"to": ["mail:erased~2"]}
    assert after[3]["principal_id"] == "erased~2"
    assert [row for at, row in enumerate(after) if at not in (3, 4)] == [
        row for at, row in enumerate(before) if at not in (3, 4)
    ]


def test_a_crash_before_any_file(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files stay at every moment, and the next call ends the work."""
    real, calls = file_merging.replace_file, []

    def refusing(path: Path, content: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("disk full")
        real(path, content)

    monkeypatch.setattr(file_merging, "replace_file", refusing)
    with pytest.raises(OSError, match="disk full"):
        erase_files(archive, "events", CANARY, {0: 5})
    assert {row["agent_id"] for row in rows(archive)} == {"canary", "other", "third"}
    assert erase_files(archive, "events", CANARY, {0: 5}).files == 1
    assert [row["offset"] for row in rows(archive) if row["agent_id"] == "canary"] == [5]


def test_no_archive(tmp_path: Path) -> None:
    """Nothing is found where nothing is, and nothing is made."""
    assert erase_files(tmp_path / "none", "events", CANARY, {0: 5}) == FileErasureCount()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "other columns"])
def test_a_damaged_file_is_named(archive: Path, damage: str) -> None:
    """With what to do, as an error that whoever erases waits on; it is left as it was."""
    path = next(archive.glob("date=*/tenant=acme/*-00000000000000000005.parquet"))
    if damage == "other columns":
        pq.write_table(event_table([]).select(["id"]), path)
    else:
        path.write_bytes(path.read_bytes()[:-20] if damage == "cut" else b"")
    before = path.read_bytes()
    for dry in (True, False):
        with pytest.raises(ConfigError, match="restore it from a backup") as told:
            erase_files(archive, "events", CANARY, {0: 5}, dry=dry)
        assert str(path) in str(told.value)
    assert path.read_bytes() == before
    path.unlink()
    erase_files(archive, "events", CANARY, {0: 5})
    assert "canary" not in {row["agent_id"] for row in rows(archive) if row["offset"] < 5}


def test_what_a_crash_left_half_written_goes(archive: Path) -> None:
    """It may name the subject. Ranges from the offset on may be written at this moment, and dry runs only look."""
    folder = next(archive.glob("date=*/tenant=acme"))
    old, now = (folder / (archive_files.file_name("events", None, *of) + ".tmp") for of in ((4, 9), (5, 7)))
    other = folder.with_name("tenant=globex") / old.name
    for path in (old, now, other):
        path.write_bytes(b"canary")
    erase_files(archive, "events", CANARY, {0: 5}, dry=True)
    assert old.exists()
    erase_files(archive, "events", CANARY, {0: 5})
    assert (old.exists(), now.exists(), other.exists()) == (False, True, True)
