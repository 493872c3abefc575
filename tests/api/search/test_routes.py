"""The search over HTTP: what fits is found, whatever it is, and nothing of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trustwatch.api.search import event_search, service
from trustwatch.api.settings.storage_settings import ArchiveSettings, PrivacySettings
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.events import decode_event
from trustwatch.scoring.records.agents import AgentEdge
from trustwatch.scoring.records.commits import Commit, Position

from ...support.case_triage import Triage, agent, rise
from ...support.feedback_person import AS, NOW_MS
from ...support.stored_rows import agent as row_of_agent

THEIRS = {"ip": "203.0.113.7", "asn": 65537, "user_agent": "curl/8.9.1"}
OFFICE = {"ip": "10.0.0.12"}


class Searcher:
    """Somebody who searches at a service."""

    def __init__(self, site: Any) -> None:
        self.site = site

    def __call__(self, q: str, client: str = "gateway", **params: Any) -> Any:
        """Body of a search."""
        answer = self.site.get("/v1/search", client, q=q, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def found(site: Any, event: Callable[..., Any], summary: Callable[..., Any]) -> Searcher:
    """A service with two agents, a person, a case, decisions and events of two tenants."""
    person = {"principal": {"id": "ann@acme.example", "type": "user"}}
    site.send(
        [
            event(1, client=OFFICE, **person),
            event(2, client=THEIRS, action="export", resource={"id": "ledger", "target": "evil.example"}),
            event(3, agent_id="planner", client=OFFICE, session="s-9"),
        ]
    )
    site.send([event(4, agent_id="bot", tenant="globex", client=THEIRS)], client="globex")
    person_at_work = Triage(site)
    person_at_work.raise_agents(
        rise(1, agent("bot"), network="AS65537", address="203.0.113.7"),
        rise(2, agent("planner"), target="evil.example"),
    )
    edge = AgentEdge("acme", AS, "acts_for", "bot", "ann@acme.example", NOW_MS, NOW_MS)
    site.store.commit(_with_edges(site, [edge]))
    site.report(
        [summary("bot", level=3), summary("planner", agent_type="Planner", level=1), summary("bot", tenant="globex")]
    )

    return Searcher(site)


def _with_edges(site: Any, edges: list[AgentEdge]) -> Any:
    at = site.store.partitions.position(0)
    after = Position(0, at.epoch, at.offset + 1)
    return Commit(at, after, agents=[], decisions=[], outbox=[], dead_letters=[], edges=edges)


def test_an_address_finds_what_came_from_it(found: Searcher) -> None:
    """Decisions by their indicators with the case they belong to, events with what they led to."""
    body = found("address:203.0.113.0/24")

    assert (body["agents"], body["people"], body["cases"]) == (None, None, None)
    assert [(one["decision_id"], one["case_id"]) for one in body["decisions"]] == [("D0001", "case-D0001")]
    (event,) = body["events"]
    assert (event["event_id"], event["network"], event["software"], event["target"]) == (
        "evt-2",
        "AS65537",
        "curl/8.9.1",
        "evil.example",
    )
    assert body["event_extent"]["complete"] is True
    assert body["event_extent"]["logged"] == 4


def test_a_word_finds_it_wherever_it_stands(found: Searcher) -> None:
    """In whatever case; each kind says how far it was looked for."""
    body = found("PLAN")

    assert [one["agent_id"] for one in body["agents"]] == ["planner"]
    assert [one["case_id"] for one in body["cases"]] == ["case-D0002"]
    assert [one["agent_id"] for one in body["decisions"]] == ["planner"]
    assert [one["event_id"] for one in body["events"]] == ["evt-3"]
    assert {kind: extent["complete"] for kind, extent in body["extents"].items()} == dict.fromkeys(
        ("agents", "people", "cases", "decisions"), True
    )
    people = found("ann@", kind="people")
    assert [(one["principal_id"], one["agents"]) for one in people["people"]] == [("ann@acme.example", 1)]
    assert people["agents"] is None


@pytest.mark.parametrize(
    ("q", "kind", "expected"),
    [
        ("level:high", "agents", ["bot"]),
        ("type:Planner", "agents", ["planner"]),
        ("agent:bot action:read_*", "events", ["evt-1"]),
        ("principal:ann@acme.example", "events", ["evt-1"]),
        ("event:evt-2", "events", ["evt-2"]),
        ("target:evil.example", "cases", ["case-D0002"]),
        ("network:AS65537", "cases", ["case-D0001"]),
        ("case:case-D0002", "cases", ["case-D0002"]),
        ("status:closed", "cases", []),
        ("decision:D0002", "decisions", ["D0002"]),
        ("D0001", "decisions", ["D0001"]),
        ("event:evt-1", "decisions", ["D0001"]),
        ("reason:first_seen_target agent:planner", "decisions", ["D0002"]),
        ("agent:nobody", "decisions", []),
        ("session:s-9", "events", ["evt-3"]),
        ("tenant:globex", "agents", []),
    ],
)
def test_fields_narrow(found: Searcher, q: str, kind: str, expected: list[str]) -> None:
    """Each field is looked for where it is, and all of them have to hold."""
    name = {"agents": "agent_id", "cases": "case_id", "decisions": "decision_id", "events": "event_id"}[kind]
    assert [one[name] for one in found(q, kind=kind)[kind]] == expected


def test_times_bound_what_is_found(found: Searcher) -> None:
    """Events of before are not of the last minute."""
    assert found("bot until:2025-11-24T15:59", kind="events")["events"] == []
    assert len(found("bot since:2025-11-24T15:59", kind="events")["events"]) == 2
    assert found("bot until:2025-11-24T00:00", kind="decisions")["decisions"] == []


def test_nothing_of_others_is_found(found: Searcher) -> None:
    """Another tenant's agents, decisions and events are as if there were none."""
    assert [one["event_id"] for one in found("address:203.0.113.7", "globex")["events"]] == ["evt-4"]
    theirs = found("bot", "globex")
    assert [(one["tenant"], one["agent_id"]) for one in theirs["agents"]] == [("globex", "bot")]
    assert (theirs["cases"], theirs["decisions"], theirs["people"]) == ([], [], [])
    assert found("tenant:acme", "globex", kind="people")["people"] == []


