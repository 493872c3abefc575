"""Decisions on PostgreSQL, one table a week (Monday to Sunday, UTC), so that old ones go by dropping a table.

What no week takes lies in `decisions_default`: times for which nobody prepared a week, and decisions that are still an
agent's current one when their week is dropped. It is purged row by row.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine, MetaData, text

from trustwatch.ingest.timestamps import DAY_MS, WEEK_MS

from ..sql_schema import DECISIONS

_FIRST_MONDAY_MS = 4 * DAY_MS  # 1970-01-05
WEEKS_AHEAD = 4
"""Weeks prepared beyond the current one: upkeep may fail to run for so long before rows take a detour."""

ROW_PURGED_DECISIONS = DECISIONS.to_metadata(MetaData(), name="decisions_default")
_WEEKS_LOCK_KEY = 0x7457_0003
_CURRENT = "EXISTS (SELECT FROM agents a WHERE a.key = d.agent_key AND a.decision_id = d.decision_id)"
_ADVANCE_ANCHORS = (
    "UPDATE decision_chains c SET anchor_sequence = last.chain_sequence, anchor_digest = last.chain_digest FROM "
    "(SELECT DISTINCT ON (partition) partition, chain_sequence, chain_digest FROM {week} WHERE chain_sequence > 0 "
    "ORDER BY partition, chain_sequence DESC) last "
    "WHERE c.partition = last.partition AND c.anchor_sequence < last.chain_sequence"
)
"""The chains begin behind the week's decisions once it is gone; those of it that are kept are checked by themselves."""
_SELECT_WEEKS = text(
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = 'decisions'::regclass AND c.relname ~ '^decisions_[0-9]{8}$' ORDER BY 1"
)


class DecisionWeek(NamedTuple):
    """The table of one week: `start_ms` <= decided_ms < `end_ms`."""

    name: str
    start_ms: int

    @property
    def end_ms(self) -> int:
        """Beginning of the next week."""
        return self.start_ms + WEEK_MS


def week_of(at_ms: int) -> DecisionWeek:
    """The week that *at_ms* falls into.

    >>> week_of(1_764_000_000_000)
    DecisionWeek(name='decisions_20251124', start_ms=1763942400000)
    """
    start_ms = (at_ms - _FIRST_MONDAY_MS) // WEEK_MS * WEEK_MS + _FIRST_MONDAY_MS
    return DecisionWeek(f"decisions_{datetime.fromtimestamp(start_ms / 1000, UTC):%Y%m%d}", start_ms)


def list_weeks(connection: Connection) -> list[DecisionWeek]:
    """Weeks that have a table, oldest first."""
    return [week_from_name(row.relname) for row in connection.execute(_SELECT_WEEKS)]


def week_from_name(name: str) -> DecisionWeek:
    """The week whose table has that *name*."""
    day = datetime.strptime(name.removeprefix("decisions_"), "%Y%m%d").replace(tzinfo=UTC)
    return DecisionWeek(name, int(day.timestamp()) * 1000)


def prepare_weeks(engine: Engine, now_ms: int) -> None:
    """Make the tables of the week of *now_ms* and of those ahead, each in a transaction of its own."""
    weeks = [week_of(now_ms + ahead * WEEK_MS) for ahead in range(WEEKS_AHEAD + 1)]
    with engine.begin() as connection:
        there = set(list_weeks(connection))
    for week in weeks:
        if week not in there:
            with engine.begin() as connection:
                _create_week(connection, week)


def _create_week(connection: Connection, week: DecisionWeek) -> None:
    """Create a week's table, with rows that came too early from the default table. Others wait, a moment as a rule."""
    _lock_weeks(connection)
    if week in list_weeks(connection):
        return  # somebody else was faster
    inside = f"decided_ms >= {week.start_ms} AND decided_ms < {week.end_ms}"
    for statement in (
        "LOCK TABLE decisions_default IN ACCESS EXCLUSIVE MODE",
        f"CREATE TABLE {week.name} (LIKE decisions INCLUDING DEFAULTS)",
        f"WITH moved AS (DELETE FROM decisions_default WHERE {inside} RETURNING *) "  # noqa: S608 (numbers and names)
        f"INSERT INTO {week.name} SELECT * FROM moved",
        f"ALTER TABLE decisions ATTACH PARTITION {week.name} FOR VALUES FROM ({week.start_ms}) TO ({week.end_ms})",
    ):
        connection.execute(text(statement))


def _lock_weeks(connection: Connection) -> None:
    """Lock the weeks: one process at a time makes or drops them; millions of rows may take longer than other work."""
    connection.execute(text("SET LOCAL statement_timeout = '10min'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:job)"), {"job": _WEEKS_LOCK_KEY})


def purge_weeks(engine: Engine, before_ms: int) -> int:
    """Drop the tables of weeks that ended by *before_ms*; returns how many decisions went with them."""
    with engine.begin() as connection:
        old = [week for week in list_weeks(connection) if week.end_ms <= before_ms]
    removed = 0
    for week in old:
        with engine.begin() as connection:
            removed += _drop_week(connection, week)
    return removed


def _drop_week(connection: Connection, week: DecisionWeek) -> int:
    """Drop a week. An old decision never becomes current again, so those to keep are chosen before anybody waits."""
    _lock_weeks(connection)
    if week not in list_weeks(connection):
        return 0
    connection.execute(text(f"LOCK TABLE {week.name} IN SHARE MODE"))  # nothing comes in any more
    chosen = f"CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM {week.name} d WHERE {_CURRENT}"  # noqa: S608
    connection.execute(text(chosen))
    total = connection.execute(text(f"SELECT count(*) FROM {week.name}")).scalar_one()  # noqa: S608
    connection.execute(text(_ADVANCE_ANCHORS.format(week=week.name)))
    for statement in (
        f"ALTER TABLE decisions DETACH PARTITION {week.name}",
        f"DROP TABLE {week.name}",
        "INSERT INTO decisions SELECT * FROM kept",
    ):
        connection.execute(text(statement))
    kept: int = connection.execute(text("SELECT count(*) FROM kept")).scalar_one()
    return int(total) - kept
