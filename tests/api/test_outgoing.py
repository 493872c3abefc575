"""Services behind a private certificate authority: all that we ask is reached with `outgoing.ca_file`, and only so."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from typer.testing import CliRunner

from trustwatch.api.access.gateways.gateway_issuers import GatewayIssuers
from trustwatch.api.cli.main import make_app
from trustwatch.api.console.openid_provider import OpenIdProvider
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.settings.access_settings import IssuerSettings, VerificationSettings
from trustwatch.api.settings.enforcement_settings import (
    GatewayIssuerSettings,
    GatewaySettings,
    IntrospectionServerSettings,
)
from trustwatch.api.settings.service_settings import ConsoleGrantSettings, ConsoleOidcSettings, OutgoingSettings
from trustwatch.api.settings.shared_signals_settings import ManagedStreamSettings, SignalTransmitterSettings
from trustwatch.api.shared_signals.remote_stream import RemoteStream
from trustwatch.api.shared_signals.transmitter_context import VerificationStates
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.outgoing_http import connection_error_text, trusted_authorities
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.actuator_factory import ActuatorFactory
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorAuthSettings, ActuatorSettings
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client, push_set
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.security_events import POLL_METHOD
from trustwatch_client import TrustUnavailable
from trustwatch_client.trust_client import RiskSettings, TrustClient

from ..support.alert_receiver import ALERTS, outgoing, target
from ..support.mutual_tls import CertificateAuthority

RULES = VerificationSettings()
PEM = b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----\n"


class Peer:
    """Everything that the service asks, on one TLS port of loopback, by a certificate of *authority*."""

    def __init__(self, authority: CertificateAuthority) -> None:
        authority.issue("peer", hosts=["localhost"])
        key = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        self.jwks = {"keys": [{**key, "kid": "k1", "alg": "ES256", "use": "sig"}]}
        self.asked: list[str] = []
        self.folder = authority.folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.folder / "peer.pem", authority.folder / "peer.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        match path:
            case "/jwks":
                return 200, self.jwks
            case "/introspect":
                return 200, {"active": True, "client_id": "bot", "iss": self.url, "aud": "api", "exp": time.time() + 60}
            case "/.well-known/openid-configuration":
                names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
                return 200, {"issuer": self.url, **{name: f"{self.url}/{name}" for name in names}}
            case "/.well-known/ssf-configuration":
                return 200, {"issuer": self.url, "configuration_endpoint": f"{self.url}/stream"}
            case "/stream":
                delivery = {"method": POLL_METHOD, "endpoint_url": f"{self.url}/poll"}
                stream = {"stream_id": "s1", "aud": "us", "delivery": delivery}
                return (201, stream | json.loads(body) | {"delivery": delivery}) if body else (404, {})
            case "/oauth2/token":
                assert parse_qs(body.decode())["grant_type"] == ["client_credentials"]
                return 200, {"access_token": "t", "token_type": "Bearer", "expires_in": 60}
            case "/v1/risk/query":
                return 200, {"answers": []}
            case _:
                return 200, {"confirmed": True}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                path = urlsplit(self.path).path
                peer.asked.append(path)
                status, document = peer.answer(path, body)
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def peer(authority: CertificateAuthority) -> Iterator[Peer]:
    made = Peer(authority)
    yield made
    made.close()


async def _jwks(peer: Peer, ca_file: Path | None) -> str:
    issuer = IssuerSettings(issuer=peer.url, audiences=("us",), jwks_uri=f"{peer.url}/jwks")
    cache = JwksCache((issuer,), time.time, time.monotonic, ca_file)
    try:
        await cache.start(10.0)
        (status,) = cache.status()
    finally:
        await cache.close()
    return status.last_error if status.keys == 0 else ""


async def _introspection(peer: Peer, ca_file: Path | None) -> str:
    introspection = IntrospectionServerSettings(f"{peer.url}/introspect")
    issuer = GatewayIssuerSettings(
        issuer=peer.url,
        audiences=("api",),
        jwks_uri=f"{peer.url}/jwks",
        tenant="acme",
        introspection=introspection,
    )
    issuers = GatewayIssuers(
        GatewaySettings(issuers=(issuer,)), RULES, time.time, lambda: "id", time.monotonic, ca_file
    )
    try:
        await issuers.introspection_clients[peer.url].introspect(b"opaque")
    finally:
        await issuers.close()
    return ""


async def _webhook(peer: Peer, ca_file: Path | None) -> str:
    async with make_webhook_client(ca_file) as client:
        to: WebhookTarget = target(f"{peer.url}/hook", "cloudevents")
        return (
            await WebhookNotifier(client, lambda: int(time.time() * 1000)).deliver(outgoing(ALERTS["rise"]), to)
        ).error


async def _set_push(peer: Peer, ca_file: Path | None) -> str:
    async with make_webhook_client(ca_file) as client:
        return (await push_set(client, f"{peer.url}/receive", "", "a.set", 0)).error


async def _actuator(peer: Peer, ca_file: Path | None) -> str:
    settings = ActuatorSettings(
        name="hydra",
        kind="hydra",
        url=peer.url,
        issuers=("https://as.example",),
        auth=ActuatorAuthSettings(client_id="us", client_secret=Secret("s"), token_url=f"{peer.url}/oauth2/token"),
    )
    async with make_webhook_client(ca_file) as client:
        factory = ActuatorFactory(client, lambda *_: lambda _: "", lambda: 0, time.monotonic)
        await factory.request_authenticator(settings.auth).headers()
    return ""


async def _stream(peer: Peer, ca_file: Path | None) -> str:
    settings = SignalTransmitterSettings(
        name="idp",
        issuer=peer.url,
        audiences=("us",),
        tenants=("acme",),
        jwks_uri=f"{peer.url}/jwks",
        stream=ManagedStreamSettings(),
    )
    states = VerificationStates(peer.folder, time.time)
    async with make_webhook_client(ca_file) as client:
        stream = RemoteStream(settings, "https://us.example", client, RequestAuthenticator("t"), states)
        assert (await stream.keep()).poll_url == f"{peer.url}/poll"
    return ""


async def _sign_in(peer: Peer, ca_file: Path | None) -> str:
    grant = ConsoleGrantSettings(name="ops", value="ops", tenants=("*",))
    settings = ConsoleOidcSettings(issuer=peer.url, client_id="console", grants=(grant,))
    provider = OpenIdProvider(settings, RULES, "https://us.example", time.time, lambda: "id", time.monotonic, ca_file)
    try:
        assert (await provider.metadata()).issuer == peer.url
    finally:
        await provider.close()
    return ""


WAYS: dict[str, Callable[[Peer, Path | None], Awaitable[str]]] = {
    "keys of an issuer": _jwks,
    "introspection": _introspection,
    "webhook": _webhook,
    "push of a SET": _set_push,
    "actuator": _actuator,
    "stream at a transmitter": _stream,
    "sign-in server": _sign_in,
}
"""Ways out; each gives the error that it has kept, or raises."""


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_out_trust_the_authority(
    peer: Peer, authority: CertificateAuthority, way: str, tmp_path: Path
) -> None:
    """By `outgoing.ca_file`; the service answers us."""
    peer.folder = tmp_path
    assert asyncio.run(WAYS[way](peer, authority.folder / "clients.pem")) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
def test_without_it_the_error_names_the_setting(
    peer: Peer, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No request leaves, and the message says what to set."""
    peer.folder = tmp_path
    peer.asked.clear()
    try:
        said = asyncio.run(WAYS[way](peer, None))  # type: ignore[arg-type]
    except Exception as error:
        said = str(error)
    said += capsys.readouterr().out  # of introspection the log tells
    assert "certificate refused" in said and "`outgoing.ca_file`" in said
    assert peer.asked == []


