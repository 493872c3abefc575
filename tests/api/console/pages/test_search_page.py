"""The search of the console: the box, what is found, and how names lead to it."""

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
    """A console with two agents that rose, one of them of another tenant."""
    site = new_site()
    for number, (agent_id, tenant) in enumerate([(HOSTILE, "acme"), ("theirs", "globex")], 1):
        row = make_row(agent_id, tenant, level=3, decision_id=f"d-{number}")
        shown = [{"kind": "network", "value": "AS65537", "status": "new", "at": "2025-11-24T16:00:00Z"}]
        made = make_decision(row, number, evidence={"indicators": shown})
        site.know(row, decisions=(made,))
        site.store.outbox.enqueue([build_alert_row(made, {}, "https://trust.example")])
        site.store.outbox.route([DeliveryRoute("soc", "alert", frozenset(range(5)), 900_000)], NOW_MS)
    return site


def test_what_fits_is_shown_and_nothing_of_others(desk: Any) -> None:
    """Agents, cases and decisions at once, events when the page has been shown; names are text."""
    desk.sign_in("soc")
    shown = desk.browser.get("/console/search", params={"q": "network:AS65537"})
    assert shown.status_code == 200
    assert "/console/cases/case-d-1" in shown.text
    assert "/console/decisions/d-1" in shown.text
    assert "theirs" not in shown.text
    assert "<script>alert" not in shown.text
    assert "<img" not in shown.text
    assert 'hx-get="/console/search/events?q=network%3AAS65537"' in shown.text
    assert "No event fits" in desk.browser.get("/console/search/events", params={"q": "network:AS65537"}).text
    assert (
        "No case, no agent, no person, no decision fits"
        in desk.browser.get("/console/search", params={"q": "theirs"}).text
    )


def test_a_query_that_can_not_be_read_says_why(desk: Any) -> None:
    """What was typed stays in the box, as text."""
    desk.sign_in("soc")
    wrong = desk.browser.get("/console/search", params={"q": "level:<img src=x>"})
    assert wrong.status_code == 400
    assert "The query has level:&lt;img; there are unknown, low, medium" in wrong.text
    assert "<img" not in wrong.text
    assert "Nothing has all of these fields" in desk.browser.get("/console/search?q=owner:a+action:b").text
    told = desk.browser.get("/console/search", params={"q": "adress:1"}).text
    assert "is no field" in told


def test_the_box_is_on_every_page_of_who_may_read(desk: Any) -> None:
    """And the page alone says how to search."""
    desk.sign_in("soc")
    assert 'action="/console/search"' in desk.browser.get("/console/").text
    help_text = desk.browser.get("/console/search").text
    assert "stands for anything" in help_text
    assert "address:" in help_text


def test_what_an_agent_came_with_leads_to_the_search(desk: Any) -> None:
    """Each indicator is a link."""
    desk.sign_in("soc")
    assert 'href="/console/search?q=network%3A%22AS65537%22"' in desk.browser.get("/console/decisions/d-1").text


def test_events_are_a_page_of_their_own_without_scripts(desk: Any) -> None:
    """And a part of the page for the page."""
    desk.sign_in("soc")
    path, asked = "/console/search/events", {"q": "bot"}
    assert "<h1>Events that fit</h1>" in desk.browser.get(path, params=asked).text
    part = desk.browser.get(path, params=asked, headers={"HX-Request": "true"}).text
    assert "<html" not in part
    assert "No event fits" in part


def test_lists_are_kept_as_files(desk: Any) -> None:
    """What fits and may be seen, as a table or as JSON; a name that a spreadsheet would calculate is text."""
    desk.sign_in("soc")
    for name, has in (("decisions", "d-1"), ("cases", "case-d-1"), ("agents", "<script>")):
        table = desk.browser.get(f"/console/{name}/file.csv")
        assert table.headers["content-type"].startswith("text/csv")
        assert f'filename="{name}.csv"' in table.headers["content-disposition"]
        assert has in table.text
        assert "theirs" not in table.text
        body = desk.browser.get(f"/console/{name}/file.json").json()
        assert body["complete"] is True
        assert len(body[name]) == 1
        assert f"/console/{name}/file.csv" in desk.browser.get(f"/console/{name}").text
        assert desk.browser.get(f"/console/{name}/file.xls").status_code == 422
