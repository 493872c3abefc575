"""Writes changed agents to SQLite and to PostgreSQL in several ways, and reads them back: seconds and client CPU.

PostgreSQL is started for this alone, from the system's package, with fsync on; without it SQLite is measured alone.
Then the embedded event log (`embedded_logs.py`). `--only agents`, `--only log`: one of both.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text

from scripts.service_stack import Postgres, ServiceUnavailable
from trustwatch.ingest.features.layout import STATE_ROW
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.engine import risk_levels
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.store import codec
from trustwatch.scoring.store.dialects import postgresql, postgresql_copy
from trustwatch.scoring.store.dialects.statements import UPSERT_AGENT
from trustwatch.scoring.store.sql_schema import AGENT_NAME_COLUMNS, AGENTS
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from .embedded_logs import CELLS, Cell, file_system, make_records, measure_logs
from .harness import finish, machine, options, table

WriteMethod = Callable[[Any, Sequence[AgentRow], Position], None]
VALUES_ROWS = 500
AT = Position(0, 1, 1)
NOISE = random.Random(1).randbytes(STATE_ROW.itemsize + 4096)


class StoreAlternative(NamedTuple):
    """A store, and how agents are written to it."""

    name: str
    store: SqlStore
    write: WriteMethod
    most: int  # rows, for what would take minutes


def agent(number: int, turn: int) -> AgentRow:
    """Half of the state is noise, half is empty, as in a builder that has seen some days."""
    agent_id = f"spiffe://acme.example/agent/{number:08}"
    name = AgentName(
        IdentityHasher().agent_key("acme", "https://as.example", agent_id), "acme", "https://as.example", agent_id
    )
    shift, half = (number + turn) % 4096, STATE_ROW.itemsize // 2
    features = NOISE[shift : shift + half] + bytes(STATE_ROW.itemsize - half)
    at = 1_764_000_000_000 + turn
    return AgentRow(
        name,
        "Payer",
        1,
        0.1,
        0.9,
        0.2,
        at - turn,
        at,
        at,
        0,
        turn,
        "01KAV9FT0001KAV9FT00ABCDEF",
        b"[]",
        "",
        features=features,
        risk=NOISE[: risk_levels.ROW.itemsize],
        state_version="abcdefabcdef:abcdefabcdef",
    )


def one_by_one(connection: Any, rows: Sequence[AgentRow], version: Position) -> None:
    """A statement per row, pipelined by the driver."""
    connection.execute(UPSERT_AGENT.for_connection(connection), [codec.agent_params(row, version) for row in rows])


def many_values(connection: Any, rows: Sequence[AgentRow], version: Position) -> None:
    """INSERT ... VALUES of many rows at once."""
    base = UPSERT_AGENT.for_connection(connection)
    for start in range(0, len(rows), VALUES_ROWS):
        connection.execute(base.values([codec.agent_params(row, version) for row in rows[start : start + VALUES_ROWS]]))


def copy_and_merge(connection: Any, rows: Sequence[AgentRow], version: Position) -> None:
    """COPY, then MERGE (PostgreSQL 15 and newer), which is no safer against a second writer than a plain INSERT."""
    postgresql_copy.stage_agents(connection, rows, version)
    names = [column.name for column in AGENTS.columns]
    changed = ", ".join(f'"{name}" = s."{name}"' for name in names if name not in ("key", *AGENT_NAME_COLUMNS))
    listed, values = (", ".join(f'{prefix}"{name}"' for name in names) for prefix in ("", "s."))
    connection.execute(
        text(
            "MERGE INTO agents a USING pg_temp.staged_agents s ON a.key = s.key "
            f"WHEN MATCHED THEN UPDATE SET {changed} WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({values})"
        )
    )


@contextlib.contextmanager
def alternatives(folder: Path) -> Iterator[list[StoreAlternative]]:
    """Every way, each on tables of its own."""
    with contextlib.ExitStack() as stack:

        def opened(url: str) -> SqlStore:
            return stack.enter_context(contextlib.closing(open_store(url)))

        lite = opened(sqlite_url(folder / "store.db"))
        found = [StoreAlternative("SQLite", lite, lite.database.dialect.write_agents, 1_000_000)]
        try:
            server = Postgres(folder / "postgres", bound=True)
            server.start()
        except ServiceUnavailable as reason:
            print(f"without PostgreSQL: {reason}", file=sys.stderr)
        else:
            stack.callback(server.remove)
            ways: dict[str, WriteMethod] = {
                "PostgreSQL, as the store does": postgresql.Postgresql().write_agents,
                "PostgreSQL, statement per row": one_by_one,
                f"PostgreSQL, {VALUES_ROWS} rows in VALUES": many_values,
                "PostgreSQL, COPY + ON CONFLICT": postgresql_copy.copy_agents,
                "PostgreSQL, COPY + MERGE": copy_and_merge,
            }
            for name, way in ways.items():
                store = opened(server.url_of(server.create_database()))
                found.append(StoreAlternative(name, store, way, 1_000 if way is many_values else 1_000_000))
        yield found


def measure(found: list[StoreAlternative], known: int, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Median milliseconds, and the client's CPU, of one commit of so many agents out of *known*, by way and size."""
    for one in found:
        insert_all_agents(one, known)
    figures: dict[str, dict[str, tuple[float, float]]] = {one.name: {} for one in found}
    for size in sizes:
        measured = [one for one in found if size <= one.most]
        turns: dict[str, list[tuple[float, float]]] = {one.name: [] for one in measured}
        for turn in range(1, rounds + 1):
            numbers = random.Random(turn).sample(range(known), size)
            rows = sorted((agent(number, turn) for number in numbers), key=lambda row: codec.to_signed(row.name.key))
            for one in measured:
                turns[one.name].append(write(one, rows))
        for name, taken in turns.items():
            figures[name][str(size)] = (
                statistics.median(turn[0] for turn in taken) * 1e3,
                statistics.median(turn[1] for turn in taken) * 1e3,
            )
    return figures


