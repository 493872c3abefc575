"""Real gateways ask the real service about tokens of a real authorization server, and do as they are told."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trustwatch.ingest.columns import OWN_DENIALS, OWN_OUTAGES
from trustwatch.ingest.formats.format_registry import create_parser

from ..support.endpoint import Endpoint
from ..support.oauth_peers import (
    RESOURCE,
    SCOPE,
    OAuthClient,
    access_lines,
    new_key,
    oidc_client,
    public_keys,
    upstream,
)
from ..support.peer_fixtures import start_gateway
from ..support.service_process import Service
from ..support.service_reviewer import SETTINGS, ServiceReviewer, bearer

if TYPE_CHECKING:
    from scripts.service_stack import Caddy, Envoy, Nginx, OidcProvider

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

OUTAGE = {"envoy": 403, "caddy": 502, "nginx": 500}
CHECKS = {"envoy": "/ext-authz", "caddy": "/forward-auth", "nginx": "/forward-auth"}
OF_GATEWAYS = {"server", "date", "connection", "transfer-encoding", "via", "content-encoding", "keep-alive"}
"""Headers of answers that gateways write themselves."""


@pytest.fixture(scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory, world: Any, _oidc_provider: OidcProvider) -> Iterator[Service]:
    _oidc_provider.start()
    more = SETTINGS.format(issuer=_oidc_provider.issuer, keys=_oidc_provider.jwks_url, audience=RESOURCE)
    made = Service(tmp_path_factory.mktemp("service"), world.model, more)
    yield made
    made.close()


@pytest.fixture
def site(_service: Service, oidc_provider: OidcProvider) -> ServiceReviewer:
    """A running service that knows the authorization server; each test uses agents of its own."""
    if not _service.runs():  # the first test, or one after a test that stopped it
        _service.start()
    return ServiceReviewer(_service, oidc_provider.issuer)


@pytest.fixture
def api() -> Iterator[Endpoint]:
    with Endpoint(upstream) as made:
        yield made


def refusal(answer: httpx2.Response) -> tuple[int, dict[str, str], str]:
    """Status, headers that are not the gateway's, and the error of a body that says nothing else."""
    assert "upstream" not in answer.text
    headers = {name: value for name, value in answer.headers.items() if name not in OF_GATEWAYS}
    for word in ("risk", "critical", "score", "reason", "policy", "trustwatch", "level"):
        assert word not in (answer.text + str(headers)).lower()
    return answer.status_code, headers, answer.text


@pytest.mark.parametrize("name", OUTAGE)
def test_a_live_token_is_refused(
    request: pytest.FixtureRequest, name: str, site: ServiceReviewer, api: Endpoint, oidc_provider: OidcProvider
) -> None:
    """Within a second of its agent turning critical, others untouched; held at high until a person approves; and while
    we are down each gateway does what docs/fail-modes.md says."""
    gateway: Envoy | Caddy | Nginx = request.getfixturevalue(name)
    start_gateway(gateway, api.url, site.service.url + CHECKS[name])
    mine, other = oidc_client(oidc_provider), oidc_client(oidc_provider)
    token, others = mine.token(), other.token()
    with httpx2.Client(base_url=gateway.url, timeout=30) as agent:
        for method in ("GET", "POST", "DELETE"):
            answer = agent.request(method, "/mcp?x=1", headers=bearer(token))
            assert (answer.status_code, answer.text) == (200, "upstream")
        assert api.seen[-1][2]["x-risk-level"] == "unknown"

        check_containment(site, agent, api, mine.client_id, token, others)
        check_bad_tokens(agent, token)
        check_step_up(site, agent, mine.client_id, token)
        passed = len(api.seen)
        check_outage(site, agent, name, others)
        assert len(api.seen) == passed + 1, "only the call after the service came back"


