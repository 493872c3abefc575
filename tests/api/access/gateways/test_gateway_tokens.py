"""Tokens that are no good, requests that try tricks, and what refusals let out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from trustwatch.api.http.auth.jwks import KEYS_MAX_AGE_S, REFRESH_MIN_S
from trustwatch.scoring.records.agents import RiskLevel

WAYS = ("envoy", "forward")


UNSIGNED = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()


def of_another_key(desk: Any) -> str:
    issuer, now = desk.issuer, int(desk.now)
    claims = {"iss": issuer.settings().issuer, "sub": "bot", "aud": "https://api.example", "iat": now, "exp": now + 60}
    return jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", {"typ": "at+jwt", "kid": issuer.kid})


def with_broken_signature(desk: Any) -> str:
    right = str(desk.issuer.token())
    return right[:-4] + ("AAAA" if right[-4:] != "AAAA" else "BBBB")


def with_broken_body(desk: Any) -> str:
    head, body, signature = desk.issuer.token().split(".")
    return f"{head}.{body[:-2]}.{signature}"


FAULTS: dict[str, Callable[[Any], str]] = {
    "expired": lambda desk: desk.issuer.token(exp=int(desk.now) - 31),
    "not valid yet": lambda desk: desk.issuer.token(nbf=int(desk.now) + 60, iat=int(desk.now) + 60),
    "another audience": lambda desk: desk.issuer.token(aud="https://elsewhere.example"),
    "another issuer": lambda desk: desk.issuer.token(iss="https://evil.example"),
    "no exp": lambda desk: desk.issuer.token(exp=None),
    "no aud": lambda desk: desk.issuer.token(aud=None),
    "an id token": lambda desk: desk.issuer.token(header={"typ": "id+jwt"}),
    "a refresh token": lambda desk: desk.issuer.token(typ="Refresh"),
    "crit": lambda desk: desk.issuer.token(header={"crit": ["x"], "x": 1}),
    "another key": of_another_key,
    "unsigned": lambda desk: f"{UNSIGNED}.{desk.issuer.token().split('.')[1]}.",
    "broken signature": with_broken_signature,
    "broken body": with_broken_body,
    "no JWT": lambda desk: "opaque-token",
    "dots": lambda desk: "...",
    "too long": lambda desk: "e" * 20_000,
    "actor without name": lambda desk: desk.issuer.token(act={"iss": "x"}),
    "actor that is a text": lambda desk: desk.issuer.token(act="bot"),
    "actor with an endless name": lambda desk: desk.issuer.token(act={"sub": "x" * 3000}),
    "earlier actor with an endless name": lambda desk: desk.issuer.token(
        act={"sub": "bot", "act": {"sub": "x" * 3000}}
    ),
    "half a character": lambda desk: desk.issuer.token("bot\ud800"),
    "half a character anywhere": lambda desk: desk.issuer.token(extra={"deep": ["\udfff"]}),
    "too many scopes": lambda desk: desk.issuer.token(scope=" ".join(map(str, range(1001)))),
    "bound to a key": lambda desk: desk.issuer.token(cnf={"jkt": "x"}),
}
"""A token with one fault each."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_token_is_401(desk: Any, fault: str) -> None:
    """Again and again, so that what is remembered says it too; and no part of the token comes back."""
    token = FAULTS[fault](desk)

    for way, method in ((way, method) for way in WAYS for method in ("GET", "DELETE")):
        answer = getattr(desk, way)(token, method)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer realm="agents", error="invalid_token"')
        assert answer.json()["error"] == "invalid_token"
        for part in token.split("."):
            assert len(part) < 4 or part not in answer.text + str(answer.headers)
    assert desk.events() == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", [None, "", "Basic Ym90OmJvdA==", "Bearer", "Negotiate x"])
def test_no_token_is_a_bare_challenge(desk: Any, way: str, given: str | None) -> None:
    """Without an error code (RFC 6750 section 3); `Bearer` alone is malformed."""
    headers = {} if given is None else {"authorization": given}
    path = {"envoy": "/ext-authz/mcp", "forward": "/forward-auth"}[way]

    answer = desk.send("GET", path, headers)

    assert answer.status_code == 401
    wanted = 'Bearer realm="agents"'
    if given == "Bearer":
        assert answer.headers["www-authenticate"].startswith(wanted + ', error="invalid_token"')
    else:
        assert answer.headers["www-authenticate"] == wanted


