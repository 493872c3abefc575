"""Records of gateways and authorization servers over real HTTP, in their own formats."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from trustwatch.api.http.ledger import FairQueue, Overloaded
from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.formats import otlp
from trustwatch.ingest.formats.record_mapping import MappingSpec
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.dead_letters import DeadLetter

TEXT = "text/plain; charset=utf-8"
NDJSON = "application/x-ndjson"
ENVOY_PATH = "/v1/events?format=envoy"
LINE = (
    '2025-11-24 15:59:11,555 INFO  [org.keycloak.events] (t-1) type="CLIENT_LOGIN", realmId="r", realmName="agents",'
    ' clientId="bot", userId="u", ipAddress="10.0.0.1", scope="pay", client_auth_method="client-jwt",'
    ' username="service-account-bot"'
)
ENVOY = {
    "start_time": "2025-11-24T15:59:00Z",
    "method": "GET",
    "response_code": 200,
    "route_name": "pay",
    "jwt.client_id": "bot",
    "x-envoy-origin-path": "/v1?token=t",
    "jwt.jti": "token-1",
}
SPAN = {
    "traceId": "435cf05aec2200ec45146f118d82a2bd",
    "spanId": "61b840ab7a229146",
    "kind": 3,
    "startTimeUnixNano": "1763999940000000000",
    "attributes": [
        {"key": "gen_ai.tool.name", "value": {"stringValue": "read_file"}},
        {"key": "gen_ai.agent.id", "value": {"stringValue": "bot"}},
    ],
}


def counts(answer: httpx2.Response) -> tuple[int, int, int, int]:
    body = answer.json()
    return body["accepted"], body["duplicate"], body["rejected"], body["skipped"]


def natives(site: Any) -> list[dict[str, Any]]:
    return [json.loads(record.payload) for record in site.logged()]


def export(site: Any, path: str, body: Any, client: str = "otel", **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json", **site.auth(client)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    answer: httpx2.Response = site.client.post(path, content=content, headers=given)
    return answer


def spans(*made: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "sdk"}, "spans": list(made)}]}]}


def binary_ids(body: dict[str, Any]) -> dict[str, Any]:
    """OTLP/JSON with ids in base64, as JSON of protobuf has bytes."""
    (scoped,) = body["resourceSpans"][0]["scopeSpans"]
    ids = ("traceId", "spanId")
    made = [
        {**one, **{name: base64.b64encode(bytes.fromhex(one[name])).decode() for name in ids if name in one}}
        for one in scoped["spans"]
    ]
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{**scoped, "spans": made}]}]}


def test_a_callers_format_is_that_of_its_settings(site: Any) -> None:
    """Lines as text, with its own mapping, its tenant and issuer; what is none of ours is counted."""
    answer = site.send(
        "\n".join([LINE, "2025-11-24 15:59:12,000 INFO  [io.quarkus] (main) up"]).encode(), "keycloak", TEXT
    )

    assert (answer.status_code, counts(answer)) == (202, (1, 0, 0, 1))
    (event,) = natives(site)
    assert event["tenant"] == "acme" and event["agent"] == {"id": "bot", "issuer": "https://as.example"}
    assert event["attributes"]["server"] == "kc-1" and event["type"] == "token.request"
    assert counts(site.send(LINE.encode(), "keycloak", TEXT)) == (0, 1, 0, 0)
    metrics = site.client.get("/metrics").text
    assert 'trustwatch_events_total{outcome="skipped",source="keycloak"} 1.0' in metrics


@pytest.mark.parametrize("kind", [NDJSON, "application/json"])
def test_a_request_may_name_its_format(site: Any, kind: str) -> None:
    """One a line, or one JSON value; secrets stay outside."""
    records = [
        ENVOY,
        {**ENVOY, "response_code": 403, "response_code_details": "ext_authz_denied"},
        {**ENVOY, "jwt.client_id": None},
    ]
    body = json.dumps(records) if kind != NDJSON else "\n".join(map(json.dumps, records))

    packed = gzip.compress(body.encode())
    answer = export(site, ENVOY_PATH, packed, "gateway", content_type=kind, content_encoding="gzip")

    assert (answer.status_code, counts(answer)) == (202, (2, 0, 0, 1))
    # A format that a request names gives no right to say that we caused it: the settings of this caller do not.
    assert [event.get("error") for event in natives(site)] == [None, "claimed:ext_authz_denied"]
    assert not any("caused_by" in event for event in natives(site))
    assert natives(site)[0]["credential"]["token_id"].startswith("sha256:")
    assert not any(b"token=t" in record.payload or b"token-1" in record.payload for record in site.logged())


def test_a_caller_with_a_format_may_still_send_native_events(site: Any, event: Callable[..., Any]) -> None:
    answer = export(site, "/v1/events?format=native", event(), "keycloak")

    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)


def test_a_shuffled_delivery_becomes_durable_in_the_order_of_time(site: Any) -> None:
    """Order is evidence; the records of one body are put into it, wherever they stood."""
    records = [{**ENVOY, "start_time": f"2025-11-24T15:5{minute}:00Z"} for minute in (7, 2, 9, 4)]
    answer = export(site, ENVOY_PATH, records, "gateway")
    assert counts(answer) == (4, 0, 0, 0)
    assert [event["time"][14:16] for event in natives(site)] == ["52", "54", "57", "59"]


@pytest.mark.parametrize("wanted", ["nothing", "mapping"])
def test_an_unknown_format_is_told(site: Any, wanted: str) -> None:
    """So is one that needs a mapping which the caller does not have. Nothing was read, so nothing is kept."""
    answer = export(site, f"/v1/events?format={wanted}", {}, "gateway")

    assert answer.status_code == 400 and answer.json()["code"] == "unknown_format"
    assert site.logged(RecordKind.DEAD) == []


def test_a_broken_record_refuses_only_itself(site: Any) -> None:
    wrong = LINE.partition(") ")[2]  # no time

    answer = site.send(f"{LINE}\n{wrong}\n{{broken".encode(), "keycloak", TEXT)

    assert (answer.status_code, counts(answer)) == (202, (1, 0, 2, 0))
    assert "names no time" in answer.json()["rejections"][0]["reason"]
    assert len(site.logged(RecordKind.DEAD)) == 2


def test_refused_records_are_tried_again_in_their_format(site: Any, event: Callable[..., Any]) -> None:
    """As the word of their sender, and as its settings say now, unless the request says otherwise."""
    position = site.store.partitions.claim(0)
    kept = {
        "line": ("keycloak", LINE.encode()),
        "native": ("keycloak", json.dumps(event()).encode()),
        "envoy": ("trusted", json.dumps(ENVOY).encode()),
        "broken": ("keycloak", b"{broken"),
    }
    letters = [DeadLetter(name, 0, source, "wrong", "$", raw, 0, 0) for name, (source, raw) in kept.items()]
    site.store.commit(Commit(position, Position(0, position.epoch, 1), [], [], [], letters))

    def replay(name: str, **params: str) -> int:
        path = f"/v1/dead-letters/{name}/replay"
        answer: httpx2.Response = site.client.post(path, headers=site.auth("all"), params={**params})
        return answer.status_code

    assert [replay("line"), replay("broken"), replay("native", format="native")] == [202, 400, 202]
    assert [replay("envoy"), replay("envoy", format="envoy"), replay("envoy", format="x")] == [400, 202, 400]
    assert [event["tenant"] for event in natives(site)] == ["acme"] * 3
    assert natives(site)[0]["attributes"]["server"] == "kc-1" and site.logged(RecordKind.DEAD) == []


@pytest.mark.parametrize(
    ("kind", "status"), [("application/cloudevents+json", 415), ("application/xml", 415), ("", 415), (NDJSON, 400)]
)
def test_media_types_of_foreign_records(site: Any, kind: str, status: int) -> None:
    answer = site.send(b"{broken", "keycloak", kind)

    assert answer.status_code == status


def test_a_large_foreign_body(site: Any) -> None:
    body = "\n".join(json.dumps({**ENVOY, "duration": number}) for number in range(1_000)).encode()

    answer = export(site, ENVOY_PATH, body, "gateway", content_type=NDJSON)
    too_many = export(site, ENVOY_PATH, b"{}\n" * 10_001, "gateway", content_type=NDJSON)

    assert (answer.status_code, counts(answer)) == (202, (1_000, 0, 0, 0))
    assert too_many.status_code == 413 and "10000" in too_many.json()["detail"]


def test_traces(site: Any) -> None:
    """OTLP/HTTP answers an empty partial success; the caller's mapping holds, and so does what it may speak for."""
    answer = export(site, "/v1/traces", spans(SPAN, {"name": "GET /"}))

    assert (answer.status_code, answer.json()) == (200, {"partialSuccess": {}})
    assert answer.headers["content-type"] == "application/json"
    (event,) = natives(site)
    assert event["agent"] == {"id": "bot", "issuer": "https://as.example"} and event["action"] == "read_file"


