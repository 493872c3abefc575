"""Everything behind the bare route, over real HTTP: lists, history, dead letters, release, the service about itself."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import pytest

from trustwatch.api.http.auth.callers import CallerDirectory
from trustwatch.api.http.auth.signing import LOCAL_ISSUER
from trustwatch.api.settings.access_settings import ProofSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.pipeline.ipc import LevelChange
from trustwatch.scoring.records.agents import ReleaseAgent
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision, RiskReason

from ...support.console_records import decision_of, row_of

AS = "https://as.example"
NOW_MS = 1_764_000_000_000
URL_ID = "https://agents.example/7"


def decided(number: int) -> Decision:
    return decision_of(
        row_of(level=3),
        number,
        decision_id=record_id(NOW_MS + number, "acme", "bot"),
        reasons=(RiskReason("c", "f", "o", "u", 0.5, "t"),),
        feature_vector={"pace": 1.5},
        evidence={"statistic": 4.0},
    )


def store(site: Any, **parts: Any) -> None:
    position = site.store.partitions.position(0)
    if position.epoch == 0:
        position = site.store.partitions.claim(0)
    after = Position(0, position.epoch, position.offset + 1)
    empty: dict[str, list[Any]] = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []}
    site.store.commit(Commit(position, after, **{**empty, **parts}))


def dead(raw: bytes, letter_id: str = "L1", source: str = "gateway") -> DeadLetter:
    return DeadLetter(letter_id, NOW_MS, source, "wrong", "$.outcome", raw, 0, 0)


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/v1/agents", {"cursor": "garbage"}, 400, "invalid_cursor"),
        ("/v1/decisions", {"cursor": "e30"}, 400, "invalid_cursor"),
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


def test_a_decision_keeps_what_led_to_it(site: Any) -> None:
    decision = decided(1)
    store(site, agents=[row_of()], decisions=[decision])
    path = f"/v1/decisions/{decision.decision_id}"

    found = site.get(path).json()

    assert (found["previous_level"], found["level"], found["reasons"][0]["text"]) == ("low", "high", "t")
    assert (found["feature_vector"], found["evidence"], found["offset"]) == ({"pace": 1.5}, {"statistic": 4.0}, 1)
    assert site.get(path, "globex").status_code == 404


def test_a_decision_that_answers_name_before_it_is_stored_is_pending(site: Any, summary: Any) -> None:
    now_ms = int(site.clock() * 1000)
    new, old = record_id(now_ms, 0, 7), record_id(now_ms - 3_600_000, 0, 7)
    site.report([summary("bot", decision_id=new), summary("other", decision_id=old)])

    answer = site.get(f"/v1/decisions/{new}")

    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (409, "decision_pending", "1")
    assert site.get(f"/v1/decisions/{old}").status_code == 404
    assert site.get(f"/v1/decisions/{new}", "globex").status_code == 404
    store(
        site,
        agents=[row_of()],
        decisions=[msgspec.structs.replace(decided(1), decision_id=new)],
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


def test_streams_end_with_their_token(site: Any) -> None:
    def expire() -> None:
        site.clock.now += 86_400.0
        site.report(changes=[changed(1)])

    assert following(site, "gateway", expire, 99) == []
    assert site.status.subscribers == set()


def test_streams_end_where_callers_are_reloaded(site: Any) -> None:
    def reload() -> None:
        site.inside(lambda: site.runtime.verifier.use(CallerDirectory((), [LOCAL_ISSUER]).resolve))
        site.report(changes=[changed(1)])

    assert following(site, "gateway", reload, 99) == []
    assert site.status.subscribers == set()


def test_streams_end_when_the_service_does(site: Any) -> None:
    found = following(site, "gateway", lambda: site.inside(site.status.close), 99)

    assert found == []
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


def test_readiness_tells_what_is_not_as_it_should_be(site: Any) -> None:
    site.report()
    site.status.waiting_for = "a partition"
    site.reloads.restart_needed = ("listen.port",)
    told = site.client.get("/readyz")

    assert told.status_code == 200
    assert (told.json()["waiting_for"], told.json()["restart_needed"]) == ("a partition", ["listen.port"])


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for", "x-real-ip", "via"])
def test_strangers_are_not_told_what_does_not_hold_yet(site: Any, header: str) -> None:
    site.report()
    site.status.waiting_for, site.reloads.restart_needed = "a partition", ("gateway.issuers",)
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
    site.runtime.settings = with_proofs(site.runtime.settings, proofs)
    site.status.waiting_for = "a partition"

    assert site.client.get("/metrics").status_code == status
    assert site.client.get("/openapi.json").status_code == status
    assert ("waiting_for" in site.client.get("/readyz").json()) == (status == 200)


def with_proofs(settings: Settings, proofs: ProofSettings) -> Settings:
    verification = msgspec.structs.replace(settings.verification, proofs=proofs)
    return msgspec.structs.replace(settings, verification=verification)


def test_the_scope_of_metrics_opens_nothing_else(shared: Any) -> None:
    paths = ("/v1/agents", "/v1/decisions", "/v1/dead-letters", "/v1/deliveries", "/v1/privacy/erasures")
    token = shared.auth("all", "trust.metrics")

    assert {shared.client.get(path, headers=token).status_code for path in paths} == {403}
    assert shared.client.post("/v1/events", content=b"{}", headers=token).status_code == 403


def test_metrics_count_what_happened(site: Any, event: Any, summary: Any) -> None:
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


@pytest.mark.parametrize("path", ["/v1/policy", "/v1/dead-letters"])
def test_a_client_that_nobody_entered_sees_nothing(shared: Any, path: str) -> None:
    answer = shared.client.get(path, headers=shared.auth("nobody"))
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_not_allowed")
