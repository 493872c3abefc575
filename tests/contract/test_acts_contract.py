"""What every store promises about acts of people: one order over all tables, nothing twice, nothing of others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from tests.support.stored_rows import NOW, agent, commit, decision, name, said, step
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.records.models import ModelHistoryEntry
from trustwatch.scoring.records.security_events import POLL_METHOD, EventStream
from trustwatch.scoring.store import act_store
from trustwatch.scoring.store.act_store import ActFilters
from trustwatch.scoring.store.database import BadCursor, to_cursor
from trustwatch.scoring.store.sql_schema import CASE_ENTRIES
from trustwatch.scoring.store.sql_store import SqlStore

BOT, OTHER = name("bot"), name("other", "globex")


def intervention(number: int, **values: Any) -> Intervention:
    made = Intervention(
        f"I{number}", "pin", "active", BOT, 4, (), "leaked", "ann", NOW, "ann", NOW, "leaked", NOW + 10**7, NOW
    )
    return msgspec.structs.replace(made, **values)


def entry(sequence: int, by: str, action: str, tenant: str = "acme", at_ms: int = NOW) -> dict[str, Any]:
    detail = b'{"verdict":"true"}' if action == "closed" else b"{}"
    row = {"case_id": f"case-{tenant}", "sequence": sequence, "tenant": tenant, "at_ms": at_ms, "by": by}
    return row | {"action": action, "note": f"note {sequence}", "detail": detail}


def fill(store: SqlStore) -> None:
    """One act of each kind, many of the same moment, beside what the service does by itself."""
    for number, values in enumerate(
        (
            {},
            {"status": "ended", "decided_by": "bob", "decided_ms": NOW + 5, "why": "over"},
            {"status": "expired"},
            {"kind": "approval", "status": "approved", "asked_by": "hydra", "scopes": ("pay",), "decided_by": "cid"},
            {"kind": "approval", "status": "pending", "asked_by": "hydra", "decided_by": "", "decided_ms": 0},
            {"kind": "approval", "status": "ended", "asked_by": "hydra", "decided_by": "bob", "decided_ms": NOW + 7},
            {"agent": OTHER},
        )
    ):
        store.interventions.add(intervention(number, **values))
    with store.database.write() as connection:
        rows = [entry(1, "trustwatch", "opened"), entry(2, "ann", "acknowledged"), entry(11, "ann", "closed")]
        connection.execute(insert(CASE_ENTRIES), [*rows, entry(1, "gil", "noted", "globex")])
    for one in (said(1), said(2, revoked_by="bob", revoked_ms=NOW + 9, revoked_why="wrong"), said(3, agent=OTHER)):
        store.feedback.add(one, step(one))
    for tenant, by in (("acme", "ann"), ("globex", "gil"), ("acme", "trustwatch")):
        whom = (tenant, "", "gone", "00", "00")
        store.erasures.add(Erasure(f"E-{tenant}-{by}", "principal", "done", *whom, "asked to be", by, NOW))
    for number, (act, by) in enumerate((("promoted", "ann"), ("switched", "pipeline"), ("rejected", "keeper"))):
        line = ModelHistoryEntry(f"M{number}", NOW, "m1", act, by, "better", {"forced": True})  # type: ignore[arg-type]
        store.models.update([], [line])
    store.security_events.add_stream(EventStream("S1", "peer", "aud", NOW, NOW, ("u",), POLL_METHOD, "", "", ""), 10)
    commit(
        store,
        agents=[agent(BOT, 1)],
        decisions=[
            decision(1, BOT),
            *(
                msgspec.structs.replace(
                    decision(number, whom),
                    cause="release",
                    decided_ms=NOW,
                    level=1,
                    reasons=(RiskReason("released", "release", "dot", "", 1.0, "released by dot: CHG-1"),),
                )
                for number, whom in ((2, BOT), (3, OTHER))
            ),
            *(decision(number, BOT) for number in range(4, 9)),
        ],
    )


def told(acts: Any) -> list[tuple[str, ...]]:
    return [(act.kind, act.action, act.by, act.subject_id) for act in acts]


ALL = {
    ("pin", "pin", "ann", "I0"),
    ("pin", "pin", "ann", "I1"),
    ("pin", "unpin", "bob", "I1"),
    ("pin", "pin", "ann", "I2"),
    ("approval", "approve", "cid", "I3"),
    ("approval", "withdraw", "bob", "I5"),
    ("pin", "pin", "ann", "I6"),
    ("case", "acknowledged", "ann", "case-acme"),
    ("case", "closed", "ann", "case-acme"),
    ("case", "noted", "gil", "case-globex"),
    ("feedback", "judge", "ann", "F0001"),
    ("feedback", "judge", "ann", "F0002"),
    ("feedback", "revoke", "bob", "F0002"),
    ("feedback", "judge", "ann", "F0003"),
    ("erasure", "erase", "ann", "E-acme-ann"),
    ("erasure", "erase", "gil", "E-globex-gil"),
    ("model", "promoted", "ann", "m1"),
    ("stream", "create", "peer", "S1"),
    ("release", "release", "dot", "D2"),
    ("release", "release", "dot", "D3"),
}
GLOBEX = {
    ("pin", "pin", "ann", "I6"),
    ("case", "noted", "gil", "case-globex"),
    ("feedback", "judge", "ann", "F0003"),
    ("erasure", "erase", "gil", "E-globex-gil"),
    ("release", "release", "dot", "D3"),
}


def walk(store: SqlStore, limit: int, filters: ActFilters | None = None, tenants: Any = None) -> list[Any]:
    acts: list[Any] = []
    cursor: str | None = None
    for _ in range(200):
        page = store.acts.page(tenants, filters, limit, cursor)
        acts += page.items
        cursor = page.next_cursor
        if cursor is None:
            return acts
    raise AssertionError("the pages never end")


def test_every_act_is_met_once_whatever_the_pages(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, over all tables, also where many are of the same millisecond and releases are read in parts."""
    fill(store)
    whole = walk(store, 500)
    assert sorted(told(whole)) == sorted(ALL)
    assert [act.at_ms for act in whole] == sorted((act.at_ms for act in whole), reverse=True)

    for read_at_once in (1, 2, 3, 10_000):
        monkeypatch.setattr(act_store, "RELEASES_READ", read_at_once)
        for limit in (1, 2, 3, 7, 500):
            assert walk(store, limit) == whole, (read_at_once, limit)