def test_another_callers_traces_are_self_asserted(site: Any) -> None:
    assert export(site, "/v1/traces", spans(SPAN), "gateway").status_code == 200
    assert natives(site)[0]["agent"]["self_asserted"] is True


def test_logs(site: Any) -> None:
    record = {
        "timeUnixNano": "1763999940000000000",
        "attributes": [
            {"key": "client_id", "value": {"stringValue": "bot"}},
            {"key": "http.status", "value": {"intValue": "200"}},
        ],
    }
    scoped = {"scope": {"name": "agentgateway.access"}, "logRecords": [record]}
    body = gzip.compress(json.dumps({"resourceLogs": [{"scopeLogs": [scoped]}]}).encode())

    answer = export(site, "/v1/logs", body, content_encoding="gzip")

    assert (answer.status_code, answer.json()) == (200, {"partialSuccess": {}})
    assert natives(site)[0]["outcome"] == "success"


def test_refused_spans_are_told(site: Any) -> None:
    """Their number and the first reason; each is a dead letter, which can be replayed."""
    answer = export(site, "/v1/traces", spans(SPAN, {**SPAN, "startTimeUnixNano": "1763999940000000000000"}))

    assert answer.status_code == 200
    partial = answer.json()["partialSuccess"]
    assert partial["rejectedSpans"] == "1" and "nanoseconds" in partial["errorMessage"]
    assert len(site.logged()) == len(site.logged(RecordKind.DEAD)) == 1


