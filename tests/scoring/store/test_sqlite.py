"""What the store on SQLite promises beyond the contract: durability, migrations, and errors with a meaning."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.store import dialects, migrate
from trustwatch.scoring.store.dialects import sqlite
from trustwatch.scoring.store.migrate import StoreTooNew
from trustwatch.scoring.store.sql_schema import METADATA
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ...support import stored_rows
from ...support.checkout import ROOT, process_command
from ...support.nightly import size
from ...support.old_schemas import make_old_sqlite, revisions_of


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def agent(events: int) -> AgentRow:
    return stored_rows.agent(AgentName(1, "t", "i", "a"), 0, events=events)


def schema_of(path: Path) -> list[object]:
    """Tables, indexes and columns, but for the order of columns, which only selects see."""
    others = "tbl_name != 'alembic_version' AND name NOT LIKE 'sqlite_stat%'"
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(f"SELECT type, tbl_name, name FROM sqlite_master WHERE {others} ORDER BY 1, 2, 3")
        rows: list[object] = found.fetchall()
        for table in METADATA.tables:
            columns = f"SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{table}') ORDER BY 1"
            rows.append((table, connection.execute(columns).fetchall()))
    return rows


@pytest.mark.parametrize("old", revisions_of("sqlite"))
def test_an_old_database_gets_the_tables_of_today(tmp_path: Path, old: str) -> None:
    """A file of an earlier version has the same tables as a new one; an operator's index stays."""
    path, new = tmp_path / "old.db", tmp_path / "new.db"
    make_old_sqlite(path, old)
    open_store(sqlite_url(path)).close()
    open_store(sqlite_url(new)).close()

    assert schema_of(path) == schema_of(new)
    assert revision(path) == migrate.SCHEMA_REVISION
    engine = dialects.open_engine(sqlite_url(path))
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        connection.execute(text("CREATE INDEX mine ON agents (events)"))
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{old}'"))
    migrate.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX mine"))
    engine.dispose()
    assert schema_of(path) == schema_of(new)


def test_a_database_of_one_partition_is_migrated(tmp_path: Path) -> None:
    """A file of revision 0001 keeps what it holds: all of it belongs to partition 0, and the worker goes on."""
    path = tmp_path / "s.db"
    make_old_sqlite(path, "0001")
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT INTO positions VALUES (0, 4, 1000)")
        columns = ", ".join(row[1] for row in raw.execute("PRAGMA table_info(agents)"))
        values = "'t', 'i', ?, 'X', 2, 0.5, 0.5, 0.5, 1, 2, 3, ?, 9, 'D', '', 'v', X'5B5D', X'00FF', X'01'"
        raw.executemany(f"INSERT INTO agents ({columns}) VALUES (?, {values})", [(1, "a", 7), (-1, "b", 0)])

    with closing(open_store(sqlite_url(path))) as store:
        kept = store.agents.load([1, 2**64 - 1])
        assert [(row.name.agent_id, row.features, row.events) for _, row in sorted(kept.items())] == [
            ("a", b"\x00\xff", 9),
            ("b", b"\x00\xff", 9),
        ]
        assert {row.indicators for row in kept.values()} == {b"[]"}
        assert store.agents.due(9, 9) == [(7, 1)]
        assert store.partitions.published_offset(0) == 0
        assert list(store.agents.iterate_unpublished(0, 0)) == []
        at = store.partitions.position(0)
        assert at == Position(0, 4, 1000)
        store.commit(Commit(at, Position(0, 4, 1001), [agent(10)], [], [], []))
        assert [(one.epoch, one.offset) for one in store.agents.iterate_unpublished(0, 1000)] == [(4, 1001)]


def test_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a newer program is not touched, and the error says what to do."""
    path = tmp_path / "s.db"
    open_store(sqlite_url(path)).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreTooNew, match=r"'9999'.*newer Trustwatch"):
        open_store(sqlite_url(path))

    assert revision(path) == "9999"


def test_failed_migration_leaves_nothing(tmp_path: Path) -> None:
    """A migration that fails half-way leaves the file as it was: all of it is one transaction."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE outbox (mine TEXT)")  # the last tables of the migration will collide

    with pytest.raises(Exception, match="already exists"):
        open_store(sqlite_url(path))

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("outbox",)]


def test_processes_migrate_side_by_side(tmp_path: Path) -> None:
    """Several processes that start on the same empty file all end up with a working store."""
    code = (
        "import sys; from trustwatch.scoring.store.sql_store import open_store as o; "
        "s = o(sys.argv[1]); s.partitions.claim(0); s.close()"
    )
    url = sqlite_url(tmp_path / "s.db")
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, url]) for _ in range(3)]

    assert [process.wait(60) for process in running] == [0, 0, 0]
    store = open_store(url)
    assert store.partitions.position(0) == Position(0, 3, 0)
    store.close()


def test_locked_database_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the write lock, a commit is Unavailable, reading works, and later it succeeds."""
    path = tmp_path / "s.db"
    pragmas = ("busy_timeout=20", *sqlite._PRAGMAS[1:])
    monkeypatch.setattr(sqlite, "_PRAGMAS", pragmas)
    store = open_store(sqlite_url(path))
    at = store.partitions.claim(0)
    commit = Commit(at, Position(0, 1, 1), [agent(1)], [], [], [])

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            store.commit(commit)
        assert store.partitions.position(0) == at

    store.commit(commit)
    assert store.agents.load([1])[1].events == 1
    store.close()


def test_full_disk_is_unavailable(tmp_path: Path) -> None:
    """When there is no space the commit is Unavailable, nothing of it is there, and with space it succeeds."""
    store = open_store(sqlite_url(tmp_path / "s.db"))
    at = store.partitions.claim(0)
    row = stored_rows.agent(AgentName(1, "t", "i", "a"), 0, features=bytes(1 << 20))
    big = Commit(at, Position(0, 1, 1), [row], [], [], [])
    with store.database.write() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    with pytest.raises(Unavailable, match="full"):
        store.commit(big)

    assert store.partitions.position(0) == at
    assert store.agents.load([1]) == {}
    with store.database.read() as connection:
        connection.execute(text("PRAGMA max_page_count = 1000000"))
    store.commit(big)
    assert len(store.agents.load([1])[1].features) == 1 << 20
    store.close()


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A process that is killed while it commits leaves state and position that agree exactly, time after time.

    Every commit of it writes its offset into each of 50 agents as well as into the position; what it had reported as
    committed must be there.
    """
    path = tmp_path / "s.db"
    open_store(sqlite_url(path)).close()
    moments = random.Random(7)
    reached = 0
    for _ in range(size(each_push=3, nightly=20)):
        reported = _run_and_kill(path, moments.randint(1, 25))
        store = open_store(sqlite_url(path))
        offset = store.partitions.position(0).offset
        agents = store.agents.load(range(1, 51))
        store.close()

        assert {row.events for row in agents.values()} == {offset}
        assert {row.features for row in agents.values()} == {offset.to_bytes(8, "little")}
        assert offset - reported in (0, 1)  # at most the one whose report was cut off
        assert offset > reached
        reached = offset


def _run_and_kill(path: Path, after: int) -> int:
    """Let the committer report *after* commits, kill it in the next ones; the last offset that it reported."""
    command = process_command("store_committer", sqlite_url(path))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    whole = [line for line in lines if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    return int(whole[-1])
