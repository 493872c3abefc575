"""Credentials, answers of admin APIs, the webhook and the revocation of tokens, against HTTP servers on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from standardwebhooks import Webhook

from trustwatch.api.http.auth.signing import assertion_signer
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.actuator import (
    ActuationNotConfirmed,
    ActuatorAccessDenied,
    ActuatorUnavailable,
    UnknownClient,
)
from trustwatch.scoring.delivery.actuators.actuator_factory import WebhookActuator
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.actuators.authenticators import (
    ClientAuthenticator,
    ClientCredentialsAuthenticator,
    RequestAuthenticator,
)
from trustwatch.scoring.delivery.actuators.client_actuator import AdminApi, parse_go_duration
from trustwatch.scoring.delivery.actuators.token_revocation import RevocationEndpoint, TokenRevoker
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client

from ....support.authorization_servers import now_ms, wish
from ....support.endpoint import Endpoint
from ....support.oauth_peers import new_key

T = TypeVar("T")
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSByZWNlaXZlciBmb3IgdGVzdHM="
TOKEN = "eyJ-a-token-that-nobody-may-see"


class Answers:
    """What the server says next; the last one is repeated."""

    def __init__(self) -> None:
        self.queue: list[tuple[int, dict[str, Any] | None]] = [(200, {})]

    def __call__(self, _: Endpoint.Request) -> Endpoint.Answer:
        status, body = self.queue.pop(0) if len(self.queue) > 1 else self.queue[0]
        return status, {"content-type": "application/json"}, b"" if body is None else json.dumps(body).encode()


@pytest.fixture
def answers() -> Answers:
    """To be set."""
    return Answers()


@pytest.fixture
def server(answers: Answers) -> Iterator[Endpoint]:
    """A server that says so."""
    with Endpoint(answers) as endpoint:
        yield endpoint


def run(work: Callable[[httpx2.AsyncClient], Awaitable[T]]) -> T:
    """Some *work* with a client."""

    async def call() -> T:
        async with make_webhook_client() as http:
            return await work(http)

    return asyncio.run(call())


def form(request: Endpoint.Request) -> dict[str, str]:
    """Members of a form."""
    return {name: values[0] for name, values in parse_qs(request[3].decode()).items()}


class Ticking:
    """Seconds that are set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_fetched_once_and_again_before_it_ends(server: Endpoint, answers: Answers) -> None:
    """Kept until shortly before it expires; of several that ask at once, one fetches."""
    answers.queue = [(200, {"access_token": "one", "expires_in": 60}), (200, {"access_token": "two", "expires_in": 60})]
    clock = Ticking()

    async def work(http: httpx2.AsyncClient) -> list[str]:
        auth = ClientCredentialsAuthenticator(http, server.url, ClientAuthenticator("me:1", "p&ss"), clock, "admin")
        first = await asyncio.gather(*(auth.headers() for _ in range(5)))
        clock.now += 44
        again = await auth.headers()
        clock.now += 2
        return [one["authorization"] for one in (*first, again, await auth.headers())]

    assert run(work) == ["Bearer one"] * 6 + ["Bearer two"]
    assert form(server.seen[0]) == {"grant_type": "client_credentials", "scope": "admin"}
    basic = base64.b64decode(server.seen[0][2]["authorization"].removeprefix("Basic ")).decode()
    assert basic == "me%3A1:p%26ss"