def test_refused_spans_of_a_resource_share_a_letter(site: Any) -> None:
    """The resource is kept once, and a replay of the letter sends all of them."""
    bad = {**SPAN, "startTimeUnixNano": "soon"}
    body = spans(*[bad] * 50)
    body["resourceSpans"][0]["resource"] = {"attributes": [{"key": "note", "value": {"stringValue": "x" * 10_000}}]}

    answer = export(site, "/v1/traces", body)

    assert answer.status_code == 400 and answer.json()["rejected"] == 50
    (letter,) = site.logged(RecordKind.DEAD)
    assert {rejection["dead_letter_id"] for rejection in answer.json()["rejections"]} == {
        json.loads(letter.payload)["letter_id"]
    }
    kept = json.loads(base64.b64decode(json.loads(letter.payload)["raw"]))
    assert kept["resourceSpans"][0]["scopeSpans"][0]["spans"] == [bad] * 50


def test_bulk_work_of_a_tenant_is_bounded(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 before the body is read; a short body is taken all the same."""
    monkeypatch.setattr(FairQueue, "check", refuse_bulk)

    long = export(site, "/v1/traces", spans(*[SPAN] * 50))
    packed = export(
        site, "/v1/traces", gzip.compress(json.dumps(spans(*[SPAN] * 50)).encode()), content_encoding="gzip"
    )
    short = export(site, "/v1/traces", spans(SPAN))

    assert packed.status_code == 429  # however short it came
    assert (long.status_code, long.json()["code"]) == (429, "too_many_requests")
    assert long.headers["retry-after"] == "2" and "of this tenant waits" in long.json()["detail"]
    assert short.status_code == 200 and len(site.logged()) == 1


def pool_processes() -> set[int]:
    """Processes of pools that this process has started."""
    found = set[int]()
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (thread / "children").read_text().split():
                if b"to_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.add(int(child))
    return found


def test_processes_of_the_pool_are_killed_under_load(site: Any) -> None:
    """Their requests get 422, others their answer; everything that was acknowledged is in the log, and nothing else."""
    bodies = [spans(*({**SPAN, "spanId": f"{each:08x}{one:08x}"} for one in range(300))) for each in range(16)]
    killed = 0
    with ThreadPoolExecutor(8) as senders:
        answers = [senders.submit(export, site, "/v1/traces", body) for body in bodies]
        while not all(answer.done() for answer in answers):
            for process in pool_processes() if killed < 4 else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
    statuses = [answer.result().status_code for answer in answers]

    assert killed and set(statuses) == {200, 422}
    assert len(site.logged()) == 300 * statuses.count(200)


def refuse_bulk(*_: Any) -> None:
    raise Overloaded("work", "too much of this tenant waits")


@pytest.mark.parametrize(
    ("spans_in_body", "words"),
    [
        ([b"\x4a\x00" * 1_000_001], "more than 1000000 messages"),
        ([b"\x4a\x06\x12\x04\x0a\x02ab" * 5_000], "2 times its bytes"),
    ],
)
def test_protobuf_is_bounded_before_it_is_taken_apart(spans_in_body: list[bytes], words: str) -> None:
    """Each message takes some hundred bytes of memory, and becomes longer as JSON."""

    def field(number: int, content: bytes) -> bytes:
        length, out = len(content), b""
        while length > 0x7F:
            out, length = out + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + out + bytes([length]) + content

    body = field(1, field(2, b"".join(field(2, one) for one in spans_in_body)))
    with pytest.raises(MalformedEvent, match=words):
        otlp.protobuf_to_json("traces", body)


def test_a_body_that_is_no_otlp(site: Any) -> None:
    """400, which no exporter sends again; what was sent is kept."""
    answer = export(site, "/v1/traces", b'{"spans": []}')

    assert answer.status_code == 400 and "resourceSpans" in answer.json()["detail"]
    assert len(site.logged(RecordKind.DEAD)) == 1


def test_protobuf(site: Any) -> None:
    """What SDKs send: ids are hexadecimal then, and the answer is protobuf too, empty where everything was taken."""
    message = json_format.ParseDict(binary_ids(spans(SPAN, {"name": "GET /"})), ExportTraceServiceRequest())

    answer = export(site, "/v1/traces", message.SerializeToString(), content_type="application/x-protobuf")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/x-protobuf"
    (event,) = natives(site)
    assert (event["id"], event["action"]) == (f"{SPAN['traceId']}:{SPAN['spanId']}", "read_file")


def test_protobuf_with_refused_records(site: Any) -> None:
    record = {"timeUnixNano": str(2**63), "attributes": [{"key": "client_id", "value": {"stringValue": "bot"}}]}
    good = {**record, "timeUnixNano": "1763999940000000000"}
    status = {"key": "http.status", "value": {"intValue": "200"}}
    scoped = {
        "scope": {"name": "agentgateway.access"},
        "logRecords": [record, {**good, "attributes": [*good["attributes"], status]}],
    }
    message = json_format.ParseDict({"resourceLogs": [{"scopeLogs": [scoped]}]}, ExportLogsServiceRequest())

    answer = export(
        site,
        "/v1/logs",
        gzip.compress(message.SerializeToString()),
        content_type="application/x-protobuf",
        content_encoding="gzip",
    )

    assert answer.status_code == 200
    partial = ExportLogsServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_log_records == 1 and partial.error_message
    assert len(natives(site)) == len(site.logged(RecordKind.DEAD)) == 1


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs"])
def test_what_is_no_protobuf_is_refused(site: Any, path: str) -> None:
    answer = export(site, path, b"\x0a\xff", content_type="application/x-protobuf")

    assert answer.status_code == 400 and "no OTLP protobuf" in answer.json()["detail"]
    assert [record.kind for record in site.logged(RecordKind.DEAD)] == [RecordKind.DEAD]


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs"])
@pytest.mark.parametrize("kind", ["application/x-protobuf", "text/plain"])
def test_without_the_extra_protobuf_is_refused_with_what_to_do(
    site: Any, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    """415 says what to install, or which setting of the exporter to change."""
    monkeypatch.setattr(otlp, "protobuf_available", lambda: False)

    answer = export(site, path, b"\x0a\x00", content_type=kind)

    assert answer.status_code == 415
    assert "extra `otlp`" in answer.json()["detail"] and "http/json" in answer.json()["detail"]


def test_export_needs_the_scope_and_a_binding(site: Any) -> None:
    body = json.dumps(spans(SPAN)).encode()
    scoped = site.client.post(
        "/v1/traces",
        content=body,
        headers={**site.auth("otel", "trust.score:read"), "content-type": "application/json"},
    )

    assert scoped.status_code == 403
    assert export(site, "/v1/traces", spans(SPAN), "stranger").status_code == 403


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "keycloack"}, "no format `keycloack`"),
        ({"format": "mapping"}, "mapping has no member"),
        ({"mapping": {"whn": "type"}}, "mapping: Object contains unknown field `whn`; may have `members`"),
        ({"mapping": {"anonymous": "take"}}, "mapping: Invalid enum value 'take' - at `\\$.anonymous`; one of skip"),
    ],
)
def test_wrong_settings_are_refused_at_the_start(settings: dict[str, Any], words: str) -> None:
    """A misspelt format is not found out by the first record."""
    with pytest.raises(ValueError, match=words):
        CallerSettings(name="x", client_id="x", **settings)


def test_settings_file(tmp_path: Any) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "issuers: [{issuer: i, audiences: [a], jwks_uri: 'https://i/jwks'}]\n"
        'callers:\n- {name: kc, client_id: kc, format: keycloak, mapping: {when: "type"}}\n'
    )

    (caller,) = load_settings(path, {}).callers

    assert (caller.format, caller.own_mapping()) == ("keycloak", MappingSpec(when="type"))