def insert_all_agents(one: StoreAlternative, known: int) -> None:
    """Put all agents in by whole commits."""
    at = one.store.partitions.claim(0)
    for start in range(0, known, 10_000):
        new = Position(0, at.epoch, at.offset + 1)
        rows = [agent(number, 0) for number in range(start, min(known, start + 10_000))]
        one.store.commit(Commit(at, new, rows, [], [], []))
        at = new


def write(one: StoreAlternative, rows: Sequence[AgentRow]) -> tuple[float, float]:
    """Seconds of the clock and of this process's CPU."""
    start, busy = time.perf_counter(), time.process_time()
    with one.store.database.write() as connection:
        one.write(connection, rows, AT)
    return time.perf_counter() - start, time.process_time() - busy


def reading(one: StoreAlternative, known: int) -> dict[str, float]:
    """Seconds in which a fresh worker has all agents back, and in which what is not published is found."""
    keys = [agent(number, 0).name.key for number in range(known)]
    random.Random(0).shuffle(keys)
    figures = {"all agents with state": timed(lambda: len(one.store.agents.load(keys)))}
    figures["all summaries"] = timed(lambda: sum(1 for _ in one.store.agents.iterate()))
    figures["nothing unpublished"] = timed(lambda: sum(1 for _ in one.store.agents.iterate_unpublished(0, 1 << 40)))
    return figures


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cell(figures: tuple[float, float] | None) -> str:
    return "-" if figures is None else "{:,.1f} ms, {:,.1f} of CPU".format(*figures)


def agents_part(quick: bool) -> dict[str, Any]:
    """Print the tables of agents; returns their figures."""
    known, sizes, rounds = (2_000, (20, 1_000), 2) if quick else (100_000, (20, 1_000, 10_000, 100_000), 3)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, alternatives(Path(folder)) as found:
        written = measure(found, known, sizes, rounds)
        read = {one.name: reading(one, known) for one in found[:2]}
    columns = ("", *(f"{size:,} agents" for size in sizes))
    rows = [(name, *(_cell(figures.get(str(size))) for size in sizes)) for name, figures in written.items()]
    table(f"One commit of agents out of {known:,}", columns, rows)
    what = list(read[found[0].name])
    rows = [(name, *(f"{figures[one]:.2f} s" for one in what)) for name, figures in read.items()]
    table(f"Reading {known:,} agents", ("", *what), rows)
    return {"write_ms": written, "read_s": read}


def log_part(quick: bool) -> dict[str, Any]:
    """Print the tables of the event log; returns their figures."""
    rounds, pool, warm = (1, 1_000, 2_000) if quick else (7, 20_000, 60_000)
    cells = [Cell(1, 1, 100), Cell(16, 100, 160)] if quick else CELLS
    records = make_records(pool)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        figures, system = measure_logs(Path(folder), records, cells, rounds, warm), file_system(Path(folder))
    size = statistics.mean(len(record.payload) for record in records)
    columns = ("callers x records", "records/s", "p50, ms", "p99, ms")
    rows = [(cell, *(one[figure] for figure in ("per_s", "p50_ms", "p99_ms"))) for cell, one in figures.items()]
    table(f"Appends to the event log, a reader beside them, records of {size:.0f} bytes, {system}", columns, rows)
    what = ("write_us", "written", "kept", "follow_us", "read_per_s")
    costs = (
        "",
        "µs of CPU a record",
        "bytes written",
        "bytes kept",
        "µs of CPU to follow",
        "read again, records/s",
    )
    rows = [(cell, *(one[figure] for figure in what)) for cell, one in figures.items()]
    table("The same, a record's costs", costs, rows)
    return {"log": figures}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {"agents": agents_part, "log": log_part}


def main() -> int:
    """Print the tables; returns the exit status."""
    parser = options("store benchmark")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="run these parts alone")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in given.only:
        figures |= PARTS[name](given.quick)
    finish(machine("sqlalchemy", "psycopg") | {"sqlite": sqlite3.sqlite_version}, figures, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
