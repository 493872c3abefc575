"""`/introspect`: who may ask, what is active, what an authorization server of its own says, and what goes wrong."""

from __future__ import annotations

import base64
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec
import pytest

from trustwatch.api.access.gateways import gateway_issuers
from trustwatch.api.access.gateways.gateway_issuers import GatewayIssuers
from trustwatch.api.settings.enforcement_settings import GatewayClientSettings, IntrospectionServerSettings
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.records.agents import RiskLevel

INACTIVE = {"active": False}
SECRET = "a secret: of % letters"


class OpaqueServer:
    """An authorization server's introspection and revocation endpoints on loopback.

    Attributes:
        tokens: members of active tokens.
        asked: (path, form, authorization) of each request.
        status: of every answer.
        broken: a body that is sent instead.
        delay_s: before every answer.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.status, self.delay_s = 200, 0.0
        self.broken: bytes | None = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                token = form["token"][0]
                asked = {name: values[0] for name, values in form.items()}
                server.asked.append((self.path, asked, self.headers["authorization"] or ""))
                time.sleep(server.delay_s)
                members = server.tokens.pop(token, None) if self.path == "/revoke" else server.tokens.get(token)
                body = msgspec.json.encode(INACTIVE if members is None else {"active": True} | members)
                body = body if server.broken is None else server.broken
                self.send_response(server.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def questions(self, path: str = "/introspect") -> int:
        return len([one for one in self.asked if one[0] == path])

    def close(self) -> None:
        if self.thread.is_alive():
            self.http.shutdown()
            self.http.server_close()
            self.thread.join()


@pytest.fixture
def server() -> Iterator[OpaqueServer]:
    made = OpaqueServer()
    yield made
    made.close()


def asked(server: OpaqueServer, **given: Any) -> dict[str, Any]:
    introspection = IntrospectionServerSettings(url=f"{server.url}/introspect", **given)
    return {"introspection": introspection, "client_id": "trust watch", "client_secret": Secret(SECRET)}


def basic(client: str = "kong", secret: str = SECRET) -> dict[str, str]:
    pair = f"{quote(client, safe='')}:{quote(secret, safe='')}"
    return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def test_an_active_token_is_answered_with_its_claims(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    token = desk.issuer.token(act={"sub": "bot"}, jti="j-1")

    answer = desk.introspect(token)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    content = answer.json()
    assert {name: content[name] for name in ("active", "scope", "client_id", "jti", "act")} == {
        "active": True,
        "scope": "tools:read",
        "client_id": "bot",
        "jti": "j-1",
        "act": {"sub": "bot"},
    }
    assert not {"risk_level", "policy_version"} & set(content)
    content = new_desk(risk_claims=True).introspect(token).json()
    assert (content["risk_level"], content["policy_version"]) == ("unknown", "7")


def test_a_denied_agent_is_as_inactive_as_a_bad_token(desk: Any) -> None:
    """Byte for byte and header for header, but for the request's id; on the next question; and back with the agent."""
    token = desk.issuer.token()
    assert desk.introspect(token).json()["active"] is True
    desk.agent("bot", RiskLevel.CRITICAL)

    answers = [
        desk.introspect(given)
        for given in (token, "unknown", desk.issuer.token(exp=1), desk.issuer.token(iss="https://evil.example"))
    ]

    assert {answer.content for answer in answers} == {b'{"active":false}'}
    headers = ({name: value for name, value in answer.headers.items() if name != "x-request-id"} for answer in answers)
    assert len({str(sorted(each.items())) for each in headers}) == 1
    desk.agent("bot", RiskLevel.LOW)
    assert desk.introspect(token).json()["active"] is True


def test_scopes_that_wait_are_left_out(desk: Any) -> None:
    """This way can narrow, so nothing is refused for them; where all wait the token is inactive and a person asked."""
    desk.agent("bot", RiskLevel.MEDIUM)
    both = desk.issuer.token(scope="tools:write tools:read")
    listed = desk.issuer.token(scope=None, scp=["tools:read", "tools:write"])

    assert desk.introspect(both).json()["scope"] == "tools:read"
    assert desk.introspect(listed).json()["scope"] == "tools:read"
    assert "scp" not in desk.introspect(listed).json()
    assert desk.introspect(desk.issuer.token(scope="tools:write")).json() == INACTIVE
    assert [one.scopes for one in desk.asked()] == [("tools:write",)]


