"""Everything behind the bare route, over real HTTP: lists, history, dead letters, release, the service about itself."""

from __future__ import annotations

import base64
import platform
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import httpx2
import jsonschema
import msgspec
import pytest

from trustwatch.api.http.auth.callers import CallerDirectory
from trustwatch.api.http.auth.signing import LOCAL_ISSUER
from trustwatch.api.settings.access_settings import ProofSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.pipeline.ipc import LevelChange
from trustwatch.scoring.records.agents import AgentName, AgentRow, ReleaseAgent
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.dead_letters import DeadLetter, RefusedInput
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.store.outbox_store import DeliveryRoute

AS = "https://as.example"
NOW_MS = 1_764_000_000_000
URL_ID = "https://agents.example/7"


def name_of(agent_id: str, tenant: str = "acme", issuer: str = AS) -> AgentName:
    return AgentName(IdentityHasher().agent_key(tenant, issuer, agent_id), tenant, issuer, agent_id)


def row(agent_id: str, tenant: str = "acme", level: int = 1, kind: str = "Payer", issuer: str = AS) -> AgentRow:
    name, shown = name_of(agent_id, tenant, issuer), (0.25, 0.5, 0.125, 1, 2, 3, 0, 7, "", b"[]", "")
    return AgentRow(name, kind, level, *shown, features=b"", risk=b"", state_version="v")


def decided(agent_id: str, number: int, tenant: str = "acme") -> Decision:
    at_ms = NOW_MS + number
    return Decision(
        decision_id=record_id(at_ms, tenant, agent_id),
        agent=name_of(agent_id, tenant),
        agent_type="Payer",
        decided_ms=at_ms,
        event_id="evt-1",
        event_time_ms=at_ms - 5,
        previous_level=1,
        level=3,
        risk_score=0.8,
        confidence=0.9,
        anomaly_score=0.7,
        p_value=0.001,
        reasons=(RiskReason("c", "f", "o", "u", 0.5, "t"),),
        counterfactual="",
        feature_vector={"pace": 1.5},
        evidence={"statistic": 4.0},
        model_version="m",
        baseline_version="b",
        policy_version="3",
        mode="shadow",
        cause="event",
        partition=0,
        offset=number,
    )


def store(site: Any, **parts: Any) -> None:
    """Commit what a pipeline would."""
    position = site.store.partitions.position(0)
    if position.epoch == 0:
        position = site.store.partitions.claim(0)
    after = Position(0, position.epoch, position.offset + 1)
    empty: dict[str, list[Any]] = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []}
    site.store.commit(Commit(position, after, **{**empty, **parts}))


def dead(raw: bytes, letter_id: str = "L1", source: str = "gateway") -> DeadLetter:
    return DeadLetter(letter_id, NOW_MS, source, "wrong", "$.outcome", raw, 0, 0)