def test_an_assertion_is_made_for_each_request(server: Endpoint, answers: Answers) -> None:
    """private_key_jwt: for this endpoint (or the audience that is set), for a minute, never the same twice."""
    answers.queue = [(200, {"access_token": "one", "expires_in": 1})]
    clock, ids = Ticking(), iter("-abc")  # the first is the trial at the start
    sign = assertion_signer(_pem(), "key-1", lambda: 1_000.9, lambda: next(ids))

    async def work(http: httpx2.AsyncClient) -> None:
        auth = ClientCredentialsAuthenticator(http, server.url, ClientAuthenticator("me", sign=sign), clock)
        await auth.headers()
        auth.invalidate()
        await auth.headers()

    run(work)
    unverified = {"verify_signature": False}
    claims = [jwt.decode(form(request)["client_assertion"], options=unverified) for request in server.seen]
    assert claims[0] == {"iss": "me", "sub": "me", "aud": server.url, "iat": 1000, "exp": 1060, "jti": "a"}
    assert claims[1]["jti"] == "b"
    proved: dict[str, str] = {}
    ClientAuthenticator("me", sign=sign, audience="https://as").authenticate("https://as/token", proved)
    assert jwt.decode(proved["client_assertion"], options=unverified)["aud"] == "https://as"


def test_a_key_that_does_not_fit_stops_the_start() -> None:
    """And is not in the message."""
    short = _pem().replace("A", "B")
    for key in (short, "-----BEGIN NOTHING-----"):
        with pytest.raises(ConfigError, match="'key-1' is not a private key in PEM") as error:
            assertion_signer(key, "key-1", lambda: 0.0, lambda: "x")
        assert "BEGIN" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        (x25519.X25519PrivateKey.generate(), None),
    ],
    ids=["p256", "p384", "p521", "ed25519", "x25519"],
)
def test_the_algorithm_follows_from_the_key(key: Any, algorithm: str | None) -> None:
    """A key that cannot sign stops the start."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    if algorithm is None:
        with pytest.raises(ConfigError, match="is not a private key in PEM"):
            assertion_signer(pem, "key-1", lambda: 0.0, lambda: "x")
        return
    signed = assertion_signer(pem, "key-1", lambda: 0.0, lambda: "x")("me", "https://as")
    assert jwt.get_unverified_header(signed)["alg"] == algorithm


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        ((401, {"error": "invalid_client"}), ActuatorAccessDenied, "token endpoint: HTTP 401: invalid_client"),
        (
            (400, {"error": "invalid_scope", "error_description": "no\nsuch"}),
            ActuatorAccessDenied,
            "HTTP 400: invalid_scope: no such",
        ),
        ((503, None), ActuatorUnavailable, "token endpoint: HTTP 503"),
        ((200, {"token": "x"}), ActuatorUnavailable, "holds no access token"),
        ((200, {"access_token": "", "expires_in": 5}), ActuatorUnavailable, "holds no access token"),
    ],
)
def test_a_token_that_is_not_given_is_said(
    server: Endpoint, answers: Answers, answer: tuple[int, Any], kind: type[Exception], text: str
) -> None:
    """By what the server calls it, on one line, without our secret."""
    answers.queue = [answer]

    with pytest.raises(kind, match=text) as error:
        run(
            lambda http: ClientCredentialsAuthenticator(
                http, server.url, ClientAuthenticator("me", "hunter22"), Ticking()
            ).headers()
        )
    assert "hunter22" not in str(error.value)


def test_a_refused_token_is_replaced_once(server: Endpoint, answers: Answers) -> None:
    """A token that was revoked before its time costs one request more; one that lacks a right is an error."""
    token = (200, {"access_token": "t", "expires_in": 60})
    answers.queue = [token, (401, None), token, (200, {"a": 1})]

    async def work(http: httpx2.AsyncClient) -> httpx2.Response:
        auth = ClientCredentialsAuthenticator(http, f"{server.url}/token", ClientAuthenticator("me", "s"), Ticking())
        return await AdminApi(http, f"{server.url}/admin/", auth, now_ms).call("GET", "/clients/x")

    assert run(work).json() == {"a": 1}
    assert [path for _, path, _, _ in server.seen] == ["/token", "/admin/clients/x", "/token", "/admin/clients/x"]
    answers.queue = [(403, {"error": "forbidden"})]
    with pytest.raises(
        ActuatorAccessDenied, match="GET /clients/x: HTTP 403: forbidden - the server does not take our credentials"
    ):
        run(
            lambda http: AdminApi(http, server.url, RequestAuthenticator("x"), now_ms).call(
                "GET", "/clients/x?secret=1"
            )
        )


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        ((404, None), UnknownClient, "no such client"),
        ((500, {"client_secret": "hunter22", "error": "e" * 500}), ActuatorUnavailable, "GET /x: HTTP 500: e{160}$"),
        ((301, None), ActuatorUnavailable, "HTTP 301"),
        ((200, None), ActuatorUnavailable, "HTTP 200"),
    ],
)
def test_answers_of_an_admin_api_are_told_apart(
    server: Endpoint, answers: Answers, answer: tuple[int, Any], kind: type[Exception], text: str
) -> None:
    """Redirects are not followed: a path that is cleaned could be another client's."""
    answers.queue = [answer]

    with pytest.raises(kind, match=text) as error:
        run(
            lambda http: AdminApi(http, server.url, RequestAuthenticator(), now_ms).call(
                "GET", "/x", expect=(204,), missing="no such client"
            )
        )
    assert "hunter22" not in str(error.value)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("header", "wait_s"), [("7", 7.0), ("Mon, 24 Nov 2025 16:01:00 GMT", 60.0), ("soon", None), ("", None)]
)
def test_how_long_to_wait_is_heard(server: Endpoint, header: str, wait_s: float | None) -> None:
    """Retry-After in seconds, or as a date."""
    server.answer = lambda _: (429, {"retry-after": header}, b"")

    with pytest.raises(ActuatorUnavailable) as error:
        run(
            lambda http: AdminApi(http, server.url, RequestAuthenticator(), lambda: 1_764_000_000_000).call("GET", "/x")
        )
    assert error.value.retry_after_s == wait_s