def test_two_authorization_headers_are_none(desk: Any) -> None:
    right = ("authorization", f"Bearer {desk.issuer.token()}")

    for other in (right, ("authorization", "Bearer other"), ("authorization", "")):
        for pair in ([right, other], [other, right]):
            assert desk.send("GET", "/ext-authz/", pair).status_code == 401


def test_challenges_name_the_metadata_where_configured(new_desk: Callable[..., Any]) -> None:
    url = "https://api.example/.well-known/oauth-protected-resource"
    desk = new_desk(resource_metadata=url)

    assert desk.envoy().headers["www-authenticate"] == f'Bearer realm="agents", resource_metadata="{url}"'
    assert f'resource_metadata="{url}"' in desk.envoy("bad").headers["www-authenticate"]


def test_dpop_is_refused_unless_the_gateway_checks_it(new_desk: Callable[..., Any]) -> None:
    """Refused clearly; and a bound token is worth nothing as Bearer, whoever checks what."""
    desk = new_desk()
    bound = desk.issuer.token(cnf={"jkt": "x"})
    refused = desk.send("GET", "/ext-authz/", {"authorization": f"DPoP {bound}"})
    assert refused.status_code == 401
    assert "DPoP is not accepted" in refused.headers["www-authenticate"]

    desk = new_desk(dpop="gateway")
    assert desk.send("GET", "/ext-authz/", {"authorization": f"DPoP {bound}"}).status_code == 200
    assert desk.envoy(bound).status_code == 401
    assert desk.envoy(desk.issuer.token()).status_code == 200


