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
