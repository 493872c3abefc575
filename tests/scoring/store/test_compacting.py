"""Compacting that a database breaks off: it is tried again, and its session serves nobody else."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store.dialects import postgresql
from trustwatch.scoring.store.sql_store import open_store, sqlite_url


class _FromServer(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"state {sqlstate}")
        self.sqlstate = sqlstate


class Session:
    """An engine of one connection; its VACUUM ends as it is told to."""

    def __init__(self, sqlstate: str | None) -> None:
        self._sqlstate = sqlstate
        self.said: list[str] = []
        self.invalidated = False

    def execution_options(self, **options: str) -> Session:
        assert options == {"isolation_level": "AUTOCOMMIT"}
        return self

    def connect(self) -> Session:
        return self

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.said.append("closed")

    def execute(self, statement: Any) -> None:
        self.said.append(str(statement))
        if str(statement) == "VACUUM" and self._sqlstate is not None:
            raise OperationalError("VACUUM", None, _FromServer(self._sqlstate))

    def invalidate(self) -> None:
        self.invalidated = True


@pytest.mark.parametrize("sqlstate", ["57P01", "55P03"])
def test_a_vacuum_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlstate: str) -> None:
    """A failover or a locked table is Unavailable, which erasures wait out; a raw error would end the service."""
    session: Any = Session(sqlstate)
    with closing(open_store(sqlite_url(tmp_path / "s.db"))) as store:
        monkeypatch.setattr(store.database.dialect, "compact", lambda engine: postgresql.Postgresql().compact(session))
        with pytest.raises(Unavailable, match=sqlstate):
            store.database.compact()

    assert session.invalidated


def test_the_session_of_a_vacuum_is_thrown_away() -> None:
    """Its statements have no time limit, and the next one to get it would not know."""
    session: Any = Session(None)

    assert postgresql.Postgresql().compact(session)
    assert session.invalidated
    assert session.said == ["SET statement_timeout = 0", "VACUUM", "closed"]
