"""Events over real HTTP: what is taken, what is refused, and what is on disk afterwards."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import msgspec
import pytest

from trustwatch.api.events import slice as events_slice
from trustwatch.api.http.ledger import LIMITS, Ledger
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


def lines(events: list[Any]) -> bytes:
    return b"\n".join(map(msgspec.json.encode, events))


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


@pytest.mark.parametrize("kind", ["application/json", NDJSON, "application/jsonl", "Application/JSON; charset=UTF-8"])
def test_native_bodies(site: Any, event: Any, kind: str) -> None:
    events = [event(number) for number in range(3)]
    body = msgspec.json.encode(events) if "json;" in kind.lower() or kind.endswith("/json") else lines(events)

    assert counts(site.send(body, kind=kind)) == (3, 0, 0)
    assert [found["id"] for found in site.events()] == ["evt-0", "evt-1", "evt-2"]


def test_cloudevents_in_all_modes_are_the_same_event(site: Any, event: Any) -> None:
    """The identity of the envelope counts, so the second and third mode bring duplicates of the first."""
    binary = {"ce_specversion": "1.0", "ce_id": "ce-0", "ce_source": "urn:gw:1", "ce_type": "io.trustwatch.audit.v1"}

    structured = site.send(cloud(event()), kind=STRUCTURED)
    batch = site.send([cloud(event()), cloud(event(), 1)], kind=BATCH)
    in_headers = site.send(event(), **binary)

    assert [counts(answer) for answer in (structured, batch, in_headers)] == [(1, 0, 0), (1, 1, 0), (0, 1, 0)]
    assert [(found["id"], found["source"]) for found in site.events()] == [("ce-0", "urn:gw:1"), ("ce-1", "urn:gw:1")]


def test_a_wrong_record_rejects_only_itself(site: Any, event: Any) -> None:
    """Its index, the path of the wrong member and the reason are told; the dead letter holds its bytes."""
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


def test_a_path_inside_a_cloudevent_is_one_of_what_was_sent(site: Any, event: Any) -> None:
    """The sender sees its own envelope, not the event inside."""
    inside = site.send(cloud(event(outcome="ok")), kind=STRUCTURED).json()
    envelope = site.send(cloud(event(), type="other"), kind=STRUCTURED).json()

    assert (inside["path"], envelope["path"]) == ("$.data.outcome", "$.type")


def test_an_empty_batch_is_no_mistake(site: Any) -> None:
    answers = [site.send(b"[]"), site.send(b"\n\n", kind=NDJSON), site.send(b"[]", kind=BATCH)]

    assert [(answer.status_code, counts(answer)) for answer in answers] == [(202, (0, 0, 0))] * 3
    assert site.event_log.next_offset == 0


def test_duplicates_are_counted_and_not_logged_again(site: Any, event: Any) -> None:
    """Within a body, and from body to body; the same id of another tenant or source is another event."""
    first = site.send([event(1), event(1), event(2)])
    again = site.send([event(2), event(1), event(3)])
    others = site.send([event(1, tenant="globex"), event(1, source="urn:x")], "all")

    assert [counts(answer) for answer in (first, again, others)] == [(2, 1, 0), (1, 2, 0), (2, 0, 0)]
    assert len(site.logged()) == 5


def test_an_event_without_an_id_is_known_by_its_bytes(site: Any, event: Any) -> None:
    """Sent twice it is one event; anything different in it is another."""
    nameless = {name: value for name, value in event().items() if name != "id"}

    answers = [site.send(nameless), site.send(nameless), site.send({**nameless, "action": "other"})]

    assert [counts(answer) for answer in answers] == [(1, 0, 0), (0, 1, 0), (1, 0, 0)]


def test_tenant_and_issuer_are_filled_in_where_the_sender_has_only_one(site: Any, event: Any) -> None:
    """Every other member stays as it was sent, known or not, to the last digit."""
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
    """Else an attacker would choose its own peer group."""
    site.send(event(agent_id=agent_id, agent_self_asserted=True, agent_version="2", **ASSERTED), client)

    (logged,) = site.events()
    assert (logged["agent"].get("type"), logged["agent"].get("capabilities")) == (kind, capabilities)
    assert (logged["agent"]["self_asserted"], logged["agent"]["version"]) == (True, "2")


def test_ten_thousand_events_in_one_body(site: Any, event: Any) -> None:
    events = [event(number, agent_id=f"agent-{number}") for number in range(10_000)]
    body = lines(events)

    answer = site.send(gzip.compress(body, 1), kind=NDJSON, content_encoding="gzip")
    too_many = site.send(body + b"\n{}", kind=NDJSON)

    assert (answer.status_code, counts(answer)) == (202, (10_000, 0, 0))
    assert [found["id"] for found in site.events()] == [found["id"] for found in events]
    assert (too_many.status_code, too_many.json()["code"]) == (413, "body_too_large")


def test_gzip_bombs_and_large_bodies_stop_at_the_bound(shared: Any) -> None:
    """1 GB in 1 MB is refused after 16 MiB; so is a body that never ends, and one that says so beforehand."""
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
    assert shared.app.app.state.services.get(Ledger).memory.held_bytes == 0


def test_a_tenant_names_so_many_new_agents_an_hour(site: Any, event: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of further ones are refused and kept; a body with no others is refused as a whole."""
    monkeypatch.setitem(LIMITS, "agents", LIMITS["agents"]._replace(amount=3))

    def of(agent: str, number: int) -> dict[str, Any]:
        return event(number) | {"agent": {"id": agent}}

    mixed = site.send([of(f"a{number}", number) for number in range(5)])
    refused = site.send([of("a8", 8)])
    known = site.send([of("a1", 9)])

    assert (counts(mixed), counts(known)) == ((3, 0, 2), (1, 0, 0))
    assert "at most 3" in mixed.json()["rejections"][0]["reason"]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1200")
    assert len(site.logged()) == 4 and len(site.logged(RecordKind.DEAD)) == 2
    assert 'trustwatch_limited_requests_total{limit="agents",source="gateway"} 1.0' in site.client.get("/metrics").text


