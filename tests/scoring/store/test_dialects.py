"""What of the store on PostgreSQL needs no server: its words, its weeks, and what its errors mean."""

from __future__ import annotations

import base64
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.scoring.store import dialects
from trustwatch.scoring.store.dialects import postgresql
from trustwatch.scoring.store.dialects.statements import rows_as_json
from trustwatch.scoring.store.sql_schema import escape_nul, unescape_nul
from trustwatch.scoring.store.sql_store import open_store

TEXTS = st.text(st.sampled_from("\0\1\2ab01\U0010ffff"), max_size=6) | st.text()


@given(TEXTS, TEXTS)
def test_escaped_text(one: str, other: str) -> None:
    """Escaped text has no U+0000, comes back, and keeps order and prefixes, which is what an index needs."""
    assert "\0" not in escape_nul(one)
    assert unescape_nul(escape_nul(one)) == one
    assert (escape_nul(one) < escape_nul(other)) == (one < other)
    assert escape_nul(one).startswith(escape_nul(other)) == one.startswith(other)


ROWS = st.dictionaries(
    st.sampled_from("abcd"),
    TEXTS | st.binary() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
)


@given(st.lists(ROWS))
def test_rows_as_json(rows: list[dict[str, object]]) -> None:
    """PostgreSQL takes the text, and finds each value in it: floats to the last bit, bytes in base64."""
    written = rows_as_json(rows)

    def expected(value: object) -> object:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        return escape_nul(value) if isinstance(value, str) else value

    read = json.loads(written)
    assert repr(read) == repr([{name: expected(value) for name, value in row.items()} for row in rows])
    assert not any("\0" in value for row in read for value in row.values() if isinstance(value, str))


@given(st.integers(0, 1 << 43))
def test_weeks_fit_together(at_ms: int) -> None:
    """Every time is in one week, weeks begin where the one before ends, and the name says when: a Monday."""
    week = postgresql.week_of(at_ms)

    assert week.start_ms <= at_ms < week.end_ms
    assert postgresql.week_of(week.end_ms) == postgresql.DecisionWeek(postgresql.week_of(week.end_ms).name, week.end_ms)
    assert postgresql.week_of(week.start_ms - 1).end_ms == week.start_ms
    assert postgresql.week_from_name(week.name) == week


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


def test_mistakes_without_a_server() -> None:
    """A call that the driver refuses is no matter of trying again, nor is an error that no database made."""
    assert not dialects.is_transient(ProgrammingError("", None, _FromServer(None)))
    assert not dialects.is_transient(DBAPIError("", None, ValueError("x")))


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("postgresql+psycopg2://u:secret@h/d", r"store\.url.*psycopg \("),
        ("postgresql+asyncpg://u:secret@h/d", r"store\.url.*psycopg \("),
        ("postgresql://u:secret@h", r"store\.url.*name of the database"),
        ("postgresql://u:secret@h:port/d", r"store\.url"),
        ("postgresql://u:secret@127.0.0.1:1/d?sslmod=require", r"store\.url.*sslmod"),
        ("oracle://u:secret@h/d", r"store\.url.*expected sqlite"),
    ],
)
def test_wrong_url(url: str, match: str) -> None:
    """What cannot work is a ConfigError that names the setting, and never shows the password."""
    with pytest.raises(ConfigError, match=match) as caught:
        open_store(url)

    assert "secret" not in repr(caught.value)


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
