"""Cases in the console: the list, one case, its timeline, and the forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.store.outbox_store import DeliveryRoute

from ....support.console_records import NOW_MS

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


@pytest.fixture
def desk(new_site: Callable[..., Any], make_row: Any, make_decision: Any) -> Any:
    site = new_site()
    site.decisions = []

    def raise_agent(number: int, agent_id: str, tenant: str = "acme", level: int = 3, **new: str) -> None:
        row = make_row(agent_id, tenant, level=level, decision_id=f"d-{number}")
        at = "2025-11-24T16:00:00Z"
        shown = [{"kind": kind, "value": value, "status": "new", "at": at} for kind, value in new.items()]
        made = make_decision(row, number, evidence={"indicators": shown})
        site.know(row, decisions=(made,))
        site.store.outbox.enqueue([build_alert_row(made, {}, "https://trust.example")])
        site.store.outbox.route([DeliveryRoute("soc", "alert", frozenset(range(5)), 900_000)], NOW_MS)

    site.raise_agent = raise_agent
    raise_agent(1, "first-agent", network="AS65537")
    raise_agent(2, HOSTILE, level=4, network="AS65537")
    raise_agent(3, "theirs", "globex")
    return site


CASE = "/console/cases/case-d-1"


def test_acts_and_the_page_read_no_entries(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.sign_in("soc")
    monkeypatch.delattr(type(desk.store.cases), "entries")
    assert desk.browser.get(CASE).status_code == 200
    for act, more in (("acknowledge", {}), ("notes", {"note": "seen"}), ("split", {"agent-2": "1", "note": "apart"})):
        assert desk.post(f"{CASE}/{act}", **more).status_code == 303


@pytest.mark.parametrize(
    ("act", "field", "value"),
    [("contain", "valid_s", value) for value in ("nan", "inf", "-inf", "1e308", "-5", "0")]
    + [("snooze", "for_s", value) for value in ("nan", "inf", "-1")]
    + [("close", "revision", "9" * 5000), ("contain", "revision", "9" * 5000)],
)
def test_numbers_that_are_none_change_nothing(desk: Any, act: str, field: str, value: str) -> None:
    desk.sign_in("soc")
    given = {"note": "why", "valid_s": "3600", "for_s": "3600", "pin": "1", "verdict": "false"}
    answer = desk.post(f"{CASE}/{act}", **{**given, field: value})
    assert answer.status_code in (409, 422)
    case = desk.store.cases.get("case-d-1")
    assert (case.status, case.held_until_ms, case.snoozed_until_ms) == ("open", 0, 0)


def test_a_case_is_worked_on_by_its_forms(desk: Any) -> None:
    desk.sign_in("soc")

    def act(action: str, status: int = 303, case: str = CASE, **form: str) -> str:
        answer = desk.post(f"{case}/{action}", **form)
        assert answer.status_code == status, answer.text
        return answer.headers.get("location", "") or answer.text

    after = desk.browser.get(act("acknowledge")).text
    assert "The case is acknowledged" in after
    assert "owner: Ada" in after or "owner: console:" in after
    act("notes", note="looks like one campaign")
    act("snooze", for_s="3600", note="the team is on it")
    assert "Snoozed until" in desk.browser.get(CASE).text
    act("contain", note="stop them", valid_s="3600", pin="1")
    pinned = desk.store.interventions.page(kind="pin").items
    assert sorted(pin.agent.agent_id for pin in pinned) == sorted(["first-agent", HOSTILE])
    fresh = act("split", note="another thing", **{"agent-2": "1"})
    assert "done=split" in fresh
    split_id = fresh.partition("/console/cases/")[2].partition("?")[0]
    act("merge", other=split_id)
    assert "Nothing was done: verdict" in act("close", 422, note="x")
    assert "Nothing was done: note" in act("close", 422, verdict="false")
    closed = desk.browser.get(act("close", verdict="false", note="a new proxy")).text
    assert "closed as false" in closed
    assert "Reopen" in closed
    assert "case_closed" not in act("acknowledge", 409)
    assert "Nothing waits" in desk.browser.get("/console/cases").text
    act("reopen", note="not so sure")
    assert desk.browser.post(f"{CASE}/close", data={"verdict": "false", "note": "x"}).status_code == 403
    assert act("nonsense", 422)
    seen = desk.browser.get(CASE).text.partition('name="revision" value="')[2].partition('"')[0]
    act("notes", note="somebody else was here")
    assert "was changed meanwhile" in act("close", 409, verdict="false", note="x", revision=seen)


def test_readers_look_and_do_nothing(desk: Any) -> None:
    desk.sign_in("readers")
    assert "acting needs the scope" in desk.browser.get(CASE).text
    assert desk.post(f"{CASE}/acknowledge").status_code == 403