def pages(site: Any, path: str, client: str = "gateway", **params: Any) -> list[list[dict[str, Any]]]:
    found, cursor = [], None
    while True:
        page = site.get(path, client, **params, **({"cursor": cursor} if cursor else {})).json()
        found.append(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_agents_are_listed_by_page_and_filter(site: Any) -> None:
    """Only those of the caller's tenants; pages together hold each once."""
    store(
        site,
        agents=[row(f"bot-{number}") for number in range(5)]
        + [row("alarm", level=4, kind="Admin"), row("theirs", "globex")],
    )

    listed = pages(site, "/v1/agents", limit=2)

    assert [len(page) for page in listed] == [2, 2, 2]
    assert [agent["agent_id"] for page in listed for agent in page] == ["alarm", *(f"bot-{n}" for n in range(5))]
    assert {agent["tenant"] for agent in site.get("/v1/agents", "all").json()["items"]} == {"acme", "globex"}
    for filters in ({"level": "critical"}, {"type": "Admin"}, {"prefix": "al"}, {"level": ["high", "critical"]}):
        assert [agent["agent_id"] for agent in site.get("/v1/agents", **filters).json()["items"]] == ["alarm"]


def test_agents_by_risk_and_by_text(site: Any) -> None:
    """The riskiest first; a text stands in the id or the type, in upper or lower case, and no page is too long."""
    store(site, agents=[*(row(f"bot-{number}", level=number % 5) for number in range(10)), row("x", kind="Robot-4")])

    by_risk = pages(site, "/v1/agents", limit=2, order="risk")
    with_text = pages(site, "/v1/agents", limit=2, text="BOT-4")
    of_both = pages(site, "/v1/agents", limit=2, text="4", order="risk")

    levels = [agent["risk_level"] for page in by_risk for agent in page]
    assert levels == ["critical"] * 2 + ["high"] * 2 + ["medium"] * 2 + ["low"] * 3 + ["unknown"] * 2
    assert [agent["agent_id"] for page in with_text for agent in page] == ["bot-4", "x"]
    assert [agent["agent_id"] for page in of_both for agent in page] == ["bot-4", "x"]
    assert max(map(len, [*by_risk, *with_text, *of_both])) <= 2


def test_decisions_by_what_they_came_with(site: Any) -> None:
    """An indicator of any kind or the id of the event, whole; by the level they reach, and by time."""
    shown = [{"kind": "network", "value": "AS65537", "status": "new", "at": "2025-11-24T16:00:00Z"}]
    came = [
        msgspec.structs.replace(decided("bot", number), evidence={"indicators": shown}) for number in range(1, 41, 10)
    ]
    others = [
        msgspec.structs.replace(decided("bot", number), event_id=f"evt-{number}")
        for number in range(2, 31)
        if number % 10 != 1
    ]
    theirs = msgspec.structs.replace(decided("bot", 50, "globex"), evidence={"indicators": shown})
    store(site, agents=[row("bot"), row("bot", "globex")], decisions=[*came, *others, theirs])

    def found(**asked: Any) -> list[str]:
        listed = pages(site, "/v1/decisions", limit=2, **asked)
        assert max(map(len, listed)) <= 2
        return [one["decision_id"] for page in listed for one in page]

    newest_first = [one.decision_id for one in reversed(came)]
    assert found(indicator="AS65537") == newest_first
    assert found(indicator="AS6553") == found(level="critical") == found(indicator="AS65537", until="2020-01-01") == []
    assert found(indicator="evt-22") == [one.decision_id for one in others if one.event_id == "evt-22"]
    assert found(indicator="AS65537", level="high", since="2020-01-01") == newest_first
    assert site.get("/v1/decisions", since="yesterday").status_code == 422


def test_an_agent_in_a_list_says_what_lists_show(site: Any) -> None:
    store(site, agents=[row("bot")])

    (agent,) = site.get("/v1/agents").json()["items"]

    assert (agent["risk_level"], agent["agent_type"], agent["events"], agent["decision_id"]) == (
        "low",
        "Payer",
        7,
        None,
    )
    assert (agent["first_seen_at"], agent["last_seen_at"]) == ("1970-01-01T00:00:00.001Z", "1970-01-01T00:00:00.002Z")


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/v1/dead-letters", {"cursor": "x" * 9000}, 422, "invalid_request"),
        ("/v1/agents", {"limit": 501}, 422, "invalid_request"),
        ("/v1/agents", {"level": "severe"}, 422, "invalid_request"),
        ("/v1/agents", {"tenant": "globex"}, 403, "tenant_not_allowed"),
        ("/v1/decisions/nothing", {}, 404, "not_found"),
        ("/v1/dead-letters/nothing", {}, 404, "not_found"),
        ("/v1/nowhere", {}, 404, "not_found"),
    ],
)
def test_requests_that_ask_for_nothing_there_is(
    shared: Any, path: str, params: dict[str, Any], status: int, code: str
) -> None:
    answer = shared.get(path, **params)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_decisions_newest_first_and_of_one_agent(site: Any, summary: Any) -> None:
    """By query or by path; with the id as a URL; found in the store where the view has let the agent go."""
    decisions = [decided("bot", 1), decided(URL_ID, 2), decided(URL_ID, 3), decided("bot", 4, "globex")]
    store(site, agents=[row("bot"), row(URL_ID), row("bot", "globex")], decisions=decisions)

    everything = site.get("/v1/decisions").json()["items"]
    of_one = site.get("/v1/decisions", agent_id=URL_ID).json()["items"]
    by_path = site.get(f"/v1/agents/{quote(URL_ID, safe='')}/decisions").json()["items"]
    fully_named = site.get("/v1/decisions", agent_id=URL_ID, tenant="acme", issuer=AS).json()["items"]
    several = site.get("/v1/decisions", "two", agent_id="bot")
    nobody = site.get("/v1/decisions", agent_id="nobody").json()["items"]

    assert [found["decided_at"][-4:] for found in everything] == ["003Z", "002Z", "001Z"]
    assert of_one == by_path == fully_named == everything[:2]
    assert (several.status_code, nobody) == (409, [])


