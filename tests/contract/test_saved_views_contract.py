"""Saved views of the console's lists, on each kind of store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from trustwatch.scoring.store import saved_view_store
from trustwatch.scoring.store.migrate import migrate
from trustwatch.scoring.store.read_scope import ReadScope, UnscopedRead, reads_of
from trustwatch.scoring.store.saved_view_store import SavedView
from trustwatch.scoring.store.sql_schema import SAVED_VIEWS, SHARED_VIEWS
from trustwatch.scoring.store.sql_store import SqlStore

from ..support.stored_rows import NOW

ANN, BOB = "console:ann", "console:bob"


def view(view_id: str, name: str, owner: str = ANN, tenant: str | None = None, page: str = "agents") -> SavedView:
    return SavedView(view_id, page, name, {"level": ["high", "critical"], "text": [""]}, owner, tenant, NOW)


def test_each_sees_their_own_and_what_is_shared_with_their_tenants(store: SqlStore) -> None:
    """By page, own ones first, each by name; as they were saved."""
    own, other, elsewhere = view("1", "zoo"), view("2", "theirs", BOB), view("3", "cases", page="cases")
    shared, foreign, nameless = (
        view("4", "all", BOB, "acme"),
        view("5", "all", BOB, "globex"),
        view("6", "all", BOB, ""),
    )
    for one in (own, other, elsewhere, shared, foreign, nameless):
        assert store.saved_views.save(one)

    assert store.saved_views.list_views("agents", ANN, ("acme",)) == [own, shared]
    assert store.saved_views.list_views("agents", BOB, ("acme", "")) == [other, nameless, shared]
    assert store.saved_views.list_views("agents", ANN, None) == [own, nameless, shared, foreign]
    assert store.saved_views.list_views("cases", ANN, ()) == [elsewhere]
    assert store.saved_views.find("1", ANN, ()) == own
    assert store.saved_views.find("4", ANN, ("acme",)) == shared
    for hidden in ("2", "5", "none"):
        assert store.saved_views.find(hidden, ANN, ("acme",)) is None


def test_a_name_is_given_once_on_a_page(store: SqlStore) -> None:
    """Saving overwrites, giving a name that is taken does not; other pages and other holders do not count."""
    for one in (
        view("1", "night"),
        view("2", "day"),
        view("3", "night", page="cases"),
        view("4", "night", ANN, "acme"),
    ):
        assert store.saved_views.save(one)
    again = msgspec.structs.replace(view("5", "night"), query={"tenant": ["acme"]})
    assert store.saved_views.save(again)
    assert store.saved_views.list_views("agents", ANN, ()) == [view("2", "day"), again]

    assert not store.saved_views.rename(again, "day", NOW + 1)
    assert store.saved_views.rename(again, "dusk", NOW + 1)
    assert store.saved_views.rename(view("4", "night", ANN, "acme"), "dusk", NOW + 2)
    assert [one.name for one in store.saved_views.list_views("agents", ANN, ("acme",))] == ["day", "dusk", "dusk"]
    store.saved_views.delete(again)
    left = [one.view_id for one in store.saved_views.list_views("agents", ANN, ("acme",))]
    assert left == ["2", "4"]


def test_views_are_bounded(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By person and by tenant, over all pages; one in the place of another always fits."""
    monkeypatch.setattr(saved_view_store, "MAX_VIEWS", 2)
    save = store.saved_views.save
    assert save(view("1", "a"))
    assert save(view("2", "b", page="cases"))
    assert not save(view("3", "c"))
    assert save(view("4", "a"))
    assert [one.view_id for one in store.saved_views.list_views("agents", ANN, ())] == ["4"]
    assert all(save(view(f"s{number}", f"{number}", ANN, "acme")) for number in range(2))
    assert not save(view("s3", "3", BOB, "acme"))
    assert save(view("s4", "3", BOB, "globex"))


def test_a_caller_reads_no_others(store: SqlStore) -> None:
    """Neither another person's, nor another tenant's."""
    with reads_of(ReadScope(("acme",), ANN)):
        assert store.saved_views.list_views("agents", ANN, ("acme",)) == []
        for owner, tenants in ((BOB, ("acme",)), (ANN, ("globex",)), (ANN, None)):
            with pytest.raises(UnscopedRead):
                store.saved_views.list_views("agents", owner, tenants)


def test_two_that_save_one_name_at_once_leave_one(store: SqlStore) -> None:
    """The database holds a name once, whoever is first; a name that somebody takes meanwhile is not given."""
    with ThreadPoolExecutor(8) as threads:
        saved = list(threads.map(lambda number: store.saved_views.save(view(f"{number}", "night")), range(16)))
    assert all(saved)
    assert [one.name for one in store.saved_views.list_views("agents", ANN, ())] == ["night"]
    with store.database.write() as connection, pytest.raises(IntegrityError):
        connection.execute(text("INSERT INTO saved_views SELECT 'x', owner, page, name, 0, query FROM saved_views"))


def test_a_store_from_before_keeps_the_last_of_one_name(store: SqlStore) -> None:
    """Views that a race doubled in an older store: the one that was changed last stays, others are not touched."""
    engine, rows = store.database.writing_engine, []
    with engine.begin() as connection:
        for table, holder in (("saved_views", "owner"), ("shared_views", "tenant")):
            connection.execute(text(f"DROP INDEX ix_{table}_{holder}"))
            connection.execute(text(f"CREATE INDEX ix_{table}_{holder} ON {table} ({holder}, page)"))
        connection.execute(text("ALTER TABLE agents DROP COLUMN announced_paths"))  # of 0020, which comes again
        connection.execute(text("DROP TABLE checkpoints"))  # of 0021
        connection.execute(text("DROP TABLE snapshots"))  # of 0023
        connection.execute(text("CREATE INDEX ix_edges_time ON edges (last_ms)"))  # until 0022
        connection.execute(text("CREATE TABLE case_threads (case_id TEXT)"))  # until 0024
        connection.execute(text("ALTER TABLE agents DROP COLUMN capabilities"))  # of 0025
        connection.execute(text("UPDATE alembic_version SET version_num = '0018'"))
        for number, (name, at_ms) in enumerate([("night", 5), ("night", 9), ("night", 9), ("day", 1)]):
            common = {"page": "agents", "name": name, "changed_ms": at_ms, "query": b"{}"}
            rows.append(common | {"view_id": f"v{number}", "owner": ANN})
            connection.execute(insert(SAVED_VIEWS), rows[-1])
            shared = common | {"view_id": f"s{number}", "tenant": "acme", "shared_by": BOB}
            connection.execute(insert(SHARED_VIEWS), shared)
        connection.execute(insert(SAVED_VIEWS), rows[0] | {"view_id": "other", "owner": BOB})

    migrate(engine)

    assert [one.view_id for one in store.saved_views.list_views("agents", ANN, ("acme",))] == ["v3", "v2", "s3", "s2"]
    assert [one.view_id for one in store.saved_views.list_views("agents", BOB, ())] == ["other"]
    assert not store.saved_views.rename(view("v2", "night"), "day", NOW)