def test_denials_become_events(desk: Any) -> None:
    desk.agent("bot", RiskLevel.CRITICAL)
    desk.introspect(desk.issuer.token("fine"))
    desk.introspect(desk.issuer.token())

    (event,) = desk.events()
    assert (event["type"], event["error"], event["source"]) == (
        "token.introspect",
        "revoked_by_trustwatch",
        "urn:trustwatch:introspection",
    )


def test_only_authorized_clients_may_ask(new_desk: Callable[..., Any]) -> None:
    """By a token for `trust.decide`, or by the secret of a configured client."""
    desk = new_desk(clients=(GatewayClientSettings(client_id="kong", secret=Secret(SECRET)),))
    token, form = desk.issuer.token(), {"token": desk.issuer.token()}

    def status(headers: dict[str, str]) -> int:
        return int(desk.send("POST", "/introspect", headers, data=form).status_code)

    assert status(desk.auth("gateway", "trust.decide")) == 200
    assert status(basic()) == 200
    assert status(desk.auth("gateway", "trust.score:read")) == 403
    for refused in (
        {},
        basic(secret="another secret!!"),
        basic("unknown"),
        basic("", ""),
        {"authorization": "Basic ???"},
        {"authorization": "Basic /w=="},
        {"authorization": f"Bearer {token}"},
        {"authorization": "Bearer x"},
    ):
        assert status(refused) == 401
    assert "www-authenticate" in desk.send("POST", "/introspect", {}, data=form).headers


def test_a_client_is_told_of_its_tenants_alone(new_desk: Callable[..., Any]) -> None:
    clients = [
        GatewayClientSettings(client_id=name, secret=Secret(SECRET), tenants=(tenant,))
        for name, tenant in (("mine", "acme"), ("theirs", "globex"))
    ]
    desk = new_desk(clients=tuple(clients))
    token = desk.issuer.token()

    assert desk.introspect(token, "gateway").json()["active"] is True
    assert desk.introspect(token, "other").json() == INACTIVE
    assert desk.introspect(token, **basic("mine")).json()["active"] is True
    assert desk.introspect(token, **basic("theirs")).json() == INACTIVE


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", None),
        (b"token=", None),
        (b"token=a&token=b", None),
        (b"x=1", None),
        (b"token=%ff", None),
        (b"\xff", None),
        (b"&".join([b"a=1"] * 20), None),
        (b"token=" + b"a" * 70_000, None),
        (b'{"token":"a"}', "application/json"),
        (b"token=a", "text/plain"),
    ],
)
def test_what_is_no_request_is_400(desk: Any, body: bytes, kind: str | None) -> None:
    headers = desk.auth() | {"content-type": kind or "application/x-www-form-urlencoded"}

    answer = desk.send("POST", "/introspect", headers, content=body)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_only_post(desk: Any) -> None:
    answer = desk.send("GET", "/introspect?token=x", desk.auth())

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_scopes_with_commas_come_back_with_spaces(
    new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer
) -> None:
    """As RFC 7662 wants them, whatever the issuer writes; each is judged by itself."""
    desk = new_desk(msgspec.structs.replace(issuer.settings(**asked(server)), scopes="commas"))
    server.tokens["opaque-1"] = {"client_id": "bot", "scope": "tools:read,tools:write", "sub": "bot", "exp": 9e9}

    assert desk.introspect("opaque-1").json()["scope"].split() == ["tools:read", "tools:write"]
    desk.agent("bot", RiskLevel.MEDIUM)
    assert desk.introspect("opaque-1").json()["scope"] == "tools:read"


