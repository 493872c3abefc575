"""OTLP/JSON: spans of agents, events of Ory Hydra on spans, access logs of gateways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.record_mapping import MappingSpec

from ...support.format_samples import LINES, SPAN, TOOL, TRACE, Taken, hydra, logs, one, span, taken


def test_a_tool_call() -> None:
    """Who, what, where, how long; never what was said. The id is self-asserted."""
    (event,), _, _ = taken("otlp", span(TOOL))

    assert event == {
        "id": f"{TRACE}:{SPAN}",
        "time": "2025-11-24T16:00:00.123456Z",
        "agent": {"id": "agent-7", "version": "2", "self_asserted": True},
        "principal": {"id": "ann"},
        "type": "tool.call",
        "action": "read_file",
        "effect": "unknown",
        "resource": {"target": "files.example"},
        "outcome": "success",
        "duration_ms": 31.0,
        "session": "conv-1",
        "trace_id": TRACE,
        "attributes": {"kind": "CLIENT", "model": "m-1", "input_tokens": 12},
    }


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"mcp.method.name": "resources/read"}, 3, ("api.call", "resources/read", "read")),
        ({"gen_ai.operation.name": "chat"}, "SPAN_KIND_CLIENT", ("api.call", "chat", "unknown")),
        ({"a2a.method": "message/send"}, 3, ("a2a.message", "message/send", "unknown")),
        ({"gen_ai.operation.name": "invoke_agent"}, 1, ("a2a.message", "invoke_agent", "unknown")),
        ({"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": "kb"}, 3, ("api.call", "retrieval", "read")),
    ],
)
def test_types_and_actions(values: dict[str, Any], kind: Any, expected: tuple[str, str, str]) -> None:
    """By the attribute that says most. Without an id of its own the calling service stands for the agent."""
    event = one("otlp", span(values, kind=kind))

    assert (event["type"], event["action"], event["effect"]) == expected and event["agent"]["id"] == "svc"


def test_a_servers_span_does_not_make_the_server_the_caller() -> None:
    """Without an id of the caller it is nobody's."""
    values = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "t"}

    assert taken("otlp", span(values, kind=2)) == Taken([], 1, [])
    assert one("otlp", span({**values, "client_id": "bot"}, kind=2))["agent"]["id"] == "bot"


@pytest.mark.parametrize(
    ("values", "status", "outcome", "error"),
    [
        ({"error.type": "tool_error"}, {"code": 2}, "error", "tool_error"),
        ({"error.type": "403"}, {}, "denied", "403"),
        ({}, {"code": "STATUS_CODE_ERROR"}, "error", None),
        ({}, {"code": 1}, "success", None),
    ],
)
def test_outcome(values: dict[str, Any], status: dict[str, Any], outcome: str, error: str | None) -> None:
    """By the type of error, else by the status of the span."""
    event = one("otlp", span({"gen_ai.tool.name": "t", **values}, status=status))

    assert (event["outcome"], event.get("error")) == (outcome, error)


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("OAuth2AccessTokenIssued", {"OAuth2GrantType": "refresh_token"}, "token.refresh"),
        (
            "OAuth2AccessTokenIssued",
            {"OAuth2GrantType": "urn:ietf:params:oauth:grant-type:token-exchange"},
            "token.exchange",
        ),
        ("OAuth2AccessTokenIssued", {}, "token.request"),
        ("OAuth2AccessTokenRevoked", {}, "token.revoke"),
        ("OAuth2ClientCreated", {}, "client.register"),
        ("OAuth2ConsentAccepted", {}, "approval"),
    ],
)
def test_types_of_hydras_events(name: str, more: dict[str, Any], expected: str) -> None:
    """A refresh and an exchange are told by the grant."""
    event = one("otlp", hydra(name, OAuth2ClientID="bot", OAuth2Subject="ann", **more))

    assert (event["type"], event["principal"]) == (expected, {"id": "ann"})


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (None, "revoked_by_trustwatch"),
        ("The token hook target responded with an error.", "revoked_by_trustwatch"),
        ("Make sure that the request you are making is valid. Maybe …", "revoked_by_trustwatch"),
        ("The OAuth 2.0 Client is not allowed to use authorization grant 'refresh_token'.", "revoked_by_trustwatch"),
        (
            "The requested scope is invalid, unknown, or malformed.",
            "The requested scope is invalid, unknown, or malformed.",
        ),
    ],
)
def test_what_our_hook_refused_is_ours(reason: str | None, error: str) -> None:
    """Hydra 2.3 names the client of a failed request only where the hook refused or failed; later ones say why."""
    reasons = {} if reason is None else {"ErrorReason": reason}

    event = one("otlp", hydra("OAuth2TokenExchangeError", OAuth2ClientID="bot", **reasons))

    assert (event["outcome"], event["error"]) == ("denied", error)