def hook(http: httpx2.AsyncClient, server: Endpoint, *, confirm: bool = False) -> WebhookActuator:
    """A webhook actuator at *server*."""
    settings = ActuatorSettings(
        "own",
        "webhook",
        f"{server.url}/contain",
        ("*",),
        secret=Secret(SECRET),
        confirm_url=f"{server.url}/state" if confirm else None,
    )
    return WebhookActuator(http, settings, now_ms)


def test_a_webhook_is_told_what_is_wanted_signed(server: Endpoint) -> None:
    """By an id that is the same for the same wish; accepted is not confirmed."""
    asked = wish("bot", "high")

    async def work(http: httpx2.AsyncClient) -> list[bool]:
        actuator = hook(http, server)
        original = await actuator.capture("client-7")
        done = [await actuator.lower("client-7", original, asked) for _ in range(2)]
        return [*(one.confirmed for one in done), (await actuator.restore("client-7", original)).confirmed]

    assert run(work) == [False, False, False]
    bodies = [Webhook(SECRET).verify(body, headers) for _, _, headers, body in server.seen]
    assert bodies[0] == bodies[1]
    assert (bodies[0]["action"], bodies[0]["client_id"], bodies[0]["max_token_lifetime_s"]) == ("lower", "client-7", 60)
    assert "agent_key" not in bodies[0]
    assert bodies[2] == {"action": "restore", "client_id": "client-7"}
    ids = [headers["webhook-id"] for _, _, headers, _ in server.seen]
    assert ids[0] == ids[1] != ids[2]