def test_opaque_tokens_are_asked_about(new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer) -> None:
    """At their own server, by our credentials; its members come back, but not for an agent that is denied."""
    desk = new_desk(issuer.settings(**asked(server)), risk_claims=True)
    server.tokens["opaque-1"] = {"client_id": "bot", "scope": "tools:read tools:write", "sub": "bot", "exp": 9e9}

    content = desk.introspect("opaque-1").json()

    assert (content["active"], content["client_id"], content["risk_level"]) == (True, "bot", "unknown")
    ((path, form, authorization),) = server.asked
    assert (path, form["token"]) == ("/introspect", "opaque-1")
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"trust%20watch:a%20secret%3A%20of%20%25%20letters"
    desk.agent("bot", RiskLevel.MEDIUM)
    assert desk.introspect("opaque-1").json()["scope"] == "tools:read"
    desk.agent("bot", RiskLevel.CRITICAL)
    assert desk.introspect("opaque-1").json() == INACTIVE


def test_answers_are_kept_for_seconds(new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer) -> None:
    desk = new_desk(issuer.settings(**asked(server)))
    server.tokens["opaque-1"] = {"client_id": "bot"}
    for token, active in (("opaque-1", True), ("opaque-2", False)):
        server.asked.clear()
        assert [desk.introspect(token).json()["active"] for _ in range(3)] == [active] * 3
        assert server.questions() == 1
    server.tokens["opaque-2"] = server.tokens.pop("opaque-1")
    assert desk.introspect("opaque-1").json()["active"] is True
    desk.now += 2.1
    assert desk.introspect("opaque-1").json() == INACTIVE
    assert desk.introspect("opaque-2").json()["active"] is True


def test_questions_at_the_same_time_are_one(new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer) -> None:
    desk = new_desk(issuer.settings(**asked(server)))
    server.tokens["opaque-1"] = {"client_id": "bot"}
    server.delay_s = 0.2

    async def many() -> list[Any]:
        import asyncio

        one = [desk.http.post("/introspect", headers=desk.auth(), data={"token": "opaque-1"}) for _ in range(20)]
        return [answer.json()["active"] for answer in await asyncio.gather(*one)]

    assert desk.run(many()) == [True] * 20
    assert server.questions() == 1


@pytest.mark.parametrize(
    "members",
    [
        {"client_id": "bot", "token_use": "refresh_token"},
        {"client_id": "bot", "typ": "Refresh"},
        {"client_id": "bot", "iss": "https://evil.example"},
        {"client_id": "bot", "aud": ["https://elsewhere.example"]},
        {"client_id": "bot", "exp": 1},
        {"scope": "x"},
        {"client_id": 7},
        {"client_id": ""},
        {"client_id": "bot", "act": "x"},
    ],
)
def test_what_is_no_access_token_for_here_is_inactive(
    new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer, members: dict[str, Any]
) -> None:
    """Servers say of refresh tokens, and of tokens for others, that they are active."""
    desk = new_desk(issuer.settings(**asked(server)))
    server.tokens["opaque-1"] = members

    assert desk.introspect("opaque-1").json() == INACTIVE


def test_the_issuer_is_asked_about_its_jwts_where_configured(
    new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer
) -> None:
    """What it revoked is then inactive here too; a forged one is not even asked about."""
    desk = new_desk(issuer.settings(**asked(server, tokens="all")))
    token = issuer.token()
    assert desk.introspect(token).json() == INACTIVE
    desk.now += 3
    server.tokens[token] = {"client_id": "bot", "username": "svc"}

    content = desk.introspect(token).json()

    assert (content["active"], content["username"], content["scope"]) == (True, "svc", "tools:read")
    server.asked.clear()
    assert desk.introspect(token[:-4] + "AAAA").json() == INACTIVE
    assert server.asked == []