def test_what_can_not_be_read_is_a_problem(found: Searcher) -> None:
    """With the words of the query language."""
    answer = found.site.get("/v1/search", q="level:hihg")
    assert answer.status_code == 422
    assert "there are unknown, low, medium" in answer.json()["detail"]


def test_events_of_somebody_who_is_being_erased_are_not_found(found: Searcher) -> None:
    """From the moment that it is asked for."""
    site = found.site
    wish = {"agent": "planner", "tenant": "acme", "issuer": AS, "reason": "retired"}
    assert site.client.post("/v1/privacy/erasures", json=wish, headers=site.auth("all")).status_code == 202

    assert found("session:s-9", kind="events")["events"] == []
    assert len(found("agent:bot", kind="events")["events"]) == 2


def test_a_name_that_is_escaped_does_not_hide(found: Searcher, event: Callable[..., Any]) -> None:
    """JSON may write any letter by its number."""
    raw = msgspec.json.encode([event(7, action="wipe_disk")]).replace(b"wipe", b"\\u0077ipe")
    assert found.site.send(raw).status_code == 202
    assert [one["event_id"] for one in found("action:wipe_disk", kind="events")["events"]] == ["evt-7"]


def test_a_person_is_found_by_name_where_events_have_a_pseudonym(new_site: Any, event: Callable[..., Any]) -> None:
    """The tenant is the caller's, or named in the query."""
    site = new_site(privacy=PrivacySettings(pseudonymise_principals=True))
    site.send([event(1, principal={"id": "ann@acme.example", "type": "user"}), event(2)])

    for q in ("principal:ann@acme.example tenant:acme", "principal:ann@acme.example", "ann@acme.example"):
        (one,) = site.get("/v1/search", q=q, kind="events").json()["events"]
        assert one["principal_id"].startswith("p~")