def test_a_webhook_may_be_asked_whether_it_is_so(server: Endpoint, answers: Answers) -> None:
    """Only `confirmed: true` is a yes."""
    asked = wish("bot", "critical")

    async def lowered(http: httpx2.AsyncClient) -> bool:
        return (await hook(http, server, confirm=True).lower("c", b"{}", asked)).confirmed

    answers.queue = [(202, None), (200, {"confirmed": True})]
    assert run(lowered)
    assert [path for _, path, _, _ in server.seen] == ["/contain", "/state"]
    for body in ({"confirmed": "yes"}, {}, None):
        answers.queue = [(202, None), (200, body)]
        with pytest.raises(ActuationNotConfirmed):
            run(lowered)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, UnknownClient), (403, ActuatorAccessDenied), (500, ActuatorUnavailable), (302, ActuatorUnavailable)],
)
def test_refusals_of_a_webhook(server: Endpoint, answers: Answers, status: int, kind: type[Exception]) -> None:
    """As of every server."""
    answers.queue = [(status, None)]
    with pytest.raises(kind):
        run(lambda http: hook(http, server).lower("c", b"{}", wish("bot", "high")))


Seen = list[tuple[str, str]]


def revoker(http: httpx2.AsyncClient, server: Endpoint, seen: Seen, *, ask: bool = True) -> TokenRevoker:
    """Revokes tokens of one issuer."""
    endpoint = RevocationEndpoint(
        "as",
        frozenset({"https://as"}),
        f"{server.url}/revoke",
        ClientAuthenticator("me", "s"),
        f"{server.url}/introspect" if ask else "",
        timeout_s=1.0,
    )
    return TokenRevoker([endpoint], http, lambda *told: seen.append(told))


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ([(200, None), (200, {"active": False})], "confirmed"),
        ([(200, None), (200, {"active": True})], "still_active"),
        ([(200, None), (403, None)], "accepted"),
        ([(200, None), (200, {})], "accepted"),
        ([(400, {"error": "unsupported_token_type"})], "unsupported"),
        ([(401, {"error": "invalid_client"})], "refused"),
        ([(503, None)], "failed"),
    ],
)
def test_what_comes_of_a_token(server: Endpoint, answers: Answers, said: list[tuple[int, Any]], outcome: str) -> None:
    """The server's introspection has the last word; no error holds the token."""
    answers.queue, seen = list(said), Seen()

    burned = run(lambda http: revoker(http, server, seen).revoke(TOKEN, "https://as"))

    assert (burned.outcome, seen) == (outcome, [("as", outcome)])
    assert TOKEN not in burned.error
    assert form(server.seen[0]) == {"token": TOKEN, "token_type_hint": "access_token"}


def test_a_burned_token_is_sent_once_and_a_failure_again(server: Endpoint, answers: Answers) -> None:
    """Calls of one token come by the hundred. Nobody's tokens go to a server that did not issue them."""
    answers.queue, seen = [(503, None), (200, None)], Seen()

    async def work(http: httpx2.AsyncClient) -> list[str]:
        burning = revoker(http, server, seen, ask=False)
        other = (await burning.revoke(TOKEN, "https://other")).outcome
        taken = [burning.revoke_in_background(TOKEN, "https://other")]
        outcomes = [(await burning.revoke(TOKEN, "https://as")).outcome]
        taken += [burning.revoke_in_background(TOKEN, "https://as")]
        await asyncio.sleep(0)
        taken += [burning.revoke_in_background(TOKEN, "https://as")]
        await burning.close()
        outcomes += [(await burning.revoke(TOKEN, "https://as")).outcome]
        assert taken == [False, True, False]
        return [other, *outcomes]

    assert run(work) == ["unsupported", "failed", "known"]
    assert [outcome for _, outcome in seen] == ["failed", "accepted"]
    assert len(server.seen) == 2


def test_a_server_that_is_not_there_costs_its_time_alone() -> None:
    """Nothing is raised to who answers a request."""
    with Endpoint(lambda _: (200, {}, b"")) as gone:
        pass

    assert run(lambda http: revoker(http, gone, Seen()).revoke(TOKEN, "https://as")).outcome == "failed"


@pytest.mark.parametrize("text", ["", "5", "s", "1h 5m", "1x", "-1h"])
def test_what_is_no_duration(text: str) -> None:
    """Says so."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_go_duration(text)


def _pem() -> str:
    return new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