def test_a_decision_keeps_what_led_to_it(site: Any) -> None:
    """Feature vector, evidence, versions; nobody of another tenant sees it."""
    decision = decided("bot", 1)
    store(site, agents=[row("bot")], decisions=[decision])
    path = f"/v1/decisions/{decision.decision_id}"

    found = site.get(path).json()

    assert (found["previous_level"], found["level"], found["reasons"][0]["text"]) == ("low", "high", "t")
    assert (found["feature_vector"], found["evidence"], found["offset"]) == ({"pace": 1.5}, {"statistic": 4.0}, 1)
    assert site.get(path, "globex").status_code == 404


def test_a_decision_that_answers_name_before_it_is_stored_is_pending(site: Any, summary: Any) -> None:
    """Answers do not wait for the store: its id is known, and told as such; an old one that is gone is not found."""
    now_ms = int(site.clock() * 1000)
    new, old = record_id(now_ms, 0, 7), record_id(now_ms - 3_600_000, 0, 7)
    site.report([summary("bot", decision_id=new), summary("other", decision_id=old)])

    answer = site.get(f"/v1/decisions/{new}")

    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (409, "decision_pending", "1")
    assert site.get(f"/v1/decisions/{old}").status_code == 404
    assert site.get(f"/v1/decisions/{new}", "globex").status_code == 404
    store(
        site,
        agents=[row("bot")],
        decisions=[msgspec.structs.replace(decided("bot", 1), decision_id=new)],
    )
    assert site.get(f"/v1/decisions/{new}").status_code == 200


def test_a_release_is_logged_as_a_command(site: Any, summary: Any) -> None:
    site.report([summary(URL_ID)])
    path = f"/v1/agents/{quote(URL_ID, safe='')}/release"

    answer = site.client.post(path, json={"note": "announced"}, headers=site.auth())

    (record,) = site.logged(RecordKind.CONTROL)
    assert answer.status_code == 202
    assert msgspec.json.decode(record.payload, type=ReleaseAgent) == ReleaseAgent(
        "", "gateway", "announced", "acme", AS, URL_ID
    )


@pytest.mark.parametrize(
    ("client", "scope", "agent_id", "status"),
    [
        ("gateway", "trust.feedback", "nobody", 404),
        ("globex", "trust.feedback", "bot", 404),  # of another tenant: as if it did not exist
        ("gateway", "trust.admin", "bot", 403),
        ("two", "trust.feedback", "twin", 409),
    ],
)
def test_releases_that_are_refused(
    site: Any, summary: Any, client: str, scope: str, agent_id: str, status: int
) -> None:
    site.report([summary(), summary("twin"), summary("twin", "globex")])

    answer = site.client.post(f"/v1/agents/{agent_id}/release", json={}, headers=site.auth(client, scope))

    assert (answer.status_code, site.event_log.next_offset) == (status, 0)


def test_dead_letters_are_seen_by_their_senders_and_by_callers_of_all_tenants(site: Any) -> None:
    """What could not be read has no tenant, so a caller of one tenant sees only its own."""
    store(site, dead_letters=[dead(b"\xff", "L1"), dead(b"{}", "L2", "globex"), dead(b"{}", "L3", "pipeline")])

    listed = {
        client: {letter["letter_id"] for letter in site.get("/v1/dead-letters", client).json()["items"]}
        for client in ("gateway", "globex", "all")
    }
    one = site.get("/v1/dead-letters/L1").json()

    assert listed == {"gateway": {"L1"}, "globex": {"L2"}, "all": {"L1", "L2", "L3"}}
    assert (base64.b64decode(one["raw"]), one["size"], one["path"]) == (b"\xff", 1, "$.outcome")
    assert site.get("/v1/dead-letters/L2").status_code == 404