def test_acts_say_who_what_when_and_why(store: SqlStore) -> None:
    """In the words of who did it."""
    fill(store)
    acts = {(act.kind, act.action, act.subject_id): act for act in walk(store, 500)}

    pin, release = acts["pin", "pin", "I0"], acts["release", "release", "D2"]
    assert (pin.at_ms, pin.why, pin.detail, pin.agent, pin.tenant) == (NOW, "leaked", "as critical", BOT, "acme")
    assert (release.why, release.detail, release.agent) == ("CHG-1", "to low", BOT)
    assert acts["case", "closed", "case-acme"].detail == "verdict true"
    assert acts["approval", "approve", "I3"].detail == "pay"
    assert acts["feedback", "revoke", "F0002"].why == "wrong"
    assert acts["model", "promoted", "m1"].detail == "against the figures"
    assert acts["model", "promoted", "m1"].tenant is None


def test_readers_of_a_tenant_see_its_acts_alone(store: SqlStore) -> None:
    """Nothing of others, nothing of the deployment."""
    fill(store)

    assert set(told(walk(store, 3, tenants=("globex",)))) == GLOBEX
    assert walk(store, 3, tenants=("nobody",)) == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (ActFilters(by="bob"), {one for one in ALL if one[2] == "bob"}),
        (ActFilters(by="dot"), {one for one in ALL if one[2] == "dot"}),
        (ActFilters(by="trustwatch"), set()),
        (ActFilters(kind="pin"), {one for one in ALL if one[0] == "pin"}),
        (ActFilters(kind="release"), {one for one in ALL if one[0] == "release"}),
        (ActFilters(agent=OTHER), {one for one in GLOBEX if one[0] not in ("case", "erasure")}),
        (ActFilters(since_ms=NOW + 6), {one for one in ALL if one[1] in ("withdraw", "revoke")}),
        (ActFilters(until_ms=NOW), set()),
    ],
    ids=["bob", "dot", "service", "pins", "releases", "agent", "since", "until"],
)
def test_acts_are_narrowed(store: SqlStore, filters: ActFilters, found: set[tuple[str, ...]]) -> None:
    """By person, kind, agent and time; pages of two."""
    fill(store)

    assert set(told(walk(store, 2, filters))) == found


def test_a_cursor_of_another_list_is_refused(store: SqlStore) -> None:
    """As everywhere."""
    for values in (["x"], [1, "x"], [2**63, "pin", "x", 0], [1, "pin", "x\0", 0]):
        with pytest.raises(BadCursor):
            store.acts.page(cursor=to_cursor(values))