def check_containment(
    site: ServiceReviewer, agent: httpx2.Client, api: Endpoint, who: str, token: str, others: str
) -> None:
    passed = len(api.seen)
    site.pin(who, "critical")
    begun = time.monotonic()
    denied = agent.post("/mcp", headers=bearer(token))
    assert time.monotonic() - begun < 1.0
    status, headers, text = refusal(denied)
    assert status == 403
    if "x-envoy-upstream-service-time" in headers:
        del headers["x-envoy-upstream-service-time"]
    assert set(headers) <= {"content-type", "content-length", "cache-control", "x-request-id"}
    assert who not in text
    assert agent.post("/mcp", headers=bearer(others)).text == "upstream"
    for path in ("//mcp", "/a/../mcp", "/%2e%2e/mcp", "/mcp%2F", "/healthz", "/ext-authz/mcp", "/mcp;x=1"):
        assert agent.get(path, headers=bearer(token)).status_code in (403, 400), path  # NGINX refuses one by itself
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = agent.request(method, "/mcp", headers=bearer(token))
        assert answer.status_code == 403, method
        assert bool(answer.content) == (method != "HEAD")
    forged = bearer(token) | {"x-forwarded-method": "GET", "x-forwarded-uri": "/healthz", "x-original-uri": "/x"}
    assert agent.post("/mcp", headers=forged).status_code == 403
    assert len(api.seen) == passed + 1, "only the other agent's call"
    site.agent(who, "unpin", why="for this test")
    assert agent.post("/mcp", headers=bearer(token)).text == "upstream"


def check_bad_tokens(agent: httpx2.Client, token: str) -> None:
    status, headers, _ = refusal(agent.get("/mcp", headers=bearer(token[:-6] + "AAAAAA")))
    assert (status, 'error="invalid_token"' in headers["www-authenticate"]) == (401, True)
    status, headers, _ = refusal(agent.get("/mcp"))
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="agents"')


def check_step_up(site: ServiceReviewer, agent: httpx2.Client, who: str, token: str) -> None:
    site.pin(who, "high")
    status, headers, _ = refusal(agent.post("/mcp", headers=bearer(token)))
    assert (status, 'error="insufficient_user_authentication"' in headers["www-authenticate"]) == (401, True)
    site.approve_all(who)
    assert agent.post("/mcp", headers=bearer(token)).text == "upstream"


def check_outage(site: ServiceReviewer, agent: httpx2.Client, name: str, token: str) -> None:
    assert site.service.stop() == 0
    assert agent.get("/mcp", headers=bearer(token)).status_code == OUTAGE[name]
    site.service.start()
    answer = agent.get("/mcp", headers=bearer(token))
    assert (answer.status_code, answer.text) == (200, "upstream")


def test_what_envoy_logs_of_our_refusals_is_no_behaviour(
    site: ServiceReviewer, api: Endpoint, envoy: Envoy, oidc_provider: OidcProvider
) -> None:
    """Its own JSON access log, by the format `envoy`: denials and outages are marked as ours, with the agent's name."""
    start_gateway(
        envoy, api.url, site.service.url + "/ext-authz", identity={oidc_provider.issuer: oidc_provider.jwks_url}
    )
    first, second = oidc_client(oidc_provider), oidc_client(oidc_provider)
    token = second.exchange(first.token()).json()["access_token"]
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 200
    site.pin(first.client_id, "critical")
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 200, "an earlier actor only informs"
    site.pin(second.client_id, "critical")
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 403
    assert site.service.stop() == 0
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 403

    lines = access_lines(envoy, 4)
    parcels = [one for line in lines for one in create_parser("envoy")(json.dumps(line).encode(), {}).records]
    found = [json.loads(one.to_native() if one.to_native else one.raw) for one in parcels]
    assert {event["agent"]["id"] for event in found} == {second.client_id}
    assert [event["outcome"] for event in found] == ["success", "success", "denied", "error"]
    assert found[2]["error"] in OWN_DENIALS
    assert found[3]["error"] in OWN_OUTAGES


def test_envoy_may_be_told_to_fail_open(
    site: ServiceReviewer, api: Endpoint, envoy: Envoy, oidc_provider: OidcProvider
) -> None:
    """`failure_mode_allow` is the operator's own choice, made at the gateway: it lets even a denied agent pass."""
    check = site.service.url + "/ext-authz"
    start_gateway(envoy, api.url, check)
    agent = oidc_client(oidc_provider)
    token = agent.token()
    site.pin(agent.client_id, "critical")
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 403
    envoy.stop()
    made = json.loads(json.dumps(envoy.configuration()))
    (manager,) = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    (ext_authz,) = [one for one in manager["typed_config"]["http_filters"] if one["name"].endswith("ext_authz")]
    ext_authz["typed_config"]["failure_mode_allow"] = True
    envoy.configure_raw(made)
    envoy.start()
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 403
    assert site.service.stop() == 0
    assert httpx2.get(envoy.url, headers=bearer(token)).status_code == 200


