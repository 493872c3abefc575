"""What of the store on PostgreSQL needs no server: its words, its weeks, and what its errors mean."""

from __future__ import annotations

import socket

import pytest
from sqlalchemy.exc import OperationalError

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store import dialects
from trustwatch.scoring.store.dialects import postgresql
from trustwatch.scoring.store.sql_store import open_store


def test_no_two_jobs_share_a_lock() -> None:
    """Locks of sessions and of transactions are of one kind: who has the one keeps the other from everybody."""
    keys = [
        *postgresql.JOB_LOCK_KEYS.values(),
        *postgresql._TRANSACTION_LOCK_KEYS.values(),
        postgresql._MIGRATION_LOCK,
        postgresql._WEEKS_LOCK_KEY,
    ]
    assert len(set(keys)) == len(keys)


class _FromServer(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(f"state {sqlstate}")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "transient"),
    [
        (None, True),  # the connection broke
        ("08006", True),
        ("57P01", True),  # admin shutdown
        ("57P03", True),  # cannot connect now
        ("57014", True),  # statement timeout
        ("40P01", True),  # deadlock
        ("40001", True),
        ("53100", True),  # disk full
        ("53300", True),  # too many connections
        ("55P03", True),  # lock timeout
        ("25006", True),  # read-only: a stand-by after a failover
        ("58030", True),
        ("23505", False),
        ("23502", False),
        ("42P01", False),
        ("42501", False),
        ("22021", False),
    ],
)
def test_errors_that_pass(sqlstate: str | None, transient: bool) -> None:
    """What goes by itself is Unavailable; a mistake is not, or it would be tried for ever."""
    assert dialects.is_transient(OperationalError("", None, _FromServer(sqlstate))) is transient


def test_no_server() -> None:
    """A server that is not there is Unavailable, without the password in the error or in what caused it."""
    with pytest.raises(Unavailable, match="refused") as caught:
        open_store("postgresql://u@127.0.0.1:1/d", password="sec:ret@/")

    chain: BaseException | None = caught.value
    while chain is not None:
        assert "sec:ret" not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__


def test_a_server_that_does_not_answer_in_time_is_told_with_what_waits_longer() -> None:
    """It takes the connection and says nothing, as one whose machine has no time for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(
            Unavailable, match=r"connection timeout expired; .*connect_timeout=20` at the end of store.url"
        ):
            open_store(f"postgresql://trustwatch@127.0.0.1:{port}/trustwatch?connect_timeout=2")