def test_the_client_library_takes_an_authority(peer: Peer, authority: CertificateAuthority) -> None:
    """`http=` of every client: as `docs/client.md` shows it."""
    context = ssl.create_default_context()
    context.load_verify_locations(authority.folder / "clients.pem")
    peer.asked.clear()
    settings = RiskSettings(fail_mode="closed", budget_s=10.0)
    http = httpx2.Client(verify=context)
    client = TrustClient(peer.url, lambda: "token", settings, http=http)
    with http, client, pytest.raises(TrustUnavailable):  # the peer's answer says nothing of the agent
        client.risk("bot")
    assert "/v1/risk/query" in peer.asked


def test_the_authorities_of_the_system_are_trusted_as_well(authority: CertificateAuthority, tmp_path: Path) -> None:
    """What the file holds is added, with words between the certificates; it is read once, and no context is shared."""
    CertificateAuthority(tmp_path)
    file = tmp_path / "ca.pem"
    both_of_ours = [folder.joinpath("clients.pem").read_text() for folder in (authority.folder, tmp_path)]
    file.write_text("# Zertifizierungsstelle für Prüfungen\n".join(["", *both_of_ours]))
    own, both = ({json.dumps(one) for one in trusted_authorities(given).get_ca_certs()} for given in (None, file))
    assert own < both and len(both - own) == 2
    file.unlink()
    again = trusted_authorities(file)
    again.load_verify_locations(cadata=CertificateAuthority(tmp_path).folder.joinpath("clients.pem").read_text())
    assert {json.dumps(one) for one in trusted_authorities(file).get_ca_certs()} == both


