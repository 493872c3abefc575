"""Problem documents over a real FastAPI application, and the mapping of errors to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from trustwatch.api.http.auth.callers import InsufficientScope, TenantNotAllowed
from trustwatch.api.http.auth.token_verification import BadAuthorization, InvalidToken, MissingToken, UnknownKey
from trustwatch.api.http.problems import (
    ProblemDetails,
    ProblemError,
    ProblemTable,
    bearer_challenge,
    install_problem_handlers,
    problem_of,
)
from trustwatch.api.http.refused_callers import RefusedCallers
from trustwatch.ingest.errors import (
    ConfigError,
    CorruptLog,
    Fenced,
    MalformedEvent,
    ModelError,
    SourceNotAllowed,
    TrustwatchError,
    Unavailable,
)


class Query(BaseModel):
    agents: list[int]


ERRORS: dict[str, Exception] = {
    "scope": InsufficientScope("trust.admin"),
    "missing": MissingToken("the request has no bearer token"),
    "invalid": InvalidToken("the token has expired"),
    "internal": CorruptLog("segment 17 of /var/lib/trustwatch is torn"),
    "crash": RuntimeError("password=hunter2"),
    "own": ProblemError(
        ProblemDetails(429, "too_many_requests", "Too many requests", "wait", {"Retry-After": "7"}, {"limit": 5})
    ),
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    install_problem_handlers(app, ProblemTable(), lambda: "err-1", RefusedCallers(lambda: 0.0))

    @app.get("/raise/{name}")
    async def fail(name: str) -> None:
        token = "SENT" + "INEL"
        raise ERRORS[name] from (KeyError() if token == "" else None)

    @app.post("/query")
    async def query(query: Query, limit: int = 1) -> dict[str, Any]:
        return {"agents": query.agents, "limit": limit}

    @app.post("/cut")
    async def cut(request: Request) -> None:
        async for _ in request.stream():
            raise ClientDisconnect

    with TestClient(app, raise_server_exceptions=False) as running:
        yield running


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedEvent("Expected `str`", "$.agent.id"), 400, "malformed_event"),
        (SourceNotAllowed("not yours", "$.tenant"), 403, "source_not_allowed"),
        (TenantNotAllowed(), 403, "tenant_not_allowed"),
        (InsufficientScope("trust.admin"), 403, "insufficient_scope"),
        (MissingToken("no token"), 401, "missing_token"),
        (BadAuthorization("no bearer"), 400, "invalid_request"),
        (InvalidToken("expired"), 401, "invalid_token"),
        (UnknownKey("https://as.example"), 401, "invalid_token"),
        (Unavailable("disk full"), 503, "unavailable"),
        (Fenced("epoch 4"), 503, "unavailable"),
        (ConfigError("secret"), 500, "internal_error"),
        (ModelError("digest"), 500, "internal_error"),
        (CorruptLog("segment"), 500, "internal_error"),
    ],
)
def test_each_error_has_its_status_and_code(error: TrustwatchError, status: int, code: str) -> None:
    problem = problem_of(error)
    body = json.loads(problem.body())

    assert (problem.status, problem.code) == (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:trustwatch:problem:{code}"
    assert ("WWW-Authenticate" in problem.headers) == (
        status == 401 or code in {"insufficient_scope", "invalid_request"}
    )


def test_internal_errors_tell_nothing_of_themselves() -> None:
    for error in (ConfigError("hunter2"), Unavailable("hunter2"), Fenced("hunter2")):
        assert b"hunter2" not in problem_of(error).body()


def test_a_wrong_member_is_named_by_its_path() -> None:
    """Malformed and foreign events carry the path apart from the sentence."""
    body = json.loads(problem_of(SourceNotAllowed("not yours", "$.tenant")).body())

    assert (body["detail"], body["path"]) == ("not yours", "$.tenant")


def test_members_never_replace_those_of_the_standard() -> None:
    body = json.loads(ProblemDetails(400, "c", "t", "d", members={"type": "x", "index": 3}).body())

    assert body == {
        "type": "urn:trustwatch:problem:c",
        "title": "t",
        "status": 400,
        "detail": "d",
        "code": "c",
        "index": 3,
    }


@pytest.mark.parametrize(
    ("name", "status", "challenge"),
    [
        ("missing", 401, ""),
        ("invalid", 401, ', error="invalid_token", error_description="the token has expired"'),
        (
            "scope",
            403,
            ', error="insufficient_scope", error_description="the token lacks the scope trust.admin",'
            ' scope="trust.admin"',
        ),
    ],
)
def test_each_refusal_has_its_challenge(name: str, status: int, challenge: str, client: TestClient) -> None:
    """Bare without a token (RFC 6750), else with the error, and with the scope that is missing."""
    answer = client.get(f"/raise/{name}")

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers["www-authenticate"] == 'Bearer realm="trustwatch"' + challenge
    assert answer.json().get("scope") == ("trust.admin" if name == "scope" else None)


def test_a_challenge_can_not_be_broken_out_of() -> None:
    """Quotes, backslashes and line breaks in a description cannot end the header or its parameter."""
    assert (
        bearer_challenge("e", 'a"b\\c\r\nd\u2019')
        == 'Bearer realm="trustwatch", error="e", error_description="a\'b\'c\'\'d\'"'
    )


@pytest.mark.parametrize("name", ["internal", "crash"])
def test_an_internal_failure_gives_an_id_and_is_logged(name: str, client: TestClient, capsys: Any) -> None:
    """500 holds an id and no detail; the log line of that id holds the failure."""
    answer = client.get(f"/raise/{name}")
    logged = capsys.readouterr().out

    assert answer.status_code == 500
    assert answer.json()["error_id"] == "err-1"
    assert "SENTINEL" not in logged, "values of local variables are not logged"
    assert str(ERRORS[name]) not in answer.text
    assert "err-1" in logged
    assert str(ERRORS[name]) in logged


def test_a_client_that_hangs_up_is_no_failure_of_ours(client: TestClient, capsys: Any) -> None:
    """Any sender could fill the log with tracebacks otherwise, and raise the alarm on 5xx."""
    assert client.post("/cut", content=b"{").status_code == 499
    assert capsys.readouterr().out == ""


def test_a_route_may_bring_its_own_problem(client: TestClient) -> None:
    """Status, headers and members of a ProblemError are sent as they are."""
    answer = client.get("/raise/own")

    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["limit"]) == (429, "7", 5)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("PUT", "/query", 405, "method_not_allowed")],
)
def test_routing_failures_are_problems_too(method: str, path: str, status: int, code: str, client: TestClient) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("Allow" in answer.headers) == (status == 405)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_an_invalid_body_names_each_wrong_member_and_repeats_none(client: TestClient) -> None:
    """422 lists path and reason; the values that were sent stay out of the answer."""
    answer = client.post("/query?limit=SENTINEL", json={"agents": [1, "SENTINEL"]})

    assert answer.status_code == 422
    assert sorted(error["path"] for error in answer.json()["errors"]) == ["$.agents[1]", "query.limit"]
    assert "SENTINEL" not in answer.text


def test_a_body_that_is_no_json_is_a_problem(client: TestClient) -> None:
    answer = client.post("/query", content=b"{", headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
