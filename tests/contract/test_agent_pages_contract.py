"""Pages of agents come as columns or as rows, and say the same: whatever stands in them, from every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustwatch.ingest.errors import Fenced
from trustwatch.scoring.records.agent_pages import AgentColumns, AgentPage, StateFormat
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.store.sql_store import SqlStore, open_store

FORMAT = StateFormat("v2:r2", 5, 3)
TEXTS = st.one_of(
    st.sampled_from(["", "\0", "\1", "\0012", "a\1", "2", "\1\0012\0", "é\0", "acme"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
BYTES = st.one_of(st.sampled_from([b"", b"[]", b"\0", b'["\\u0000"]']), st.binary(max_size=9))
KEYS = st.one_of(st.sampled_from([1, 2**63 - 1, 2**63, 2**64 - 1]), st.integers(1, 2**64 - 1))
STATES = st.one_of(  # mostly of the format; the others are of another version, or damaged
    st.tuples(st.binary(min_size=5, max_size=5), st.binary(min_size=3, max_size=3), st.just(FORMAT.state_version)),
    st.tuples(st.binary(max_size=7), st.binary(max_size=4), st.sampled_from([FORMAT.state_version, "v1:r2", "v2"])),
)
_partitions = count(1)


@st.composite
def stored_rows(draw: Any) -> list[AgentRow]:
    """Rows of up to a dozen agents with different keys."""
    rows = []
    for key in draw(st.lists(KEYS, unique=True, max_size=12)):
        tenant, issuer, agent_type, decision_id, counterfactual = (draw(TEXTS) for _ in range(5))
        features, risk, version = draw(STATES)
        name = AgentName(key, tenant, issuer, f"{draw(TEXTS)}{key}")
        numbers = (1, 0.5, 0.25, 0.125, 1, 2, 3, 4, 5)
        texts = decision_id, draw(BYTES), counterfactual
        seen = ("", draw(BYTES), draw(BYTES))
        state = {"features": features, "risk": risk, "state_version": version}
        rows.append(AgentRow(name, agent_type, *numbers, *texts, *seen, **state))
    return rows


def write(store: SqlStore, rows: list[AgentRow]) -> Position:
    """Write *rows* as all that a new partition has; agents of before are gone."""
    partition = next(_partitions)
    at = store.partitions.claim(partition)
    position = Position(partition, at.epoch, 1)
    store.commit(Commit(at, position, rows, [], [], []))
    return position


def remove(store: SqlStore, position: Position, rows: list[AgentRow]) -> None:
    after = Position(position.partition, position.epoch, position.offset + 1)
    store.commit(Commit(position, after, [], [], [], [], removed_agents=[row.name.key for row in rows]))


def read(store: SqlStore, position: Position, limit: int) -> list[AgentPage]:
    return list(pages_between(store, position, limit, None, None))


def pages_between(
    store: SqlStore, position: Position, limit: int, after: int | None, last: int | None
) -> Iterator[AgentPage]:
    page = store.agents.states_of_partition(position, after, limit, FORMAT, last)
    yield page
    while page.last_key is not None:
        page = store.agents.states_of_partition(position, page.last_key, limit, FORMAT, last)
        yield page


def as_plain(columns: AgentColumns) -> tuple[Any, ...]:
    return tuple(column.tolist() if isinstance(column, np.ndarray) else column for column in columns)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(stored_rows(), st.integers(1, 5))
def test_columns_say_what_rows_say(store: SqlStore, rows: list[AgentRow], limit: int) -> None:
    """Agents of the format come as columns, all others as rows, each once, in the order of keys as signed numbers."""
    position = write(store, rows)
    ordered = sorted(rows, key=lambda row: row.name.key - (2**64 if row.name.key >= 2**63 else 0))
    whole = store.agents.states_of_partition(position, None, 100)
    pages = read(store, position, limit)
    remove(store, position, rows)
    assert whole == AgentPage(None, ordered, None)
    fitting = [row for row in ordered if FORMAT.holds(row)]
    assert [row for page in pages for row in page.rows] == [row for row in ordered if not FORMAT.holds(row)]
    columns = [page.columns for page in pages if page.columns is not None]
    assert all(0 < one.agent_count <= limit for one in columns)
    places = [as_plain(one.part(at, at + 1)) for one in columns for at in range(one.agent_count)]
    assert places == [as_plain(AgentColumns.of_rows([row], FORMAT)) for row in fitting]
    assert len(pages) == len(ordered) // limit + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(stored_rows(), st.integers(1, 5), KEYS)
def test_ranges_of_keys_are_the_whole(store: SqlStore, rows: list[AgentRow], limit: int, border: int) -> None:
    """Pages up to a key and pages behind it hold each agent once, whether somebody has that key or not."""
    position = write(store, rows)
    whole = [key for page in read(store, position, 100) for key in keys_of(page)]
    below = [key for page in pages_between(store, position, limit, None, border) for key in keys_of(page)]
    above = [key for page in pages_between(store, position, limit, border, None) for key in keys_of(page)]
    remove(store, position, rows)
    assert sorted(below + above) == sorted(whole) == sorted(row.name.key for row in rows)
    assert all(signed(key) <= signed(border) for key in below) and all(signed(key) > signed(border) for key in above)


def keys_of(page: AgentPage) -> list[int]:
    keys = [] if page.columns is None else page.columns.keys.tolist()
    assert len(keys) + len(page.rows) == page.agent_count
    return [*keys, *(row.name.key for row in page.rows)]


def signed(key: int) -> int:
    return key - 2**64 if key >= 2**63 else key


def test_pages_are_of_ones_own_partition(store: SqlStore) -> None:
    """Whoever lost it reads nothing."""
    name = AgentName(7, "acme", "https://as", "a")
    row = AgentRow(
        name,
        "X",
        1,
        0.5,
        0.5,
        0.5,
        1,
        2,
        3,
        0,
        5,
        "",
        b"[]",
        "",
        features=b"12345",
        risk=b"123",
        state_version=FORMAT.state_version,
    )
    position = write(store, [row])
    assert read(store, write(store, []), 2) == [AgentPage(None, [], None)]
    (page,) = read(store, position, 2)
    assert page.columns is not None and page.columns.agent_ids == ["a"]
    store.partitions.claim(position.partition)
    with pytest.raises(Fenced):
        store.agents.states_of_partition(position, None, 2, FORMAT)


@pytest.mark.integration
def test_a_text_that_others_wrote(postgres_store_url: str) -> None:
    """A mark of escapes before what we never write there is left as it is."""
    from sqlalchemy import text

    with closing(open_store(postgres_store_url)) as store:
        rows = [
            AgentRow(
                AgentName(key, "acme", "https://as", f"a{key}"),
                *("X", 1, 0.5, 0.5, 0.5, 1, 2, 3, 0, 5, "", b"[]", ""),
                features=b"12345",
                risk=b"123",
                state_version=FORMAT.state_version,
            )
            for key in (1, 2, 3)
        ]
        position = write(store, rows)
        with store.agents._database.write() as connection:
            connection.execute(text("UPDATE agents SET agent_type = E'X\\x012Y' WHERE key = 2"))
        (page,) = read(store, position, 5)
        assert page.columns is not None
        assert page.columns.agent_ids == ["a1", "a2", "a3"]
        assert [row.agent_type for row in store.agents.states_of_partition(position, None, 5).rows] == (
            page.columns.agent_types
        )
