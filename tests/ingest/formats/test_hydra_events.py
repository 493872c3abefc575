"""Ory Hydra: lines of its log, and its events on spans."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.ingest.columns import OWN_DENIALS, OWN_OUTAGES
from trustwatch.ingest.formats.record_mapping import MappingSpec

from ...support.format_samples import LINES, Taken, one, taken

REQUEST = {
    "headers": {"user-agent": "sdk/1", "authorization": "Basic c2VjcmV0", "x-client-id": "bot"},
    "host": "as.example",
    "method": "POST",
    "path": "/oauth2/token",
    "query": None,
    "remote": "198.51.100.7:37146",
    "scheme": "http",
}
DONE: dict[str, Any] = {
    "http_request": REQUEST,
    "http_response": {"headers": {}, "size": 1269, "status": 200, "took": 12_265_189},
    "level": "info",
    "msg": "completed handling request",
    "time": "2026-11-25T12:36:59.375473648Z",
}
BY_HEADER = {"agent__id": 'http_request.headers."x-client-id"'}


TAKEN = "The OAuth 2.0 Client is not allowed to use authorization grant 'client_credentials'."
"""What a client hears whose grants were taken (Hydra 2.3.0)."""


def failed(
    message: str, debug: str = "", code: int = 400, path: str = "/oauth2/token", reason: str = "why"
) -> dict[str, Any]:
    """The line of an error."""
    return {
        "audience": "application",
        "error": {"debug": debug, "message": message, "reason": reason, "status_code": code},
        "http_request": {**REQUEST, "path": path},
        "level": "info",
        "msg": "access denied",
        "time": "2026-11-25T12:36:59.4397437Z",
    }


@pytest.mark.parametrize(
    ("line", "outcome", "error"),
    [
        (
            failed("access_denied", "Token hook responded with HTTP status code: 403 Forbidden", 403),
            "denied",
            "revoked_by_trustwatch",
        ),
        (
            failed("server_error", "Token hook responded with HTTP status code: 500 Internal", 500),
            "error",
            "trustwatch_unavailable",
        ),
        (
            failed("server_error", "Unable to execute HTTP Request: POST http://us/hooks giving up after 3", 500),
            "error",
            "trustwatch_unavailable",
        ),
        (failed("server_error", "the database is gone", 500), "error", "server_error"),
        (failed("access_denied", "the user said no", 403), "denied", "access_denied"),
        (failed("invalid_client", "", 401), "denied", "invalid_client"),
        (failed("invalid_request"), "error", "invalid_request"),
        (failed("unauthorized_client", reason=TAKEN), "denied", "revoked_by_trustwatch"),
        (failed("unauthorized_client"), "denied", "unauthorized_client"),
    ],
)
def test_what_our_hook_refused_or_missed_is_ours(line: dict[str, Any], outcome: str, error: str) -> None:
    """The line says that it was the hook; the kernel leaves such events out."""
    event = one("hydra", line, **BY_HEADER)

    assert (event["outcome"], event["error"]) == (outcome, error)
    assert {"revoked_by_trustwatch": OWN_DENIALS, "trustwatch_unavailable": OWN_OUTAGES}.get(error, {error}) >= {error}
    assert event["agent"].get("self_asserted", False) is (error == "invalid_client")


@pytest.mark.parametrize(
    "line",
    [
        "Thank you for using Ory Hydra v2.3.0!",
        {"audience": "audit", "level": "info", "msg": "something happened", "time": "2025-12-19T09:55:39+01:00"},
        {**DONE, "msg": "started handling request", "http_response": None},
        {**DONE, "http_request": {**REQUEST, "path": "/health/ready"}},
    ],
)
def test_other_lines_are_skipped(line: object) -> None:
    """The banner, what happens inside, beginnings of requests, and other paths."""
    assert taken("hydra", line, MappingSpec(members={"agent.id": "'bot'"})) == Taken([], 1, [])


@pytest.mark.parametrize("value", ['{"msg": "comp', '{"log": "{broken"}'])
def test_broken_lines_are_refused(value: str) -> None:
    """A line that begins as JSON must be JSON."""
    events, skipped, (reason,) = taken("hydra", value)

    assert (events, skipped) == ([], 0) and "not a JSON object" in reason


def test_what_a_running_server_wrote() -> None:
    """Requests about tokens become events once somebody says who called; everything else is skipped."""
    raw = (LINES / "hydra_2.3.0.jsonl").read_bytes()
    found = taken("hydra", raw, MappingSpec(members={"agent.id": "host(http_request.remote)"}))

    assert taken("hydra", raw).events == [] and found.refusals == []
    assert {(event["type"], event["outcome"], event.get("error")) for event in found.events} == {
        ("token.request", "success", None),
        ("token.request", "denied", "revoked_by_trustwatch"),
        ("token.request", "error", "trustwatch_unavailable"),
        ("token.request", "denied", "invalid_scope"),
        ("token.request", "error", "invalid_request"),
        ("token.request", "denied", "invalid_client"),
        ("token.introspect", "success", None),
        ("token.revoke", "success", None),
    }
