"""A damaged database file is said to be one, with what to do; it never ends in anything that is no error of ours."""

from __future__ import annotations

import random
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.store.agent_store import AgentQuery
from trustwatch.scoring.store.database import DamagedStore, iterate_pages
from trustwatch.scoring.store.sql_store import SqlStore, open_reading_store, open_store, sqlite_url

from ...support.checkout import ROOT

PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The database of 0.1, brought up to date, in one file."""
    path = tmp_path_factory.mktemp("sound") / "trustwatch.db"
    with zipfile.ZipFile(ROOT / "tests/golden/data_0_1/embedded.zip") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("trustwatch.db"))
        path.write_bytes(archive.read(name))
    open_store(sqlite_url(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    return path.read_bytes()


def read_everything(store: SqlStore) -> int:
    """All agents and decisions, as the service reads them when it starts and when it is asked."""
    agents = list(iterate_pages(lambda cursor: store.agents.page(AgentQuery(limit=100, cursor=cursor))))
    decisions = list(iterate_pages(lambda cursor: store.decisions.page(limit=100, cursor=cursor)))
    store.partitions.position(0)
    store.models.list_switches(10)
    return len(agents) + len(decisions)


def read_file(path: Path, opened: Callable[[str], SqlStore]) -> None:
    with closing(opened(sqlite_url(path))) as store:
        read_everything(store)


def no_database(raw: bytes) -> bytes:
    return b"SQLite is elsewhere" * 1000


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 3]


def no_schema(raw: bytes) -> bytes:
    return raw[:100] + bytes(PAGE - 100) + raw[PAGE:]


def no_tree(raw: bytes) -> bytes:
    return raw[:PAGE] + b"\xff" * (len(raw) - PAGE)


@pytest.mark.parametrize("damage", [no_database, cut, no_schema, no_tree])
@pytest.mark.parametrize("opened", [open_store, open_reading_store])
def test_what_is_broken_at_the_start_is_said_with_what_to_do(
    sound: bytes, tmp_path: Path, damage: Callable[[bytes], bytes], opened: Callable[[str], SqlStore]
) -> None:
    path = tmp_path / "trustwatch.db"
    path.write_bytes(damage(sound))
    with pytest.raises(DamagedStore, match=r"is damaged \(.*stop the service.*back-up.*\.recover"):
        read_file(path, opened)


def test_a_table_that_is_not_there_is_damage(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trustwatch.db"
    path.write_bytes(sound)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("drop table agents")
        connection.commit()
    with closing(open_store(sqlite_url(path))) as store, pytest.raises(DamagedStore, match="no such table: agents"):
        read_everything(store)


def test_a_row_that_is_none_of_ours_is_damage(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trustwatch.db"
    path.write_bytes(sound)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update decisions set reasons = x'ff00'")
        connection.commit()
    with closing(open_store(sqlite_url(path))) as store, pytest.raises(DamagedStore):
        read_everything(store)


def test_whatever_is_damaged_no_error_is_but_ours(sound: bytes, tmp_path: Path) -> None:
    """Pages zeroed, overwritten, exchanged, bytes changed: it is read, or said to be damaged."""
    outcomes = {"read": 0, "refused": 0}
    for case in range(60):
        dice, raw = random.Random(case), bytearray(sound)
        for _ in range(dice.choice((1, 3, 30))):
            page, other = (PAGE * dice.randrange(len(raw) // PAGE) for _ in range(2))
            kind = case % 4
            if kind == 0:
                raw[page : page + PAGE] = bytes(PAGE)
            elif kind == 1:
                raw[page : page + PAGE] = dice.randbytes(PAGE)
            elif kind == 2:
                raw[page : page + PAGE] = raw[other : other + PAGE]
            else:
                raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path = tmp_path / f"{case}.db"
        path.write_bytes(raw)
        try:
            read_file(path, open_store)
            outcomes["read"] += 1
        except TrustwatchError as error:
            assert "damaged" in str(error) or "revision" in str(error), error
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5