def test_a_dead_letter_is_replayed_through_the_same_door(site: Any, event: Any) -> None:
    """With the binding of who replays it: what was refused to one may be taken from another. It is then marked."""
    raw = msgspec.json.encode(event(tenant="globex", agent_type="Admin"))
    store(site, dead_letters=[dead(raw)])

    refused = site.client.post("/v1/dead-letters/L1/replay", headers=site.auth("gateway"))
    waits = site.get("/v1/dead-letters", replayed=False).json()["items"]
    taken = site.client.post("/v1/dead-letters/L1/replay", headers=site.auth("all"))
    marked = site.get("/v1/dead-letters", replayed=True).json()["items"]

    assert (refused.status_code, refused.json()["path"]) == (400, "$.tenant")
    assert (taken.status_code, taken.json()["accepted"]) == (202, 1)
    assert ([letter["letter_id"] for letter in waits], marked[0]["replayed_at"]) == (["L1"], "2025-11-24T16:00:00.000Z")
    (logged,) = site.events()
    assert (logged["tenant"], "type" in logged["agent"]) == ("globex", False)
    assert site.logged(RecordKind.DEAD) == []


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_a_refused_cloudevent_can_be_replayed(site: Any, event: Any, mode: str) -> None:
    data = event(tenant="globex")
    if mode == "structured":
        envelope = {
            "specversion": "1.0",
            "id": "c",
            "source": "urn:gw:1",
            "type": "io.trustwatch.audit.v1",
            "data": data,
        }
        site.send(envelope, kind="application/cloudevents+json")
    else:
        headers = {"specversion": "1.0", "id": "c", "source": "urn:gw:1", "type": "io.trustwatch.audit.v1"}
        site.send(data, **{f"ce_{name}": value for name, value in headers.items()})
    (record,) = site.logged(RecordKind.DEAD)
    letter = msgspec.json.decode(record.payload, type=RefusedInput)
    store(site, dead_letters=[dead(base64.b64decode(letter.raw))])

    answer = site.client.post("/v1/dead-letters/L1/replay", headers=site.auth("all"))

    assert answer.json()["accepted"] == 1
    assert [(found["id"], found["source"]) for found in site.events()] == [("c", "urn:gw:1")]


def test_deliveries_are_shown_to_the_admins_of_their_tenant(site: Any) -> None:
    outbox = [OutboxRow(f"k-{tenant}", "alert", "", b"{}", NOW_MS, 1, "r", 3, tenant) for tenant in ("acme", "globex")]
    store(site, outbox=outbox)
    site.store.outbox.route([DeliveryRoute("ops", "alert", frozenset(range(5)), 0)], NOW_MS)

    (delivery,) = site.get("/v1/deliveries").json()["items"]

    assert (delivery["key"], delivery["status"], delivery["level"]) == ("k-acme", "pending", "high")
    assert delivery["delivered_at"] is None
    assert len(site.get("/v1/deliveries", "all", status="pending", target="ops").json()["items"]) == 2
    assert site.get("/v1/deliveries", "all", status="delivered").json()["items"] == []


def changed(number: int, tenant: str = "acme") -> LevelChange:
    return LevelChange(f"D{number}", tenant, "bot", 1, 3, 0.8123456, "because", NOW_MS, NOW_MS + 5)