@pytest.mark.parametrize(
    "content", [None, b"", b"no certificate", PEM % b"AAAA", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]
)
def test_a_file_that_cannot_be_used_is_a_wrong_setting(content: bytes | None, tmp_path: Path) -> None:
    """`settings check` says where and why, as every start does; nothing is trusted less in silence."""
    file, settings = tmp_path / "ca.pem", tmp_path / "trustwatch.yaml"
    if content is not None:
        file.write_bytes(content)
    settings.write_text("settings_version: 2\noutgoing: {ca_file: ca.pem}\n")

    checked = CliRunner().invoke(make_app(), ["settings", "check", str(settings), "--json"])

    assert checked.exit_code == 1
    problem = json.loads(checked.stdout)["problem"]
    assert str(file) in problem and "$.outgoing" in problem and "`ca_file`" in problem
    assert ("cannot be read: No such file" if content is None else "as PEM") in problem
    with pytest.raises(ValueError, match="ca_file"):
        OutgoingSettings(file)
    with pytest.raises(ConfigError):
        trusted_authorities(file)


def test_the_advice_is_for_unknown_authorities_alone() -> None:
    """A wrong host name or an expired certificate is not a matter of authorities."""
    verify = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
    for reason, advised in (
        ("unable to get local issuer certificate", True),
        ("self-signed certificate in certificate chain", True),
        ("Hostname mismatch, certificate is not valid for 'x'.", False),
        ("certificate has expired", False),
    ):
        text = connection_error_text(httpx2.ConnectError(f"{verify}{reason} (_ssl.c:1016)"))
        assert f"certificate refused ({reason})" in text and ("outgoing.ca_file" in text) is advised
    assert connection_error_text(httpx2.ReadTimeout("at https://secret.example")) == "ReadTimeout"


def test_a_file_that_can_be_used(authority: CertificateAuthority, tmp_path: Path) -> None:
    settings = tmp_path / "trustwatch.yaml"
    settings.write_text(f"settings_version: 2\noutgoing: {{ca_file: {authority.folder / 'clients.pem'}}}\n")
    assert CliRunner().invoke(make_app(), ["settings", "check", str(settings)]).exit_code == 0
