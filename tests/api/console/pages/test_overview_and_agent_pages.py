"""The overview, the list of agents, and the page of an agent."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.agents.recent_events import DecisionMoment, EventLocations, load_event_history
from trustwatch.ingest.printable_text import shown_controls
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.records.agents import AgentName

HOSTILE = (
    "<script>alert(1)</script>",
    "https://agents.example/a?b=c&d=%2F#x",
    '"><img src=x onerror=alert(1)>',
    "spiffe://x/y z",
    "line\nbreak\r\nevent: end",
    "'; DROP TABLE agents; --",
    "{{ 7*7 }}",
    "ü\u202eevil",
    "a" * 2048,
)


def page_of(site: Any, agent_id: str, tenant: str = "acme", path: str = "/console/agent") -> Any:
    return site.browser.get(path, params={"id": agent_id, "tenant": tenant, "issuer": "https://as.example"})


def log(site: Any, *events: dict[str, Any]) -> None:
    records = [
        Record(RecordKind.EVENT, number + 1, int(site.clock.now * 1000), msgspec.json.encode(event), b"")
        for number, event in enumerate(events)
    ]
    site.wait(site.log.commit(records))


def event_of(agent_id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "e",
        "time": "2025-11-24T16:00:00Z",
        "type": "tool.call",
        "tenant": "acme",
        "action": "read_file",
        "agent": {"id": agent_id, "issuer": "https://as.example"},
        "outcome": "success",
        **more,
    }


@pytest.mark.parametrize("agent_id", HOSTILE)
def test_whatever_an_agent_is_called_is_text(site: Any, make_row: Any, make_decision: Any, agent_id: str) -> None:
    row = make_row(agent_id, level=4, decision_id=f"d-{len(agent_id)}", agent_type=agent_id)
    site.know(row, decisions=(make_decision(row, len(agent_id)),))
    log(site, event_of(agent_id, action=agent_id, resource={"id": agent_id}))
    site.sign_in("soc")
    pages = [
        site.browser.get("/console/"),
        site.browser.get("/console/agents"),
        page_of(site, agent_id),
        page_of(site, agent_id, path="/console/agent/events"),
    ]

    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text and "<img" not in page.text
        assert "\u202e" not in re.sub(r'value="[^"]*"', "", page.text)  # fields of forms send names back as they are
        assert escape(shown_controls(agent_id), quote=False)[:40] in page.text.replace("&#34;", '"').replace(
            "&#39;", "'"
        )


def test_recent_events_are_those_of_the_agent(site: Any, make_row: Any) -> None:
    site.know(make_row("busy"), make_row("idle"))
    other = event_of("busy", action="other_tenant", tenant="globex")
    own = [event_of("busy", action=f"step_{number}", principal={"id": "ada"}) for number in range(3)]
    log(site, own[0], other, event_of("busy-2", action="other_agent"), *own[1:])
    site.sign_in("soc")
    text = page_of(site, "busy", path="/console/agent/events").text

    assert "3 events among the last" in text
    assert text.index('<td data-name="Outcome"') and text.rindex("step_2") < text.rindex("step_0")
    assert "other_tenant" not in text and "other_agent" not in text
    assert "None of its events" in page_of(site, "idle", path="/console/agent/events").text


def test_a_person_fixes_a_level_and_ends_that(site: Any, make_row: Any) -> None:
    row = make_row("pinned", level=1)
    site.know(row)
    site.sign_in("soc")
    named = {"id": "pinned", "tenant": "acme", "issuer": row.name.issuer}
    done = site.post("/console/agent/pin", **named, level="critical", why="key leaked", valid_s="3600")
    page = site.browser.get(done.headers["location"]).text
    made = site.store.interventions.page(None, "pin", "active", row.name).items[0]
    ended = site.post("/console/agent/unpin", **named, why="new key")
    after = site.browser.get(ended.headers["location"]).text

    assert (done.status_code, made.decided_by, made.why, made.level) == (303, "console:u-1", "key leaked", 4)
    assert "The level is fixed" in page and "no authorization server is notified" in page
    assert "no longer fixed" in after and "Tokens it has</dt><dd>stay" in after


def test_a_person_releases_an_agent(site: Any, make_row: Any) -> None:
    row = make_row("held", level=4)
    site.know(row)
    site.sign_in("soc")
    named = {"id": "held", "tenant": "acme", "issuer": row.name.issuer}
    before = site.event_log.next_offset
    refused = site.post("/console/agent/release", **named, why=" ")
    done = site.post("/console/agent/release", **named, why="announced")

    assert refused.status_code == 422 and "say why" in refused.text
    assert done.status_code == 303
    assert site.event_log.next_offset == before + 1


@pytest.mark.parametrize("wrong", [{"level": "extreme"}, {"valid_s": "1"}, {"valid_s": "soon"}, {"why": ""}])
def test_a_wrong_wish_is_refused_with_what_to_change(site: Any, make_row: Any, wrong: dict[str, str]) -> None:
    row = make_row("wished")
    site.know(row)
    site.sign_in("soc")
    wish = {"id": "wished", "tenant": "acme", "issuer": row.name.issuer, "level": "high", "why": "w", "valid_s": "60"}
    answer = site.post("/console/agent/pin", **{**wish, **wrong})

    assert answer.status_code == 422
    assert next(iter(wrong)) in answer.text
    assert not site.store.interventions.page(None, "pin", None, row.name).items


def test_a_broken_log_is_no_broken_page(tmp_path: Path) -> None:
    places = EventLocations(tmp_path / "none", None)
    found = load_event_history(places, AgentName(1, "t", "i", "a"), DecisionMoment(), ())
    assert (found.logged, found.whole, found.events) == (None, False, [])