def following(site: Any, client: str, report: Callable[[], None], expected: int) -> list[tuple[str, str]]:
    """Names and data of events of the decision stream; *report* runs once the stream is open."""
    found: list[tuple[str, str]] = []
    with httpx2.stream("GET", f"{site.url}/v1/decisions/stream", headers=site.auth(client), timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == ": from now on"
        teller = threading.Thread(target=report)
        teller.start()
        for line in lines:
            name, _, value = line.partition(": ")
            if name:
                found.append((name, value))
            if len(found) == expected:
                break
        teller.join()
    return found


def test_decisions_can_be_followed(site: Any) -> None:
    found = following(site, "gateway", lambda: site.report(changes=[changed(1, "globex"), changed(2)]), 3)

    data = msgspec.json.decode(found[2][1])
    assert found[:2] == [("id", "D2"), ("event", "decision")]
    assert (data["level"], data["previous_level"], data["risk_score"]) == ("high", "low", 0.8123)
    assert data["decided_at"] == "2025-11-24T16:00:00.005Z"


def expire(site: Any) -> None:
    site.clock.now += 86_400.0
    site.report(changes=[changed(1)])


def reload_callers(site: Any) -> None:
    site.inside(lambda: site.runtime.verifier.use(CallerDirectory((), [LOCAL_ISSUER]).resolve))
    site.report(changes=[changed(1)])


@pytest.mark.parametrize("end", [expire, reload_callers, lambda site: site.inside(site.status.close)])
def test_streams_end_with_token_callers_and_service(site: Any, end: Callable[[Any], None]) -> None:
    """The next change ends the stream if the token has expired or callers were reloaded; a stop ends it at once."""
    assert following(site, "gateway", lambda: end(site), 99) == []
    assert site.status.subscribers == set()


def test_a_reader_that_does_not_keep_up_is_cut_off(site: Any) -> None:
    def overflow() -> int:
        queue = site.status.subscribe()
        for number in range(1001):
            site.status.publish_changes([changed(number)])
        return sum(1 for _ in iter(queue.get_nowait, None))

    assert site.inside(overflow) == 999
    assert site.status.subscribers == set()


def test_health_is_open_and_readiness_names_components_only(site: Any) -> None:
    """Not ready before the pipeline was heard, nor 15 s after it was last."""
    before = site.client.get("/readyz")
    site.status.starting = "kernels are compiled"
    compiling = site.client.get("/readyz")
    site.report()
    ready = site.client.get("/readyz")
    site.clock.now += 15
    silent = site.client.get("/readyz")

    assert site.client.get("/healthz").json() == {"status": "ok"}
    assert [answer.status_code for answer in (before, ready, silent)] == [503, 200, 503]
    assert "reason" not in before.json()
    assert (compiling.status_code, compiling.json()["reason"]) == (503, "kernels are compiled")
    assert ready.json() == {"ready": True, "components": {"log": "ok", "pipeline": "ok"}}
    assert silent.json()["components"] == {"log": "ok", "pipeline": "not ok"}


def test_readiness_reports_details_to_this_machine_alone(site: Any) -> None:
    """A worker without work and settings that need a restart are ready. Strangers, whom a proxy forwards, could wait
    for the time when no agent is judged."""
    site.report()
    site.status.waiting_for, site.reloads.restart_needed = "a partition", ("listen.port",)
    local = site.client.get("/readyz")

    assert local.status_code == 200
    assert (local.json()["waiting_for"], local.json()["restart_needed"]) == ("a partition", ["listen.port"])
    for header in ("forwarded", "x-forwarded-for", "x-real-ip", "via"):
        told = site.client.get("/readyz", headers={header: "1.2.3.4"})
        assert told.json() == {"ready": True, "components": {"log": "ok", "pipeline": "ok"}}


@pytest.mark.parametrize(
    ("headers", "client", "scope", "status"),
    [
        ({}, "", "", 200),  # from this machine
        ({"x-forwarded-for": "203.0.113.9"}, "", "", 401),  # a proxy on this machine speaks for somebody else
        ({"x-forwarded-for": "203.0.113.9"}, "gateway", "trust.score:read", 403),
        ({"x-forwarded-for": "203.0.113.9"}, "gateway", "trust.admin", 403),  # of one tenant
        ({}, "gateway", "trust.admin", 403),
        ({"x-forwarded-for": "203.0.113.9"}, "all", "trust.admin", 200),
        ({"x-forwarded-for": "203.0.113.9"}, "gateway", "trust.metrics", 200),
    ],
)
def test_metrics_are_for_this_machine_for_prometheus_and_for_admins(
    shared: Any, headers: dict[str, str], client: str, scope: str, status: int
) -> None:
    token = shared.auth(client, scope) if client else {}

    assert shared.client.get("/metrics", headers={**headers, **token}).status_code == status


@pytest.mark.parametrize(
    ("proofs", "status"),
    [
        (ProofSettings(), 200),
        (ProofSettings(trusted_proxies=("10.0.0.0/8",)), 200),
        (ProofSettings(trusted_proxies=("127.0.0.1/32",)), 401),
        (ProofSettings(certificate_header="X-Client-Cert"), 401),
    ],
    ids=["none", "elsewhere", "here", "loopback"],
)
def test_nobody_behind_a_declared_proxy_is_this_machine(site: Any, proofs: ProofSettings, status: int) -> None:
    """A proxy that tells nothing of the client would make every stranger local."""
    site.runtime.settings = with_proofs(site.runtime.settings, proofs)
    site.status.waiting_for = "a partition"

    assert site.client.get("/metrics").status_code == status
    assert site.client.get("/openapi.json").status_code == status
    assert ("waiting_for" in site.client.get("/readyz").json()) == (status == 200)


def with_proofs(settings: Settings, proofs: ProofSettings) -> Settings:
    verification = msgspec.structs.replace(settings.verification, proofs=proofs)
    return msgspec.structs.replace(settings, verification=verification)


def test_the_scope_of_metrics_opens_nothing_else(shared: Any) -> None:
    """A token that lies beside Prometheus for a year shows no agent and orders nothing."""
    paths = ("/v1/agents", "/v1/decisions", "/v1/dead-letters", "/v1/deliveries", "/v1/privacy/erasures")
    token = shared.auth("all", "trust.metrics")

    assert {shared.client.get(path, headers=token).status_code for path in paths} == {403}
    assert shared.client.post("/v1/events", content=b"{}", headers=token).status_code == 403


def test_metrics_tell_the_version_and_of_the_process(shared: Any) -> None:
    lines = shared.client.get("/metrics").text.splitlines()
    names = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}

    told = f'trustwatch_build_info{{python="{platform.python_version()}",version="{version("trustwatch")}"}} 1.0'
    assert told in lines
    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections_total"} <= names
    assert not [name for name in names if name.endswith("_created")]