def test_people_of_tenants_whose_pseudonyms_were_not_made_may_be_there(
    new_site: Any, event: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said where a term may name a person; of other terms nothing was left out."""
    site = new_site(privacy=PrivacySettings(pseudonymise_principals=True))
    site.send([event(1, principal={"id": "ann@acme.example", "type": "user"})])
    for most, complete in ((200, True), (0, False)):
        monkeypatch.setattr(service, "MAX_ALIASED_TENANTS", most)
        body = site.get("/v1/search", q="principal:nobody").json()
        assert (body["extents"]["people"]["complete"], body["event_extent"]["complete"]) == (complete, complete)
    assert site.get("/v1/search", q="action:none", kind="events").json()["event_extent"]["complete"] is True


def test_the_archive_has_what_the_log_no_longer_looks_at(
    new_site: Any, event: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event once, newest first; a search that was cut short says so."""
    monkeypatch.setattr(event_search, "MAX_RECORDS_READ", 3)
    site = new_site(archive=ArchiveSettings(directory=tmp_path / "archive"))
    sent = [event(n, time=f"2025-11-24T15:{n:02}:00Z", client=THEIRS if n % 2 else OFFICE) for n in range(20)]
    site.send(sent)
    archive = EventArchive(tmp_path / "archive")
    archive.start()
    rows = [(n, msgspec.json.encode(one)) for n, one in enumerate(sent)]
    archive.write(0, 18, [EventToArchive(n, NOW_MS + n, decode_event(raw), raw) for n, raw in rows[:18]])
    archive.close()

    whole = site.get("/v1/search", q="network:AS65537", kind="events").json()
    assert [one["event_id"] for one in whole["events"]] == [f"evt-{n}" for n in range(19, 0, -2)]
    assert whole["event_extent"] == {"logged": 3, "archived": 18, "complete": True, "trouble": None}
    some = site.get("/v1/search", q="address:203.0.113.7", kind="events", limit=4).json()
    assert [one["event_id"] for one in some["events"]] == ["evt-19", "evt-17", "evt-15", "evt-13"]
    assert some["event_extent"]["complete"] is False


def test_decisions_of_an_agent_that_is_kept_nowhere_are_found(found: Searcher) -> None:
    """Decisions stay longer than agents; one that is in the store alone is read by its index."""
    site = found.site
    site.view.remove("acme", AS, "planner")
    body = found("agent:planner", kind="decisions")
    assert [one["decision_id"] for one in body["decisions"]] == ["D0002"]
    assert body["extents"]["decisions"] == {"looked_at": 2, "complete": True}
    assert found("agent:bot tenant:globex", kind="decisions")["decisions"] == []


def test_an_agent_is_found_where_another_tenant_has_forgotten_it(found: Searcher) -> None:
    """One of the same id that is known elsewhere hides no decision of the one that is not; nobody sees another's."""
    site, theirs = found.site, agent("bot", "globex")
    Triage(site).raise_agents(rise(7, theirs))
    other = msgspec.structs.replace(row_of_agent(agent("clerk", "globex"), 1), agent_type="Clerk")
    at = site.store.partitions.position(0)
    site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [other], [], [], []))
    site.view.remove("globex", AS, "bot")

    def decisions(client: str, q: str = "agent:bot") -> list[str]:
        body = found(q, client, kind="decisions")
        assert body["extents"]["decisions"]["complete"]
        return sorted(one["decision_id"] for one in body["decisions"])

    assert decisions("two") == decisions("all") == ["D0001", "D0007"]
    assert decisions("two", "agent:bot tenant:globex") == decisions("globex") == ["D0007"]
    assert decisions("gateway") == ["D0001"]


def test_what_was_not_looked_at_is_told(found: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing found is not nothing there."""
    monkeypatch.setattr(service, "DECISION_PAGE", 1)
    monkeypatch.setattr(service, "MAX_DECISION_PAGES", 1)
    body = found("D000x", kind="decisions")
    assert (body["decisions"], body["extents"]["decisions"]) == ([], {"looked_at": 1, "complete": False})