@pytest.mark.parametrize(("setting", "expected"), [("error", 503), ("inactive", 200)])
@pytest.mark.parametrize("fault", ["down", "slow", "500", "401", "no JSON", "no answer", "too much"])
def test_while_its_server_can_not_be_asked(
    new_desk: Callable[..., Any],
    issuer: Any,
    server: OpaqueServer,
    fault: str,
    setting: str,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """503 or inactive, as set; a JWT that is verified here does not need it. Nothing of it is remembered."""
    monkeypatch.setattr(gateway_issuers, "INTROSPECTION_TIMEOUT_S", 0.3)
    desk = new_desk(issuer.settings(**asked(server)), on_unreachable=setting)
    server.tokens["opaque-1"] = {"client_id": "bot"}
    faults: dict[str, Callable[[], Any]] = {
        "down": server.close,
        "slow": lambda: setattr(server, "delay_s", 0.6),
        "500": lambda: setattr(server, "status", 500),
        "401": lambda: setattr(server, "status", 401),
        "no JSON": lambda: setattr(server, "broken", b"<html>"),
        "no answer": lambda: setattr(server, "broken", b'{"active":"yes"}'),
        "too much": lambda: setattr(server, "broken", b'{"active":true,"x":"' + b"x" * 70_000 + b'"}'),
    }
    faults[fault]()

    answer = desk.introspect("opaque-1")

    assert answer.status_code == expected
    assert answer.json() == (INACTIVE if expected == 200 else {"error": "temporarily_unavailable"})
    assert desk.introspect(issuer.token()).json()["active"] is True
    assert 'trustwatch_gateway_answers_total{answer="unreachable",way="introspection"} 1.0' in desk.metrics()
    if fault != "down":
        server.status, server.broken, server.delay_s = 200, None, 0.0
        assert desk.introspect("opaque-1").json()["active"] is True


def test_without_keys_it_is_an_outage(new_desk: Callable[..., Any], issuer: Any) -> None:
    issuer.file.unlink()

    assert new_desk().introspect(issuer.token()).status_code == 503


def test_a_fault_of_ours_is_inactive(new_desk: Callable[..., Any]) -> None:
    for on_failure, active in (("closed", False), ("open", True)):
        desk = new_desk(on_failure=on_failure, risk_claims=True)
        desk.guard.policy_evaluator._is_stale = None

        content = desk.introspect(desk.issuer.token()).json()

        assert content["active"] is active
        assert "risk_level" not in content


@pytest.mark.parametrize("way", ["envoy", "forward", "introspect"])
def test_tokens_that_policy_revokes_burn_on_sight(
    new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer, way: str
) -> None:
    """Once each, in the background, at their issuer; those of others do not."""
    given = {"revocation_url": f"{server.url}/revoke", "client_id": "tw", "client_secret": Secret("s")}
    desk = new_desk(issuer.settings(**given))
    desk.agent("bot", RiskLevel.CRITICAL)
    mine, others = issuer.token(), issuer.token("other")
    server.tokens |= {mine: {}, others: {}}

    for _ in range(3):
        getattr(desk, way)(mine)
        getattr(desk, way)(others)
    desk.run(desk.app.app.state.services.get(GatewayIssuers).revoker.close())

    assert set(server.tokens) == {others}
    assert server.questions("/revoke") == 1
    line = 'trustwatch_tokens_revoked_total{issuer="https://as.example",outcome="accepted"} 1.0'
    assert line in desk.metrics()


def test_nobody_waits_for_a_revocation(new_desk: Callable[..., Any], issuer: Any, server: OpaqueServer) -> None:
    given = {"revocation_url": f"{server.url}/revoke"}
    server.delay_s = 1.0
    desk = new_desk(issuer.settings(**given))
    desk.agent("bot", RiskLevel.CRITICAL)
    begun = time.monotonic()
    assert desk.envoy(issuer.token()).status_code == 403
    assert time.monotonic() - begun < 0.5
    desk.run(desk.app.app.state.services.get(GatewayIssuers).revoker.close())

    server.asked.clear()
    shadow = new_desk(issuer.settings(**given), mode="shadow")
    shadow.agent("bot", RiskLevel.CRITICAL)
    assert shadow.envoy(issuer.token()).status_code == 200
    shadow.run(shadow.app.app.state.services.get(GatewayIssuers).revoker.close())
    assert server.asked == []