def test_metrics_count_what_happened(site: Any, event: Any, summary: Any) -> None:
    """Requests by route and status, events by source and outcome, and how the pipeline fares."""
    site.report([summary()], offset=7, behind=3, changes=[changed(1)])
    site.get("/v1/agents/bot/risk")
    site.get("/v1/agents/other/risk")
    site.client.get("/v1/agents/bot/risk")
    site.get("/v1/decisions/nothing")
    site.send([event(1), event(1), event(2, outcome="ok")])
    site.clock.now += 2

    lines = site.client.get("/metrics").text.splitlines()

    risk = 'trustwatch_http_requests_total{route="/v1/agents/{agent_id}/risk",status='
    events = 'trustwatch_events_total{outcome="%s",source="gateway"} 1.0'
    for line in (
        f'{risk}"200"}} 2.0',
        f'{risk}"401"}} 1.0',
        'trustwatch_http_requests_total{route="/v1/decisions/{decision_id}",status="404"} 1.0',
        *(events % outcome for outcome in ("accepted", "duplicate", "rejected")),
        "trustwatch_log_next_offset 2.0",
        "trustwatch_pipeline_behind 3.0",
        "trustwatch_pipeline_silence_seconds 2.0",
        'trustwatch_pipeline_records_total{what="events"} 5.0',
        'trustwatch_decisions_total{level="high"} 1.0',
        "trustwatch_agents 1.0",
    ):
        assert line in lines, line


def test_the_schema_is_served_and_fits_the_events_that_are_taken(shared: Any, event: Any) -> None:
    schema = shared.client.get("/v1/schema/audit-event").json()

    checker = jsonschema.Draft202012Validator(schema)
    assert checker.is_valid(event())
    assert not checker.is_valid(event(outcome="ok"))


@pytest.mark.parametrize("path", ["/v1/policy", "/v1/dead-letters", "/v1/agents/bot/risk"])
def test_a_client_that_nobody_entered_sees_nothing(shared: Any, path: str) -> None:
    answer = shared.client.get(path, headers=shared.auth("nobody"))
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_not_allowed")


def test_the_policy_is_shown(shared: Any) -> None:
    policy = shared.get("/v1/policy").json()

    assert (policy["version"], list(policy["levels"])) == ("3", ["unknown", "low", "medium", "high", "critical"])
    assert policy["levels"]["critical"]["allow"] is False