def test_an_attack_is_stopped_at_the_gateway(
    make_service: Callable[..., Any], world: Any, api: Endpoint, envoy: Envoy, oidc_provider: OidcProvider
) -> None:
    """Events alone bring an agent's level up, and its live token is refused; an agent that was not attacked goes on."""
    (tenant, attacked), _ = next(iter(world.attacked.items()))
    events = [json.loads(raw) for raw in world.day]
    issuer = next(event["agent"]["issuer"] for event in events if event["agent"]["id"] == attacked)
    quiet = next(
        event["agent"]["id"]
        for event in events
        if event["tenant"] == tenant
        and event["agent"]["issuer"] == issuer
        and (tenant, event["agent"]["id"]) not in world.attacked
    )
    more = SETTINGS.format(issuer=oidc_provider.issuer, keys=oidc_provider.jwks_url, audience=RESOURCE)
    more = more.replace("tenant: acme-corp", f'tenant: "{tenant}"\n      agent_issuer: "{issuer}"')
    stops = "{allow: false, step_up: false, revoke: true}"
    service = make_service(more + "token_policy_file: policy.yaml\n")
    policy = f"version: '2'\nmode: enforce\nlevels: {{medium: {stops}, high: {stops}}}\n"
    (service.folder / "policy.yaml").write_text(policy)
    service.start()
    start_gateway(envoy, api.url, service.url + "/ext-authz")
    tokens = named_tokens(oidc_provider, attacked, quiet)

    def status(who: str) -> int:
        return httpx2.get(envoy.url, headers=bearer(tokens[who])).status_code

    assert {status(who) for who in tokens} == {200}
    # By the hour, and asked once: the day is one of 2024, and our denial, an event of today, ends the longest hold.
    for start in range(0, len(world.day), 100):
        assert service.post(b"\n".join(world.day[start : start + 100])).status_code == 202
        service.settle()
        if (last := status(attacked)) == 403:
            break
    assert last == 403
    assert status(quiet) == 200


def named_tokens(server: OidcProvider, *names: str) -> dict[str, str]:
    """A token each of clients with these ids."""
    key = new_key()
    metadata = {
        "grant_types": ["client_credentials"],
        "scope": SCOPE,
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": public_keys(key),
        "redirect_uris": [],
        "response_types": [],
    }
    server.configure(clients=tuple({"client_id": name, **metadata} for name in names))
    server.start()
    form = {"scope": "tools:read", "resource": RESOURCE}
    clients = {name: OAuthClient(name, server.token_url, server.issuer, key, form) for name in names}
    return {name: client.token() for name, client in clients.items()}


def test_opaque_tokens_are_introspected_through_us(
    make_service: Callable[..., Any], oidc_provider: OidcProvider
) -> None:
    """A gateway changes one URL: its server's answers come back until the agent is denied; then the token is inactive
    here, and soon dead at its own server too, since it is revoked as it is seen."""
    basic = {"token_endpoint_auth_method": "client_secret_basic", "client_name": "tw"}
    ours = httpx2.post(f"{oidc_provider.url}/reg", json=basic).json()
    credentials = f'client_secret: "{ours["client_secret"]}"'
    check_introspection(make_service, oidc_provider, ours["client_id"], credentials)


