"""The overview, the list of agents, and the page of an agent."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.api.agents.recent_events import DecisionMoment, EventLocations, load_event_history
from trustwatch.ingest.features import layout
from trustwatch.ingest.printable_text import shown_controls
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.records.agents import AgentName

from ....support.console_records import AS, decision_of, row_of

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
    """Events, durable as the door makes them."""
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
    """Ids are URLs, markup or worse: they are shown, direction marks written out, and nothing of them is obeyed."""
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


def test_a_link_of_the_list_finds_its_agent(site: Any, make_row: Any) -> None:
    site.know(*(make_row(one) for one in HOSTILE))
    site.sign_in("soc")
    listed = site.browser.get("/console/agents").text
    links = {link.replace("&amp;", "&") for link in re.findall(r'href="(/console/agent\?[^"]+)"', listed)}

    assert len(links) >= len(HOSTILE)
    assert all(site.browser.get(link).status_code == 200 for link in links)


def test_the_page_of_an_agent_says_why(site: Any, make_row: Any, make_decision: Any) -> None:
    """The decision that set the level: observed against usual, and what would have kept it lower."""
    row = make_row("turned", level=3, decision_id="d-900")
    site.know(row, decisions=(make_decision(row, 900),))
    site.sign_in("soc")
    text = page_of(site, "turned").text

    assert "first use of acct-9001" in text and "42 known accounts" in text
    assert "medium if at most 2 new accounts per hour" in text
    assert "data-figure=" in text
    assert 'href="/console/decisions/d-900"' in text
    assert "enforce" in text and "Policy version 3" in text


def test_why_an_agent_is_listed_is_why_it_is_there(site: Any, make_row: Any, make_decision: Any) -> None:
    late = msgspec.json.encode([{"text": "something harmless"}])
    row = make_row("listed", level=3, decision_id="d-910", reasons=late)
    site.know(row, decisions=(make_decision(row, 910),))
    site.sign_in("soc")

    assert "first use of acct-9001" in site.browser.get("/console/agents", params={"text": "listed"}).text
    assert "something harmless" not in site.browser.get("/console/").text


def test_filters_narrow_the_list(site: Any, make_row: Any) -> None:
    site.know(make_row("filter-one", level=2, agent_type="Sorter"), make_row("filter-two", level=1))
    site.sign_in("soc")

    def ids(**wanted: str) -> set[str]:
        text = site.browser.get("/console/agents", params=wanted, headers={"HX-Request": "true"}).text
        assert "<html" not in text
        return set(re.findall(r">(filter-[a-z]+)<", text))

    assert ids(text="FILTER") == {"filter-one", "filter-two"}
    assert ids(level="medium") == {"filter-one"}
    assert ids(type="Sorter") == {"filter-one"}
    assert ids(text="filter", level="critical") == set()
    assert "No agent fits" in site.browser.get("/console/agents", params={"text": "no such thing"}).text


def test_long_lists_have_pages(site: Any, make_row: Any) -> None:
    site.know(*(make_row(f"many-{number:03d}", agent_type="Many") for number in range(60)))
    site.sign_in("soc")
    first = site.browser.get("/console/agents", params={"type": "Many"}).text
    (link,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = site.browser.get(link.replace("&amp;", "&")).text

    assert first.count("many-") >= 50 and "many-059" not in first
    assert "type=Many" in link
    assert "many-059" in second and "many-000" not in second


def test_empty_states_are_written(new_site: Callable[..., Any]) -> None:
    site = new_site()
    site.sign_in("trust-admins")
    overview, agents = site.browser.get("/console/").text, site.browser.get("/console/agents").text

    for told in ("No agent is above low", "No level has changed yet", "No approval waits", "Not measured"):
        assert told in overview
    assert "No agent is known yet" in agents
    assert page_of(site, "nobody").status_code == 404


def test_recent_events_are_those_of_the_agent(site: Any, make_row: Any) -> None:
    """Of this tenant and issuer, newest first, with how far was looked."""
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


def test_events_around_the_decision_come_first(site: Any, make_row: Any, make_decision: Any) -> None:
    row = make_row("caught", level=4, decision_id="d-950")
    site.know(row, decisions=(make_decision(row, 950),))
    before = [event_of("caught", action=f"theft_{number}", time=f"2025-11-24T15:5{number}:00Z") for number in range(3)]
    long_ago = event_of("caught", action="calm", time="2025-11-24T09:00:00Z")
    log(site, long_ago, *before, *(event_of("caught", action="noise", time="2025-11-24T19:00:00Z") for _ in range(60)))
    site.sign_in("soc")
    text = page_of(site, "caught", path="/console/agent/events").text
    first = text.partition("Lately")[0]

    assert "Around the time it became" in first and "theft_2" in first
    assert "noise" not in first and "calm" not in first
    assert "noise" in text


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
    assert "The level is fixed" in page and "no authorization server is told" in page
    assert "no longer fixed" in after and "Tokens it has</dt><dd>stay" in after


def test_a_person_releases_an_agent(site: Any, make_row: Any) -> None:
    """The command is in the log, with who and why; without a reason it is refused."""
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


def test_times_are_for_people_and_machines(site: Any, make_row: Any) -> None:
    site.know(make_row("timed"))
    site.sign_in("soc")

    assert '<time datetime="2025-11-24T16:00:00.000Z">2025-11-24 16:00:00 UTC</time>' in page_of(site, "timed").text


def test_files_are_kept_for_good_under_their_digest(site: Any) -> None:
    page = site.browser.get("/console/sign-in").text
    links = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page)
    kept = site.browser.get(links[0])
    plain = site.browser.get(links[0].partition("?")[0])

    assert len(links) >= 6
    assert all(site.browser.get(link).status_code == 200 for link in links)
    assert "immutable" in kept.headers["cache-control"]
    assert plain.headers["cache-control"] == "no-cache"
    assert site.browser.get("/console/static/nothing.js").status_code == 404
    assert site.browser.get("/console/static/..%2F__init__.py").status_code == 404


def test_a_broken_log_is_no_broken_page(tmp_path: Path) -> None:
    places = EventLocations(tmp_path / "none", None)
    found = load_event_history(places, AgentName(1, "t", "i", "a"), DecisionMoment(), ())
    assert (found.logged, found.whole, found.events) == (None, False, [])


def test_of_several_agents_with_one_id_the_decisions_page_lets_choose(new_site: Callable[..., Any]) -> None:
    site, rows = new_site(), [row_of("bot", "acme", 3), row_of("bot", "globex", 3)]
    site.know(*rows, decisions=tuple(decision_of(row, at) for at, row in enumerate(rows)))
    site.sign_in("trust-admins")

    asked = site.browser.get("/console/decisions", params={"agent": "bot"}).text
    chosen = site.browser.get("/console/decisions", params={"agent": "bot", "tenant": "globex", "issuer": AS})

    assert "Which one?" in asked and asked.count("/console/decisions?tenant=") == 2
    assert "/console/decisions/d-1" in chosen.text and "/console/decisions/d-0" not in chosen.text


def test_what_is_not_judged_of_an_agent_is_told(site: Any, make_row: Any) -> None:
    rows = np.zeros(1, layout.STATE_ROW)
    rows["disorder"], rows["session_doubt"][0, :2], rows["session_last"][0, :3] = 0.4, 16, 1_764_000_000_000
    site.know(make_row("wild", features=rows.tobytes()), make_row("plain"))
    site.sign_in("soc")
    words = "More than a tenth of its recent work came out of order: order is not judged in 2 of its 3 latest sessions"

    assert words in page_of(site, "wild").text
    assert words in page_of(site, "wild", path="/console/agent/parts").text
    assert "not judged" not in page_of(site, "plain").text