def test_what_hydra_2_3_sent() -> None:
    """A client's life: made, given a token, refused by the hook (403), and with a hook that failed (401, so 500).

    Its wrong scope and wrong secret have events too, which name nobody; its introspection, revocation, change and
    deletion are not its own acts, or do not say that they are.
    """
    events, skipped, refusals = taken("otlp", (LINES / "hydra_2.3.0_traces.json").read_bytes())

    assert [(event["type"], event["outcome"], event.get("error"), event.get("client")) for event in events] == [
        ("client.register", "success", None, None),
        ("token.request", "success", None, {"ip": "127.0.0.1"}),
        ("token.request", "denied", "revoked_by_trustwatch", {"ip": "127.0.0.1"}),
        ("token.request", "error", "trustwatch_unavailable", {"ip": "127.0.0.1"}),
    ]
    assert len({event["agent"]["id"] for event in events}) == 1 and (skipped, refusals) == (8, [])


def test_agentgateways_access_log() -> None:
    """Its keys are those of its lines; the scope tells it."""
    record = {
        "http.method": "POST",
        "http.path": "/mcp?t=secret",
        "http.status": 403,
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "pay",
        "client_id": "bot",
        "duration": "3ms",
        "reason": "ExtAuth",
        "error": "external authorization failed",
    }

    event = one("otlp", logs("agentgateway.access", record))

    assert event == {
        "time": "2025-11-24T16:00:00.123456Z",
        "agent": {"id": "bot", "self_asserted": True},
        "type": "tool.call",
        "action": "pay",
        "effect": "unknown",
        "resource": {"id": "/mcp"},
        "outcome": "denied",
        "status": 403,
        "error": "ext_authz_denied",
        "caused_by": "trustwatch",
        "duration_ms": 3.0,
        "trace_id": TRACE,
    }
    assert taken("otlp", logs("app", record)) == Taken([], 1, [])


def test_envoys_access_log() -> None:
    """The same keys as in its JSON log, all of them text."""
    record = {
        "start_time": "2026-11-24T22:56:21.143Z",
        "response_code": "200",
        "response_code_details": "via_upstream",
        "method": "GET",
        "route_name": "pay",
        "jwt.client_id": "bot",
        "duration": "15",
    }

    event = one("otlp", logs("envoy", record))

    assert event["agent"] == {"id": "bot", "self_asserted": True} and event["duration_ms"] == 15
    assert (event["action"], event["status"], event["time"]) == ("GET pay", 200, "2026-11-24T22:56:21.143Z")


def test_a_body_of_everything() -> None:
    """Spans and logs of several resources; what is not ours is counted, what is broken refuses only itself."""
    body = {**span(TOOL), **logs("app", {"a": "b"})}
    spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans += [{"name": "GET /", "kind": 2}, {"spanId": 7}, {**spans[0], "startTimeUnixNano": "soon"}]
    body["resourceSpans"].append({"scopeSpans": [{"spans": [spans[0]]}]})

    events, skipped, refusals = taken("otlp", body)

    assert (len(events), skipped, len(refusals)) == (2, 2, 2)
    assert all("span cannot be read" in reason for reason in refusals)


def test_a_dead_letter_can_be_sent_again() -> None:
    """What is kept of a refused span is an export request of that span alone."""
    body = span(TOOL)
    spec = MappingSpec(members={"session": 'attributes."gen_ai.usage.input_tokens" && resource'})
    body["resourceSpans"][0]["scopeSpans"][0]["spans"] *= 2

    first, _ = create_parser("otlp", spec)(json.dumps(body).encode(), {}).records

    (event,), _, _ = taken("otlp", first.whole)
    assert event["agent"]["id"] == "agent-7"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"\n\x0a\x02", "not a JSON object"),
        (b"[]", "Expected `object`"),
        (b"{}", "neither `resourceSpans` nor"),
        (b'{"resourceSpans": 3}', "Expected `array"),
        (b'{"resourceSpans": [', "not a JSON object"),
    ],
)
def test_other_bodies_are_refused_as_a_whole(value: bytes, words: str) -> None:
    with pytest.raises(Exception, match=words):
        create_parser("otlp")(value, {})


ARGUMENT = {"name": "to", "origin": "tool", "hash": "39e505e56acc", "from": 1, "from_action": "read_mail"}


def test_a_span_tells_origins_of_arguments() -> None:
    """As the text of their JSON, since attributes hold no objects."""
    values = {"trustwatch.arguments": json.dumps([ARGUMENT]), "trustwatch.untrusted_result": True}

    event = one("otlp", span({**TOOL, **values}))

    assert (event["arguments"], event["untrusted_result"]) == ([ARGUMENT], True)


@pytest.mark.parametrize(
    ("value", "help_text"),
    [("acct-42", "JSON"), ("{}", "must be a list"), (json.dumps([{**ARGUMENT, "hash": "acct-42"}]), "never the value")],
)
def test_a_span_with_wrong_origins_is_refused(value: str, help_text: str) -> None:
    """The error names the attribute of the span, and repeats no value."""
    _, _, refused = taken("otlp", span({**TOOL, "trustwatch.arguments": value}))

    assert len(refused) == 1
    assert help_text in str(refused[0]) and "arguments" in str(refused[0]) and "acct-42" not in str(refused[0])