PATHS = [
    "",
    "/",
    "//",
    "/mcp",
    "//evil.example/mcp",
    "/a/../../v1/agents/bot/risk",
    "/..%2f..%2fmetrics",
    "/%2e%2e/healthz",
    "/v1/agents/bot/risk",
    "/a%00b",
    "/%ff%fe",
    "/introspect",
    "/hooks/okta",
    "*",
    "/" + "x" * 9000,
    "/mcp?x=1&y=%0d%0a",
    "?x=1",
    "/.",
    ";/../..",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_or_method_leads_around_the_check(desk: Any, path: str) -> None:
    """Never a redirect, a 204 or a 404: denied without a token and with a denied one, an empty 200 with a good one."""
    desk.agent("evil", RiskLevel.CRITICAL)
    evil, good = desk.issuer.token("evil"), desk.issuer.token("good")

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"):
        assert raw(desk, method, path, None) == (401, method != "HEAD")
        assert raw(desk, method, path, evil) == (403, method != "HEAD")
        assert raw(desk, method, path, good) == (200, False)


def raw(desk: Any, method: str, path: str, token: str | None) -> tuple[int, bool]:
    """Status and whether there is a body, for a path that no client library may tidy up."""
    raw_path, _, query = f"/ext-authz{path}".encode().partition(b"?")
    scope = {
        "type": "http",
        "method": method,
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": query,
        "headers": [(b"host", b"api.example")],
        "http_version": "1.1",
        "scheme": "http",
    }
    if token is not None:
        scope["headers"].append((b"authorization", f"Bearer {token}".encode()))  # type: ignore[attr-defined]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    desk.run(desk.app(scope, receive, send))
    return sent[0]["status"], bool(sent[1]["body"])


def test_what_is_near_a_check_is_none(desk: Any) -> None:
    for path in ("/forward-auth/x", "/forward-authx", "/ext-auth", "/introspect/x", "/EXT-AUTHZ/x"):
        assert desk.send("GET", path, {"authorization": f"Bearer {desk.issuer.token()}"}).status_code == 404


def test_without_issuers_there_are_no_checks(new_desk: Callable[..., Any], issuer: Any) -> None:
    desk = new_desk(none=True)

    for answer in (desk.envoy(issuer.token()), desk.forward(issuer.token()), desk.introspect(issuer.token())):
        assert answer.status_code == 404


EVIL = 'bot\r\nX-Risk-Level: low\r\n\r\n<script>"\\\x00é代'


@pytest.mark.parametrize("way", WAYS)
def test_names_of_agents_reach_no_header(new_desk: Callable[..., Any], way: str) -> None:
    desk = new_desk(risk_header="X-Risk-Level", tell_approval=True)
    for level in (RiskLevel.LOW, RiskLevel.HIGH, RiskLevel.CRITICAL):
        desk.agent(EVIL, level)
        answer = getattr(desk, way)(desk.issuer.token(EVIL), "POST", "/mcp?secret=1")
        for name, value in answer.headers.raw:
            assert all(32 <= sign < 127 for sign in name + value)
            assert b"<script" not in value
        assert "bot" not in answer.text

    events = [event for event in desk.events() if event["type"] == "api.call"]
    assert [event["agent"]["id"] for event in events] == [EVIL, EVIL]
    assert all("secret" not in json.dumps(event) for event in events)


def test_an_id_of_the_gateway_is_repeated_only_when_it_is_one(desk: Any) -> None:
    fit = "acc5ee3d-8d25-4189-9c43-8770921f86d8"
    assert desk.envoy(headers={"x-request-id": fit}).json()["request_id"] == fit
    for unfit in ("", "a b", '"}', "é".encode(), "x" * 129, "a\x00"):
        given = desk.send("GET", "/ext-authz/", [("x-request-id", unfit)]).json()["request_id"]
        assert given.isdigit()


def test_a_denial_tells_nothing(desk: Any) -> None:
    """Denied by level or for a fault of ours, by either way: the same status, headers and body but for its id."""
    desk.agent("critical", RiskLevel.CRITICAL)
    seen = []
    for token, method in ((desk.issuer.token("critical"), "GET"), (desk.issuer.token("critical", scope=""), "POST")):
        for way in WAYS:
            answer = getattr(desk, way)(token, method)
            content = answer.json()
            assert set(content) == {"error", "request_id"}
            seen.append((answer.status_code, dict(answer.headers), content["error"]))
    desk.policy.book.effective_policy = None  # type: ignore[method-assign] # a fault of ours
    answer = desk.envoy(desk.issuer.token("other"))
    seen.append((answer.status_code, dict(answer.headers), answer.json()["error"]))

    shapes = {json.dumps([status, sorted(set(headers) - {"content-length"}), error]) for status, headers, error in seen}
    assert len(shapes) == 1
    (shape,) = shapes
    assert json.loads(shape) == [403, ["cache-control", "content-type", "x-request-id"], "access_denied"]
    text = str(seen).lower()
    for word in ("risk", "critical", "score", "reason", "policy", "trustwatch", "level", "revoke"):
        assert word not in text


def test_an_approval_is_named_only_where_configured(new_desk: Callable[..., Any]) -> None:
    for told in (False, True):
        desk = new_desk(tell_approval=told)
        desk.agent("bot", RiskLevel.HIGH)

        answer = desk.envoy(desk.issuer.token(), "POST")

        (asked,) = desk.asked()
        assert answer.headers.get("x-approval-id") == (asked.intervention_id if told else None)


def test_new_keys_are_taken_over_while_a_call_waits(new_desk: Callable[..., Any], issuer: Any) -> None:
    """A token with a key that is not held waits a moment for it; tokens of the old key are judged anew."""
    desk = new_desk()
    old = issuer.token()
    assert desk.envoy(old).status_code == 200
    desk.now += REFRESH_MIN_S + 1
    issuer.key = ec.generate_private_key(ec.SECP256R1())
    issuer.publish("k2")

    assert desk.envoy(issuer.token()).status_code == 200
    assert desk.envoy(old).status_code == 401


def test_a_key_that_nobody_published_is_a_bad_token(desk: Any) -> None:
    assert desk.envoy(desk.issuer.token(header={"kid": "k9"})).status_code == 401


def test_without_keys_nobody_passes(new_desk: Callable[..., Any], issuer: Any) -> None:
    """It is our outage, not the token's fault: 403, so that clients keep their tokens. Failing open opens nothing, for
    anybody can write a token that names the issuer."""
    issuer.file.unlink()
    desk = new_desk(on_failure="open")

    for answer in (desk.envoy(issuer.token()), desk.forward(issuer.token())):
        assert (answer.status_code, answer.json()["error"]) == (403, "access_denied")
    assert desk.envoy("opaque").status_code == 401
    assert 'trustwatch_verdict_failures_total{fails="closed",via="ext_authz"} 1.0' in desk.metrics()
    assert 'trustwatch_gateway_answers_total{answer="no_keys",way="ext_authz"} 1.0' in desk.metrics()
    assert f'trustwatch_issuer_keys{{issuer="{issuer.settings().issuer}"}} 0.0' in desk.metrics()

    issuer.publish("k1")
    desk.now += REFRESH_MIN_S + 1
    assert desk.envoy(issuer.token()).status_code == 200


def test_keys_are_kept_while_their_issuer_is_silent(desk: Any) -> None:
    """Up to `KEYS_MAX_AGE_S`; then its tokens count no more, the remembered ones neither."""
    desk.issuer.file.unlink()
    token = desk.issuer.token(exp=int(desk.now) + 10 * 86_400)
    assert desk.envoy(token).status_code == 200

    desk.now += KEYS_MAX_AGE_S - 1
    assert desk.envoy(token).status_code == 200
    desk.now += 2
    assert desk.envoy(token).status_code == 403


@pytest.mark.parametrize(
    ("mode", "on_failure", "status"), [("enforce", "closed", 403), ("enforce", "open", 200), ("shadow", "closed", 200)]
)
def test_a_fault_of_ours_is_answered_as_set(
    new_desk: Callable[..., Any], mode: str, on_failure: str, status: int, caplog: Any
) -> None:
    """For calls whose token is verified; where no policy is enforced nothing is refused. No header tells of it."""
    desk = new_desk(mode=mode, on_failure=on_failure, risk_header="X-Risk-Level")
    token = desk.issuer.token()
    desk.guard.policy_evaluator._is_stale = None  # the fault

    answer = desk.envoy(token, "POST")

    assert answer.status_code == status
    assert "x-risk-level" not in answer.headers
    fails = "open" if status == 200 else "closed"
    assert f'trustwatch_verdict_failures_total{{fails="{fails}",via="ext_authz"}} 1.0' in desk.metrics()
    assert desk.envoy("bad").status_code == 401


def test_denials_become_events_that_are_no_behaviour(new_desk: Callable[..., Any]) -> None:
    """One each, marked as ours, with nothing of the token; allowed calls are the access log's to tell."""
    from trustwatch.ingest.columns import OWN_DENIALS

    desk = new_desk()
    desk.agent("bot", RiskLevel.CRITICAL)
    token = desk.issuer.token(act={"sub": "bot", "act": {"sub": "boss"}})
    desk.envoy(desk.issuer.token("fine"))
    desk.envoy(token, "POST", "/pay?to=me", headers={"host": "api.example"})
    desk.forward(token, "PUT", "/pay%20it?to=me", x_forwarded_for="198.51.100.7")
    desk.forward(token, "PUT", b"/p\x7f\xe9", x_forwarded_host="<evil>")

    first, second, third = desk.events()
    assert first["source"] == "urn:trustwatch:ext_authz"
    assert first["error"] in OWN_DENIALS
    assert (first["type"], first["action"], first["outcome"]) == ("api.call", "POST", "denied")
    assert first["delegation"] == ["bot", "boss"]
    assert (first["resource"]["id"], second["resource"]["id"]) == ("api.example/pay", "api.example/pay%20it")
    assert (second["action"], second["source"]) == ("PUT", "urn:trustwatch:forward_auth")
    assert third["resource"]["id"].isprintable()
    assert "<" not in third["resource"]["id"]
    assert token.split(".")[2] not in json.dumps([first, second, third])


def test_all_calls_become_events_where_configured(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(record="all")
    desk.envoy(desk.issuer.token(), "POST", "/mcp")

    (event,) = desk.events()
    assert (event["outcome"], event.get("error"), event["agent"]["id"]) == ("success", None, "bot")


def test_answers_are_counted(desk: Any) -> None:
    desk.agent("bot", RiskLevel.CRITICAL)
    desk.envoy(desk.issuer.token("fine"))
    desk.envoy(desk.issuer.token("bot"))
    desk.forward()
    metrics = desk.metrics()

    for line in (
        'trustwatch_gateway_answers_total{answer="allowed",way="ext_authz"} 1.0',
        'trustwatch_gateway_answers_total{answer="denied",way="ext_authz"} 1.0',
        'trustwatch_gateway_answers_total{answer="missing_token",way="forward_auth"} 1.0',
        'trustwatch_http_requests_total{route="/ext-authz/{path}",status="403"} 1.0',
        'trustwatch_gateway_seconds_count{way="ext_authz"} 2.0',
        'trustwatch_gateway_seconds_count{way="forward_auth"} 1.0',
    ):
        assert line in metrics
