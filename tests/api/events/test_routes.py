"""Events over real HTTP: what is taken, what is refused, and what is on disk afterwards."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import httpx2
import msgspec
import pytest

from trustwatch.api.events import slice as events_slice
from trustwatch.api.events.intake import EventIntake
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.records.dead_letters import RefusedInput
from trustwatch_client.events import MAX_EVENT_BYTES

from ...support.full_disk import full_disk

NDJSON = "application/x-ndjson"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def counts(answer: httpx2.Response) -> tuple[int, int, int]:
    body = answer.json()
    return body["accepted"], body["duplicate"], body["rejected"]


def cloud(event: dict[str, Any], number: int = 0, **members: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"ce-{number}",
        "source": "urn:gw:1",
        "type": "io.trustwatch.audit.v1",
        "data": event,
        **members,
    }


def letters(site: Any) -> list[RefusedInput]:
    return [msgspec.json.decode(record.payload, type=RefusedInput) for record in site.logged(RecordKind.DEAD)]


def test_202_comes_after_the_event_is_on_disk(site: Any, event: Any) -> None:
    sent = msgspec.json.encode(event())

    answer = site.send(sent)

    assert (answer.status_code, counts(answer)) == (202, (1, 0, 0))
    assert [record.payload for record in site.logged()] == [sent]


def test_cloudevents_in_all_modes_are_the_same_event(site: Any, event: Any) -> None:
    binary = {"ce_specversion": "1.0", "ce_id": "ce-0", "ce_source": "urn:gw:1", "ce_type": "io.trustwatch.audit.v1"}

    structured = site.send(cloud(event()), kind=STRUCTURED)
    batch = site.send([cloud(event()), cloud(event(), 1)], kind=BATCH)
    in_headers = site.send(event(), **binary)

    assert [counts(answer) for answer in (structured, batch, in_headers)] == [(1, 0, 0), (1, 1, 0), (0, 1, 0)]
    assert [(found["id"], found["source"]) for found in site.events()] == [("ce-0", "urn:gw:1"), ("ce-1", "urn:gw:1")]


def test_a_wrong_record_rejects_only_itself(site: Any, event: Any) -> None:
    events = [event(0), event(1, outcome="ok"), event(2)]

    answer = site.send(events)

    rejection = answer.json()["rejections"][0]
    assert (answer.status_code, counts(answer)) == (202, (2, 0, 1))
    assert (rejection["index"], rejection["path"]) == (1, "$.outcome")
    assert "'ok'" in rejection["reason"]
    (letter,) = letters(site)
    assert (letter.letter_id, letter.source, letter.path) == (rejection["dead_letter_id"], "gateway", "$.outcome")
    assert json.loads(base64.b64decode(letter.raw)) == events[1]


WRONG = {
    "no agent": ({"agent": None}, "$.agent"),
    "no time zone": ({"time": "2025-11-24T16:00:00"}, "$.time"),
    "from the future": ({"time": "2025-11-24T16:05:01Z"}, "$.time"),
    "tenant of others": ({"tenant": "globex"}, "$.tenant"),
    "issuer of others": ({"agent_issuer": "https://evil.example"}, "$.agent.issuer"),
    "source of others": ({"source": "urn:somebody:1"}, "$.source"),
    "negative bytes": ({"bytes_out": -1}, "$.bytes_out"),
    "unknown type": ({"type": "tool.cal"}, "$.type"),
    "too large": ({"attributes": {"x": "y" * MAX_EVENT_BYTES}}, "$"),
    "long agent id": ({"agent_id": "x" * 2049}, "$.agent.id"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_single_wrong_event_is_a_problem(shared: Any, event: Any, name: str) -> None:
    members, path = WRONG[name]

    answer = shared.send(event(**members))

    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (answer.json()["code"], answer.json()["path"], counts(answer)) == ("events_rejected", path, (0, 0, 1))
    assert answer.json()["rejections"][0]["index"] == 0


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'[{"id": 1}, {"id" 2}]'),
        ("application/json", b""),
        ("application/json", b"7"),
        (NDJSON, b'{"broken'),
        (NDJSON, b"\xff\xfe"),
        (BATCH, b"{}"),
        (STRUCTURED, b"[]"),
        ("application/json", b"[" * 100_000),
        (NDJSON, b'{"a":' * 50_000),
    ],
)
def test_a_body_that_is_no_json_is_one_rejected_record(shared: Any, kind: str, body: bytes) -> None:
    answer = shared.send(body, kind=kind)

    assert (answer.status_code, counts(answer)) == (400, (0, 0, 1))
    kept = {letter.letter_id: base64.b64decode(letter.raw) for letter in letters(shared)}
    assert kept[answer.json()["rejections"][0]["dead_letter_id"]] == body.strip()


def test_duplicates_are_counted_and_not_logged_again(site: Any, event: Any) -> None:
    first = site.send([event(1), event(1), event(2)])
    again = site.send([event(2), event(1), event(3)])
    others = site.send([event(1, tenant="globex"), event(1, source="urn:x")], "all")

    assert [counts(answer) for answer in (first, again, others)] == [(2, 1, 0), (1, 2, 0), (2, 0, 0)]
    assert len(site.logged()) == 5


def test_an_event_without_an_id_is_known_by_its_bytes(site: Any, event: Any) -> None:
    nameless = {name: value for name, value in event().items() if name != "id"}

    answers = [site.send(nameless), site.send(nameless), site.send({**nameless, "action": "other"})]

    assert [counts(answer) for answer in answers] == [(1, 0, 0), (0, 1, 0), (1, 0, 0)]


def test_tenant_and_issuer_are_filled_in_where_the_sender_has_only_one(site: Any, event: Any) -> None:
    sent = event(tenant=None, agent_issuer=None, vendor={"precise": 1})
    body = msgspec.json.encode(sent).replace(b'"precise":1', b'"precise":1.2300000000000000001e5')

    assert counts(site.send(body)) == (1, 0, 0)

    (record,) = site.logged()
    assert b'"precise":1.2300000000000000001e5' in record.payload
    logged = json.loads(record.payload)
    assert (logged["tenant"], logged["agent"]["issuer"]) == ("acme", "https://as.example")
    assert {**logged, "tenant": None, "agent": sent["agent"]} == {**sent, "vendor": logged["vendor"]}


def test_a_sender_for_several_tenants_has_to_name_one(site: Any, event: Any) -> None:
    answer = site.send(event(tenant=None), "two")

    assert (answer.json()["path"], answer.json()["detail"][:19]) == ("$.tenant", "the event must name")


ASSERTED = {"agent_type": "Admin", "agent_capabilities": ["everything"]}


@pytest.mark.parametrize(
    ("client", "agent_id", "kind", "capabilities"),
    [
        ("gateway", "bot", None, None),  # its word does not count, nobody else's is there
        ("gateway", "agent-pay-1", "PaymentProcessor", ["pay"]),
        ("trusted", "bot", "Admin", ["everything"]),
        ("trusted", "agent-pay-1", "PaymentProcessor", ["pay"]),  # the operator's registry wins
    ],
)
def test_whose_word_on_type_and_capabilities_counts(
    site: Any, event: Any, client: str, agent_id: str, kind: str | None, capabilities: list[str] | None
) -> None:
    site.send(event(agent_id=agent_id, agent_self_asserted=True, agent_version="2", **ASSERTED), client)

    (logged,) = site.events()
    assert (logged["agent"].get("type"), logged["agent"].get("capabilities")) == (kind, capabilities)
    assert (logged["agent"]["self_asserted"], logged["agent"]["version"]) == (True, "2")


def test_only_the_first_hundred_rejections_are_listed(site: Any, event: Any) -> None:
    answer = site.send([event(number, type="wrong") for number in range(120)] + [event(999)])

    body = answer.json()
    assert (counts(answer), len(body["rejections"]), body["rejections_omitted"]) == ((1, 0, 120), 100, 20)
    assert len({letter.letter_id for letter in letters(site)}) == 120


def test_gzip_bombs_and_large_bodies_stop_at_the_bound(shared: Any) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(256)) + packer.flush()

    def endless() -> Any:
        for _ in range(17):
            yield b" " * (1 << 20)

    answers = [
        shared.send(bomb, content_encoding="gzip"),
        shared.send(b" " * (17 << 20)),
        shared.client.post(
            "/v1/events", content=endless(), headers={**shared.auth(), "content-type": "application/json"}
        ),
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(413, "body_too_large")] * 3
    assert shared.app.app.state.services.get(EventIntake).limits.reserved_bytes == 0


TINY = gzip.compress(b"{}", mtime=0)  # without the time: the tests must be called the same in every process


@pytest.mark.parametrize("body", [b"no gzip", TINY[:-4], TINY + b"tail"])
def test_damaged_gzip_is_a_bad_request(shared: Any, body: bytes) -> None:
    answer = shared.send(body, content_encoding="gzip")

    assert (answer.status_code, "gzip" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("kind", "coding"),
    [
        ("application/x-www-form-urlencoded", ""),
        ("", ""),
        ("text/plain", ""),
        ("application/json; charset=utf-16", ""),
        ("application/json", "br"),
    ],
)
def test_other_bodies_are_unsupported(shared: Any, event: Any, kind: str, coding: str) -> None:
    answer = shared.send(event(), kind=kind, content_encoding=coding)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_body")
    assert "application/x-ndjson" in answer.headers["accept"]


def test_a_caller_that_speaks_for_nobody_leaves_nothing_behind(site: Any, event: Any) -> None:
    answer = site.send(event(), "stranger")

    assert (answer.status_code, site.event_log.next_offset) == (403, 0)


def test_a_request_without_token_or_scope_leaves_nothing_behind(site: Any, event: Any) -> None:
    nobody = site.client.post("/v1/events", json=event())
    reader = site.client.post("/v1/events", json=event(), headers=site.auth("gateway", "trust.admin"))

    assert (nobody.status_code, reader.status_code, site.event_log.next_offset) == (401, 403, 0)


def test_a_disk_that_refuses_is_503_until_it_is_well(site: Any, event: Any) -> None:
    big = [event(number, attributes={"x": "y" * 3000}) for number in range(10)]
    assert site.send(big).status_code == 202
    with full_disk(site.event_log):
        failed = [site.send([event(100 + step, attributes={"x": "y" * 9000})]) for step in range(2)]
    site.log._refuse_until = 0.0  # the pause of a second is over
    again = site.send([event(100, attributes={"x": "y" * 3000})])

    assert [answer.status_code for answer in failed] == [503, 503]
    assert failed[0].headers["retry-after"] == "1"
    assert (again.status_code, counts(again)) == (202, (1, 0, 0))
    assert site.client.get("/readyz").json()["components"]["log"] == "ok"


def test_a_full_queue_is_429(site: Any, event: Any) -> None:
    site.log.queue_bytes = 1
    site.log.waiting_bytes = 1

    answer = site.send(event())

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert site.event_log.next_offset == 0


def test_a_pipeline_that_does_not_keep_up_slows_senders(
    new_site: Any, event: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_slice, "MAX_LAG_BYTES", 65_536)
    site = new_site()
    accepted = site.send([event(number, attributes={"x": "y" * 1000}) for number in range(200)])
    waits = site.send(event(1000))
    site.report(offset=200)
    after = site.send(event(1000))

    assert (accepted.status_code, waits.status_code, after.status_code) == (202, 429, 202)
    assert (waits.json()["code"], waits.headers["retry-after"]) == ("too_many_requests", "5")


def test_a_source_with_a_rate_pays_with_time(site: Any, event: Any) -> None:
    taken = site.send([event(number) for number in range(30)], "slow")
    waits = site.send(event(100), "slow")
    other = site.send(event(200))
    site.clock.now += 2.1
    after = site.send(event(101), "slow")

    assert [answer.status_code for answer in (taken, waits, other, after)] == [202, 429, 202, 202]
    assert waits.headers["retry-after"] == "2"


def test_an_agent_can_not_frame_another_one(site: Any, event: Any) -> None:
    framing = [{**event(number), "source": None} for number in range(180)]
    own = {
        **event(999),
        "source": None,
        "agent": {"id": "itself", "issuer": "https://as.example", "self_asserted": False},
    }

    answer = site.send(msgspec.json.encode([*framing, own]), client="itself")

    assert counts(answer) == (1, 0, 180)
    assert {found["path"] for found in answer.json()["rejections"]} == {"$.agent.id"}
    assert [found["agent"] for found in site.events()] == [
        {"id": "itself", "issuer": "https://as.example", "self_asserted": True}
    ]
    assert 'trustwatch_events_total{outcome="rejected",source="itself"} 180.0' in site.client.get("/metrics").text
