"""A store opened to read: it shows what is there, writes nothing, and says what is wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.store.database import DamagedStore
from trustwatch.scoring.store.migrate import StoreTooNew
from trustwatch.scoring.store.sql_store import open_reading_store, open_store, sqlite_url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind, migrated by a writer."""
    found: str = (
        sqlite_url(tmp_path / "store.db")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_store_url")
    )
    open_store(found).close()
    return found


def test_it_reads_what_a_writer_commits_meanwhile(url: str) -> None:
    """Both are open at once; the reader sees each commit."""
    writer, reader = open_store(url), open_reading_store(url)
    writer.metadata.put("seen", "1")
    assert reader.metadata.get("seen") == "1"
    assert writer.partitions.claim(0) == Position(0, 1, 0)
    assert reader.partitions.position(0) == Position(0, 1, 0)
    writer.close()
    assert reader.metadata.get("seen") == "1"
    reader.close()


def test_it_can_not_write(url: str) -> None:
    """No method does: the database refuses."""
    reader = open_reading_store(url)
    for attempt in (lambda: reader.metadata.put("a", "b"), lambda: reader.partitions.claim(0)):
        with pytest.raises((Unavailable, DBAPIError)):
            attempt()
    reader.close()
    check = open_store(url)
    assert check.metadata.get("a") is None
    assert check.partitions.position(0).epoch == 0
    check.close()


def test_a_reader_never_holds_a_writer_up(tmp_path: Path) -> None:
    """A reading transaction stays open while commits go on (WAL), and sees one moment."""
    url = sqlite_url(tmp_path / "store.db")
    writer = open_store(url)
    writer.metadata.put("at", "1")
    reader = open_reading_store(url)
    with reader.database.read() as connection:
        before = connection.exec_driver_sql("select value from meta where key = 'at'").scalar_one()
        writer.metadata.put("at", "2")
        again = connection.exec_driver_sql("select value from meta where key = 'at'").scalar_one()
    assert (before, again, reader.metadata.get("at")) == ("1", "1", "2")
    reader.close()
    writer.close()


def test_the_file_is_left_as_it_was(tmp_path: Path) -> None:
    """Neither its bytes nor its time change; a name with signs that mean something in a URI is found."""
    path = tmp_path / "odd ?#%name.db"
    plain = tmp_path / "plain.db"
    open_store(sqlite_url(plain)).close()
    plain.rename(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    from sqlalchemy.engine import URL

    reader = open_reading_store(URL.create("sqlite", database=str(path)).render_as_string(hide_password=False))
    assert list(reader.agents.iterate()) == []
    reader.close()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_what_is_no_store_of_ours_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """No file, an empty database, text, an older and a newer revision."""
    with pytest.raises(ConfigError, match="no store there"):
        open_reading_store(sqlite_url(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    empty.touch()
    with pytest.raises(ConfigError, match="start the service once"):
        open_reading_store(sqlite_url(empty))
    text = tmp_path / "text.db"
    text.write_text("no database, but a text that is long enough to be looked at as the header of one" * 10)
    with pytest.raises(DamagedStore, match="file is not a database"):
        open_reading_store(sqlite_url(text))
    for revision, error in (("0001", ConfigError), ("9999", StoreTooNew)):
        path = tmp_path / f"{revision}.db"
        open_store(sqlite_url(path)).close()
        with sqlite3.connect(path) as connection:
            connection.execute("update alembic_version set version_num = ?", (revision,))
        connection.close()
        with pytest.raises(error):
            open_reading_store(sqlite_url(path))
