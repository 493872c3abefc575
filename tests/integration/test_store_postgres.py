"""What the store on PostgreSQL promises beyond the contract: it outlives its server, and several may use it at once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from trustwatch.ingest.errors import ConfigError, Fenced, Unavailable
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, LeasedDelivery, OutboxRow, Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store import migrate
from trustwatch.scoring.store.database import MAX_PAGE, iterate_pages
from trustwatch.scoring.store.dialects import postgresql
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_schema import METADATA
from trustwatch.scoring.store.sql_store import SqlStore, open_store

from ..support import stored_rows
from ..support.checkout import ROOT, process_command
from ..support.old_schemas import SCHEMAS, revisions_of

if TYPE_CHECKING:
    from scripts.service_stack import Postgres

pytestmark = pytest.mark.integration
NOW = 1_764_000_000_000
ROUTES = [DeliveryRoute("t", "alert", frozenset(range(5)), 1_000_000)]


@pytest.fixture
def store(postgres_store_url: str) -> Iterator[SqlStore]:
    with closing(open_store(postgres_store_url)) as made:
        yield made


@pytest.fixture
def second(store: SqlStore, postgres_store_url: str) -> Iterator[SqlStore]:
    """Another process, as far as the database can tell."""
    with closing(open_store(postgres_store_url)) as made:
        yield made


def agent(key: int, events: int = 0, **values: object) -> AgentRow:
    return stored_rows.agent(AgentName(key, "t", "i", f"a{key}"), 0, events=events, **values)


def alert(number: int, agent_key: int = 7) -> OutboxRow:
    return OutboxRow(f"alert-{number}", "alert", "", b"{}", NOW + number, agent_key, "burst", 3, "t")


def decision(number: int, key: int, decided_ms: int) -> Decision:
    return stored_rows.decision(number, agent(key).name, decision_id=f"D{number:04}", decided_ms=decided_ms)


def commit(store: SqlStore, partition: int = 0, **parts: object) -> Position:
    at = store.partitions.position(partition)
    at = store.partitions.claim(partition) if at.epoch == 0 else at
    new = Position(partition, at.epoch, at.offset + 1)
    empty: dict[str, object] = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []}
    store.commit(Commit(expected=at, position=new, **(empty | parts)))  # type: ignore[arg-type]
    return new


# Tables


@pytest.mark.parametrize("old", [None, *revisions_of("postgresql")])
def test_a_database_gets_the_tables_of_today(postgres: Postgres, postgres_url: str, old: str | None) -> None:
    """A new one and one of an earlier version have what the code declares, the tables of weeks aside.

    All text sorts byte by byte.
    """
    if old is not None:
        name = postgres_url.rpartition("/")[2]
        postgres.sql("set role trustwatch;" + (SCHEMAS / f"postgresql-{old}.sql").read_text(), name)
        postgres.sql(f"insert into alembic_version values ('{old}')", name)
    with closing(open_store(postgres_url)) as store:
        store.retention.prepare_weeks(NOW)
        options = {"include_name": lambda name, kind, _: kind != "table" or not str(name).startswith("decisions_")}
        with store.database.read() as connection:
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, METADATA) == []
            assert context.get_current_revision() == migrate.SCHEMA_REVISION
            words = text(
                "SELECT table_name, column_name, collation_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'"
            )
            assert connection.execute(words).all() == []
            stored = text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL ORDER BY 1")
            assert connection.execute(stored).all()[:2] == [
                ("agents", ["fillfactor=70", "toast_tuple_target=8160"]),
                ("edges", ["fillfactor=70"]),
            ]


def test_processes_migrate_side_by_side(postgres_url: str) -> None:
    """Several processes that start on the same empty database all end up with a working store."""
    code = (
        "import sys; from trustwatch.scoring.store.sql_store import open_store as o; "
        "s = o(sys.argv[1]); s.partitions.claim(0); s.close()"
    )
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, postgres_url]) for _ in range(3)]

    assert [process.wait(60) for process in running] == [0, 0, 0]
    with closing(open_store(postgres_url)) as store:
        assert store.partitions.position(0) == Position(0, 3, 0)


def test_database_of_another_encoding_is_refused(postgres: Postgres, postgres_url: str) -> None:
    """A database that cannot hold every text is a matter of configuration, and stays empty."""
    name = postgres_url.rpartition("/")[2]
    postgres.drop_database(name)
    postgres.sql(f"create database {name} owner trustwatch encoding 'LATIN1' locale 'C' template template0", "postgres")

    with pytest.raises(ConfigError, match=r"UTF8.*LATIN1"):
        open_store(postgres_url)

    assert postgres.sql("select count(*) from pg_tables where schemaname = 'public'", name) == "0"


def test_wrong_password(postgres: Postgres) -> None:
    """Who is not let in is told why, without what they said."""
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        open_store(postgres.url, password="wrong-secret")

    assert "wrong-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_password_beside_the_url(postgres: Postgres, postgres_store_url: str) -> None:
    """The password may come from elsewhere than the URL."""
    head, _, tail = postgres_store_url.partition("://")
    user, _, rest = tail.partition("@")
    name, _, password = user.partition(":")

    with closing(open_store(f"{head}://{name}@{rest}", password=password)) as store:
        assert store.partitions.claim(0) == Position(0, 1, 0)


def test_options_of_the_url_are_kept(postgres_store_url: str) -> None:
    """What the URL says stands above our defaults, option by option."""
    url = f"{postgres_store_url}?application_name=mine&options=-c%20statement_timeout%3D1234"
    with closing(open_store(url)) as store, store.database.read() as connection:
        shown = {
            name: connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("application_name", "statement_timeout", "lock_timeout", "transaction_isolation")
        }

    assert shown == {
        "application_name": "mine",
        "statement_timeout": "1234ms",
        "lock_timeout": "5s",
        "transaction_isolation": "repeatable read",
    }


# Decisions by the week


def test_weeks_of_decisions(store: SqlStore) -> None:
    """Whole weeks are dropped; an agent's current decision outlives its week and stays one row when it is repeated."""
    week = postgresql.WEEK_MS
    made = [decision(number, number % 2, NOW + number * week) for number in range(5)]
    commit(store, decisions=made[:2])  # before there are weeks
    store.retention.prepare_weeks(NOW)
    commit(store, decisions=made[2:], agents=[agent(0, decision_id="D0004"), agent(1, decision_id="D0001")])

    assert rows_of(store, "decisions_default") == 0
    assert store.retention.purge(RetentionCutoffs(decisions_ms=NOW + 3 * week + 1)).decisions == 2
    left = [one.decision_id for one in store.decisions.page().items]
    assert left == ["D0004", "D0003", "D0001"]
    assert store.decisions.get("D0001") == made[1]
    assert rows_of(store, "decisions_default") == 1
    commit(store, decisions=[made[1]])
    assert [one.decision_id for one in store.decisions.page().items] == left

    commit(store, agents=[agent(1, decision_id="D0003")])
    assert store.retention.purge(RetentionCutoffs(decisions_ms=NOW + 3 * week + 1)).decisions == 1
    assert rows_of(store, "decisions_default") == 0
    assert store.retention.purge(RetentionCutoffs(decisions_ms=NOW + 3 * week + 1)).decisions == 0


