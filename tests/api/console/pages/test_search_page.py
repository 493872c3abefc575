"""The search box of the console, lists that it leads to, and their files."""

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


@pytest.mark.parametrize(
    ("q", "place"),
    [
        ("case-d-1", "/console/cases/case-d-1"),
        (" d-1 ", "/console/decisions/d-1"),
        (HOSTILE, "/console/agent?tenant=acme&issuer=https%3A%2F%2Fas.example&id=%3Cscript%3E"),
        ("SCRIPT", "/console/agents?text=SCRIPT"),
        ("AS65537", "/console/decisions?indicator=AS65537"),
        ("", "/console/agents"),
        # Of another tenant: as if there were none.
        ("case-d-2", "/console/decisions?indicator=case-d-2"),
        ("d-2", "/console/decisions?indicator=d-2"),
        ("theirs", "/console/decisions?indicator=theirs"),
        ("https://elsewhere.example/\r\nSet-Cookie: a=b", "/console/decisions?indicator=https%3A%2F%2Felsewhere"),
    ],
)
def test_an_id_leads_to_the_thing_and_another_text_to_a_list(desk: Any, q: str, place: str) -> None:
    desk.sign_in("soc")
    answer = desk.browser.get("/console/search", params={"q": q}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(place)


def test_what_an_agent_came_with_leads_to_the_decisions_that_came_with_it(desk: Any) -> None:
    """Each indicator is a link; the list has no decision of others, and none that came with something else."""
    desk.sign_in("soc")
    link = "/console/decisions?indicator=AS65537"
    assert f'href="{link}"' in desk.browser.get("/console/decisions/d-1").text
    listed = desk.browser.get(link).text
    assert "/console/decisions/d-1" in listed
    assert "theirs" not in listed
    assert (
        "No decision fits among the 1 that were looked at" in desk.browser.get("/console/decisions?indicator=AS1").text
    )
    assert 'href="/console/decisions?indicator=AS1"' in desk.browser.get("/console/agents?text=AS1").text


def test_lists_are_kept_as_files(desk: Any) -> None:
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