def test_we_introspect_by_private_key_jwt(
    make_service: Callable[..., Any], oidc_provider: OidcProvider, tmp_path: Path
) -> None:
    """The same, where our client at the server proves itself by a key."""
    ours = oidc_client(oidc_provider)
    file = tmp_path / "our-key.pem"
    file.write_bytes(ours.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    credentials = f'private_key: {{file: "{file}"}}\n      key_id: key-1'
    check_introspection(make_service, oidc_provider, ours.client_id, credentials)


def check_introspection(
    make_service: Callable[..., Any], oidc_provider: OidcProvider, ours: str, credentials: str
) -> None:
    """*ours* is our client at the server, *credentials* settings of its proof."""
    watcher = httpx2.post(f"{oidc_provider.url}/reg", json={"token_endpoint_auth_method": "client_secret_basic"}).json()
    opaque = {RESOURCE: {"scope": SCOPE, "format": "opaque"}}
    oidc_provider.configure(resources=opaque, operators=(ours,))
    oidc_provider.start()
    agent, other = oidc_client(oidc_provider), oidc_client(oidc_provider)
    more = SETTINGS.format(issuer=oidc_provider.issuer, keys=oidc_provider.jwks_url, audience=RESOURCE)
    more += f"""\
      client_id: "{ours}"
      {credentials}
      introspection: {{url: "{oidc_provider.token_url}/introspection"}}
      revocation_url: "{oidc_provider.token_url}/revocation"
  clients: [{{client_id: kong, secret: "sixteen letters!"}}]
"""
    service = make_service(more)
    service.start()
    site = ServiceReviewer(service, oidc_provider.issuer)
    token, others = agent.token(scope=SCOPE), other.token()

    def introspected(value: str) -> dict[str, Any]:
        answer = httpx2.post(f"{service.url}/introspect", data={"token": value}, auth=("kong", "sixteen letters!"))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def at_its_server(value: str) -> bool:
        pair = (watcher["client_id"], watcher["client_secret"])
        said = httpx2.post(f"{oidc_provider.token_url}/introspection", data={"token": value}, auth=pair).json()
        return bool(said["active"])

    first = introspected(token)
    assert (first["active"], first["client_id"], first["scope"]) == (True, agent.client_id, SCOPE)
    site.pin(agent.client_id, "medium")
    assert introspected(token)["scope"] == "tools:read"
    assert at_its_server(token)
    site.pin(agent.client_id, "critical")
    assert introspected(token) == introspected("nobody's") == {"active": False}
    service.wait(lambda: not at_its_server(token))
    assert introspected(others)["active"] is True
    assert at_its_server(others)
    oidc_provider.stop()

    def refused() -> bool:  # once what it said of the token is not remembered any more
        pair = ("kong", "sixteen letters!")
        return httpx2.post(f"{service.url}/introspect", data={"token": others}, auth=pair).status_code == 503

    service.wait(refused)


RAW = [
    b"GET //ext-authz/mcp HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /ext-authz/../v1/agents/x/risk HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /%65xt-authz/mcp HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /ext-authz/a%0d%0aX-Risk-Level:%20low HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://a/ext-authz/mcp HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /ext-authz/mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + b"a" * 60_000 + b"\r\n\r\n",
    b"GET /ext-authz/mcp HTTP/1.1\r\nhost: a\r\n" + b"x-a: " + b"b" * 200_000 + b"\r\n\r\n",
    b"GET /ext-authz/mcp HTTP/1.1\r\nhost: a\r\n" + b"x-a: b\r\n" * 5_000 + b"\r\n",
    b"GET /ext-authz/mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /ext-authz/mcp HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /ext-authz/mcp HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"BREW /ext-authz/mcp HTTP/1.1\r\nhost: a\r\n\r\n",
]


def test_an_upgrade_is_a_call_like_any_other(site: ServiceReviewer, oidc_provider: OidcProvider) -> None:
    """Caddy and Traefik hand on `Upgrade` with all other headers; the check is HTTP all the same."""
    agent = oidc_client(oidc_provider)
    headers = bearer(agent.token()) | {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for path in ("/ext-authz/ws", "/forward-auth"):
        assert httpx2.get(site.service.url + path, headers=headers).status_code == 200
    site.pin(agent.client_id, "critical")
    for path in ("/ext-authz/ws", "/forward-auth"):
        assert httpx2.get(site.service.url + path, headers=headers).status_code == 403


def test_a_body_that_a_gateway_sends_along_is_not_read(site: ServiceReviewer) -> None:
    """APISIX by POST and Envoy with `with_request_body` do; the connection serves the next call all the same."""
    body = b"x" * 1_000_000
    with httpx2.Client(base_url=site.service.url) as one:
        for _ in range(3):
            assert one.post("/ext-authz/mcp", content=body).status_code == 401
            assert one.post("/forward-auth", content=iter([body[:1000]] * 100)).status_code == 401
            assert one.head("/ext-authz/mcp").status_code == 401
            assert one.get("/healthz").status_code == 200


def _answer_head(connection: socket.socket, sent: bytes) -> bytes:
    """Head of the answer to *sent*; empty where the connection was closed without one, or before it was read."""
    received = b""
    with contextlib.suppress(OSError):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            received += part
    return received.partition(b"\r\n\r\n")[0]


def test_what_no_client_library_would_send(site: ServiceReviewer) -> None:
    """Nothing of it is 200 or a redirect, and the service answers the next call."""
    for sent in RAW:
        with socket.create_connection(("127.0.0.1", site.service.port), timeout=10) as connection:
            head = _answer_head(connection, sent)
        status = head.split(b" ")[1] if head else b"none"
        assert status in (b"401", b"400", b"404", b"421", b"431", b"none"), (sent[:80], head)
        assert b"x-risk-level" not in head.lower()
        assert site.service.status("/healthz") == 200