def test_upkeep_again_and_at_once(store: SqlStore, second: SqlStore) -> None:
    """Two replicas that prepare at a time make every week once; a week later one more is there."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda replica: replica.retention.prepare_weeks(NOW), [store, second]))
    store.retention.prepare_weeks(NOW + postgresql.WEEK_MS)

    with store.database.read() as connection:
        found = postgresql.list_weeks(connection)
    assert [week.start_ms for week in found] == [
        postgresql.week_of(NOW).start_ms + number * postgresql.WEEK_MS for number in range(postgresql.WEEKS_AHEAD + 2)
    ]


def rows_of(store: SqlStore, table: str) -> int:
    with store.database.read() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


# Several at a time


def test_a_commit_that_waited_is_fenced(store: SqlStore, second: SqlStore) -> None:
    """Whoever waits for the row of a partition that was just moved looks at it again, and is refused."""
    at = store.partitions.claim(0)
    late = Commit(at, Position(0, 1, 9), [agent(1, 9)], [], [], [])
    with ThreadPoolExecutor(1) as pool:
        with store.database.write() as connection:
            connection.execute(text("UPDATE positions SET epoch = epoch + 1 WHERE partition = 0"))
            waiting = pool.submit(second.commit, late)
            wait_for(store, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 1)
        with pytest.raises(Fenced):
            waiting.result(10)

    assert store.partitions.position(0) == Position(0, 2, 0)
    assert store.agents.load([1]) == {}


def test_racing_claims_and_commits(store: SqlStore, second: SqlStore) -> None:
    """Two workers that keep taking a partition from each other never lose or double an event."""
    applied = [0, 0]

    def work(number: int) -> None:
        mine = (store, second)[number]
        while (at := mine.partitions.claim(0)).offset < 60:
            with pytest.raises(Fenced):
                for _ in range(20):
                    row = mine.agents.load([1]).get(1)
                    events = (row.events if row else 0) + 1
                    new = Position(0, at.epoch, at.offset + 1)
                    mine.commit(Commit(at, new, [agent(1, events)], [], [], []))
                    applied[number] += 1
                    at = new
                raise Fenced("enough")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))

    assert store.partitions.position(0).offset == store.agents.load([1])[1].events == sum(applied) >= 60


@pytest.mark.parametrize("count", [20, 300])
def test_workers_write_the_same_agents(store: SqlStore, second: SqlStore, count: int) -> None:
    """Workers that write the same agents in opposite orders wait for each other; there is no deadlock."""
    before = deadlocks(store)
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        mine = (store, second)[number]
        for turn in range(30):
            first = 1 + turn * count // 2  # half of them are new
            rows = [agent(key * 0x9E3779B97F4A7C15 % 2**64) for key in range(first, first + count)]
            barrier.wait(60)
            commit(mine, number, agents=rows if number else rows[::-1])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))

    assert (store.partitions.position(0).offset, store.partitions.position(1).offset) == (30, 30)
    assert deadlocks(store) == before


def deadlocks(store: SqlStore) -> int:
    with store.database.read() as connection:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(connection.execute(query).scalar_one())


def test_two_dispatchers_send_every_alert_once(store: SqlStore, second: SqlStore) -> None:
    """Replicas that route and lease at the same time get different deliveries, and cool-down holds over both."""
    agents = 40
    commit(store, outbox=[alert(number, agent_key=number % agents) for number in range(5 * agents)])
    barrier = threading.Barrier(2)

    def dispatch(mine: SqlStore) -> list[LeasedDelivery]:
        sent: list[LeasedDelivery] = []
        barrier.wait()
        while len(sent) < 5 * agents:
            mine.outbox.route(ROUTES, NOW, 7)
            leased = mine.outbox.lease("t", NOW, 3, 60_000)
            if not leased and not unrouted(mine):
                break
            sent += leased
        return sent

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(dispatch, [store, second])

    keys = [item.row.key for item in one + other]
    assert len(keys) == len(set(keys))
    assert {item.row.key for item in one + other} == {f"alert-{number}" for number in range(agents)}
    deliveries = iterate_pages(lambda cursor: store.outbox.page(limit=MAX_PAGE, cursor=cursor))
    assert Counter((item.target, item.status) for item in deliveries) == {
        ("t", "pending"): agents,
        ("t", "suppressed"): 4 * agents,
    }


def unrouted(store: SqlStore) -> bool:
    with store.database.read() as connection:
        query = text("SELECT count(*) FROM outbox WHERE routed_ms = 0")
        return bool(connection.execute(query).scalar_one())


def test_only_one_routes(store: SqlStore, second: SqlStore) -> None:
    """While somebody routes, another dispatcher leaves it to them and does not wait."""
    commit(store, outbox=[alert(1)])
    with store.database.write() as connection:
        assert postgresql.Postgresql().try_transaction_lock(connection, "route")
        assert second.outbox.route(ROUTES, NOW) == 0

    assert second.outbox.route(ROUTES, NOW) == 1


def test_an_alert_that_is_committed_late_is_routed(store: SqlStore, second: SqlStore) -> None:
    """A transaction that took a lower number and commits after a higher one was routed is not passed over."""
    commit(store, outbox=[alert(1)])
    store.partitions.claim(1)
    with store.database.write() as slow:
        slow.execute(
            text(
                'INSERT INTO outbox (key, kind, target, tenant, created_ms, agent_key, "group", level, payload) '
                "VALUES ('late', 'alert', '', 't', 1, 9, 'burst', 3, '{}')"
            )
        )
        commit(second, outbox=[alert(2, 8)])
        assert second.outbox.route(ROUTES, NOW) == 2
    assert second.outbox.route(ROUTES, NOW) == 1

    leased = second.outbox.lease("t", NOW, 9, 1_000)
    assert sorted(item.row.key for item in leased) == ["alert-1", "alert-2", "late"]
    assert next(item.seq for item in leased if item.row.key == "late") < max(item.seq for item in leased)


# Failures


def test_killed_sessions(store: SqlStore, postgres: Postgres) -> None:
    """A session that the server ends is Unavailable once at most; the next call has a new one."""
    at = store.partitions.claim(0)
    with store.database.write() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with pytest.raises(Unavailable):  # noqa: SIM117
            with store.database.write() as other:
                mine = other.execute(text("SELECT pg_backend_pid()")).scalar_one()
                postgres.sql(f"select pg_terminate_backend({mine})")
                other.execute(text("SELECT 1"))
        assert pid != mine

    postgres.sql(f"select pg_terminate_backend({pid})")  # while it lies in the pool
    store.commit(Commit(at, Position(0, 1, 1), [agent(1)], [], [], []))
    assert store.partitions.position(0).offset == 1


def test_session_killed_while_agents_are_copied(store: SqlStore, second: SqlStore, postgres: Postgres) -> None:
    """COPY, which SQLAlchemy does not know, means the same when its connection breaks: nothing is there."""
    at = store.partitions.claim(0)
    rows = [agent(key) for key in range(1, 200)]
    with ThreadPoolExecutor(1) as pool, second.database.write() as blocker:
        blocker.execute(text("LOCK TABLE agents IN EXCLUSIVE MODE"))
        waiting = pool.submit(store.commit, Commit(at, Position(0, 1, 1), rows, [], [], []))
        wait_for(second, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 1)
        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'")
        with pytest.raises(Unavailable):
            waiting.result(10)

    assert store.partitions.position(0) == at
    assert store.agents.load(range(200)) == {}


def test_locked_and_slow_is_unavailable(postgres_store_url: str) -> None:
    """Waiting for a lock or for a statement ends, as Unavailable."""
    url = f"{postgres_store_url}?options=-c%20lock_timeout%3D50%20-c%20statement_timeout%3D200"
    with closing(open_store(url)) as store, closing(open_store(postgres_store_url)) as other:
        at = store.partitions.claim(0)
        with other.database.write() as connection:
            connection.execute(text("LOCK TABLE positions IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(Unavailable, match="lock timeout"):
                store.commit(Commit(at, Position(0, 1, 1), [], [], [], []))
        with pytest.raises(Unavailable, match="statement timeout"), store.database.read() as connection:
            connection.execute(text("SELECT pg_sleep(5)"))
        assert store.partitions.position(0) == at


def test_read_only_server_is_unavailable(store: SqlStore, postgres: Postgres, postgres_store_url: str) -> None:
    """A server that became a stand-by is left: connections to it are not used again, and writing works afterwards."""
    at = store.partitions.claim(0)
    name = postgres_store_url.rpartition("/")[2]
    late = Commit(at, Position(0, 1, 1), [], [], [], [])
    with store.database.write() as connection:
        connection.execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(Unavailable, match="read-only"):
        store.commit(late)

    postgres.sql(f"alter database {name} set default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="read-only"):  # told by a new connection already
        store.commit(late)
    postgres.sql(f"alter database {name} reset default_transaction_read_only")

    store.commit(late)
    assert store.partitions.position(0).offset == 1


@pytest.mark.parametrize("violent", [False, True])
def test_server_restarts_under_a_worker(store: SqlStore, postgres: Postgres, violent: bool) -> None:
    """A worker that commits all the time sees Unavailable, reads its position and goes on: nothing lost or doubled."""
    at = store.partitions.claim(0)
    failures = restarts = 0
    confirmed = 0
    threads: list[threading.Thread] = []
    deadline = time.monotonic() + 90
    while restarts < 3 or threads[-1].is_alive() or at.offset < 100 or failures == 0:
        assert time.monotonic() < deadline
        if restarts < 3 and (not threads or not threads[-1].is_alive()) and at.offset >= 30 * restarts + 10:
            threads.append(threading.Thread(target=_restart, args=(postgres, violent)))
            threads[-1].start()
            restarts += 1
        new = Position(0, 1, at.offset + 1)
        features = new.offset.to_bytes(8, "little")
        rows = [agent(key, new.offset, features=features) for key in range(1, 101)]
        alerts = [alert(new.offset)]
        try:
            store.commit(Commit(at, new, rows, [decision(new.offset, 1, NOW)], alerts, []))
            at, confirmed = new, new.offset
        except Unavailable:
            failures += 1
            at = _position_again(store, deadline)
            assert at.offset - confirmed in (0, 1)

    found = store.agents.load(range(1, 101))
    assert {(row.events, row.features) for row in found.values()} == {(at.offset, at.offset.to_bytes(8, "little"))}
    assert rows_of(store, "decisions") == rows_of(store, "outbox") == at.offset
    assert failures > 0


def _restart(postgres: Postgres, violent: bool) -> None:
    if violent:
        postgres.kill()
        postgres.start()
    else:
        postgres.restart()


def _position_again(store: SqlStore, deadline: float) -> Position:
    while True:
        try:
            return store.partitions.position(0)
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_kill_at_any_moment(postgres_store_url: str) -> None:
    """A process that is killed while it commits leaves state and position that agree exactly, time after time."""
    moments = random.Random(7)
    reached = 0
    for _ in range(5):
        reported = _run_and_kill(postgres_store_url, moments.randint(1, 25))
        with closing(open_store(postgres_store_url)) as store:
            offset = store.partitions.position(0).offset
            agents = store.agents.load(range(1, 51))

        assert {row.events for row in agents.values()} == {offset}
        assert offset - reported in (0, 1)
        assert offset > reached
        reached = offset


def _run_and_kill(url: str, after: int) -> int:
    command = process_command("store_committer", url)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return int([line for line in lines if line.endswith("\n")][-1])


def wait_for(store: SqlStore, query: str, wanted: int) -> None:
    deadline = time.monotonic() + 90
    while True:
        with store.database.read() as connection:
            if connection.execute(text(query)).scalar_one() == wanted:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)