def test_gzip_of_several_members_is_read_whole(site: Any, event: Any) -> None:
    body = gzip.compress(lines([event(1)]) + b"\n") + gzip.compress(lines([event(2)]))

    assert counts(site.send(body, kind=NDJSON, content_encoding="gzip")) == (2, 0, 0)


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
    """403 for the whole request, and no dead letter: else any token could fill the disk."""
    answer = site.send(event(), "stranger")

    assert (answer.status_code, site.event_log.next_offset) == (403, 0)


def test_a_request_without_token_or_scope_leaves_nothing_behind(site: Any, event: Any) -> None:
    nobody = site.client.post("/v1/events", json=event())
    reader = site.client.post("/v1/events", json=event(), headers=site.auth("gateway", "trust.admin"))

    assert (nobody.status_code, reader.status_code, site.event_log.next_offset) == (401, 403, 0)


def test_a_disk_that_refuses_is_503_until_it_is_well(site: Any, event: Any) -> None:
    """Nothing is acknowledged meanwhile, and afterwards the same events can be sent again."""
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
    """429 once more bytes wait to be applied than `MAX_LAG_BYTES`, whether or not it still reports."""
    monkeypatch.setattr(events_slice, "MAX_LAG_BYTES", 65_536)
    site = new_site()
    accepted = site.send([event(number, attributes={"x": "y" * 1000}) for number in range(200)])
    waits = site.send(event(1000))
    site.report(offset=200)
    after = site.send(event(1000))

    assert (accepted.status_code, waits.status_code, after.status_code) == (202, 429, 202)
    assert (waits.json()["code"], waits.headers["retry-after"]) == ("too_many_requests", "5")


def test_a_source_with_a_rate_pays_with_time(site: Any, event: Any) -> None:
    """10 events per second: a body of 30 is taken, then it waits 2 s; others do not notice."""
    taken = site.send([event(number) for number in range(30)], "slow")
    waits = site.send(event(100), "slow")
    other = site.send(event(200))
    site.clock.now += 2.1
    after = site.send(event(101), "slow")

    assert [answer.status_code for answer in (taken, waits, other, after)] == [202, 429, 202, 202]
    assert waits.headers["retry-after"] == "2"


def test_many_senders_at_once_lose_nothing(site: Any, event: Any) -> None:
    def send(connection: int) -> list[int]:
        headers = {**site.auth(), "content-type": NDJSON}
        with httpx2.Client(base_url=site.url) as client:
            return [
                client.post(
                    "/v1/events",
                    content=lines([event(f"{connection}-{body}-{row}") for row in range(5)]),
                    headers=headers,
                ).json()["accepted"]
                for body in range(20)
            ]

    with ThreadPoolExecutor(16) as pool:
        accepted = sum(sum(counted) for counted in pool.map(send, range(16)))

    ids = [found["id"] for found in site.events()]
    assert accepted == len(ids) == len(set(ids)) == 1600


def test_an_agent_can_not_frame_another_one(site: Any, event: Any) -> None:
    """180 events about a neighbour had it revoked: none is taken, each is counted, and the agent's own still are."""
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
