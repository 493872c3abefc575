"""The configurations of docs/gateways.md and examples/gateways work as they stand, but for ports and files."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ..support.checkout import DOCS, ROOT
from ..support.endpoint import Endpoint
from ..support.mutual_tls import CertificateAuthority, TlsClient, request
from ..support.oauth_peers import RESOURCE, new_key, oidc_client, public_keys, upstream
from ..support.proofs import escaped_pem, x5t_of
from ..support.service_reviewer import SETTINGS, ServiceReviewer, bearer

if TYPE_CHECKING:
    from scripts.service_stack import OidcProvider

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PAGE = (DOCS / "gateways.md").read_text()
EXAMPLES = {path.stem: path for path in (ROOT / "examples" / "gateways").iterdir()}
DOWN = {"envoy": 403, "caddy": 502, "nginx": 500}
SLOW = {"envoy": 403, "caddy": 504, "nginx": 500}
BOUND = """\
    - issuer: https://bound.example
      jwks_file: "{keys}"
      audiences: [https://api.example]
      tenant: acme-corp
  mtls: verify
  tell_approval: true
verification:
  proofs: {{certificate_header: {header}, trusted_proxies: [127.0.0.1/32]}}
"""
"""Behind the issuers of `SETTINGS`: tokens that are bound to certificates."""
SOC = """\
  - name: soc
    tenants: [acme-corp]
    certificate: {names: [soc.acme.example], scopes: ["trust.score:read"]}
"""
CERTIFICATE_HEADERS = {"envoy": b"X-Forwarded-Client-Cert", "caddy": b"Client-Cert", "nginx": b"X-Client-Cert"}
CHECK_PATHS = ("/forward-auth", "/ext-authz/mcp", "/ext%2Dauthz/mcp", "/forward%2dauth", "/x/../ext-authz/mcp")
REFUSED = ([401], [400], [])
SMUGGLED = (
    b"Content-Length: 4\r\nTransfer-Encoding: chunked",
    b"Content-Length: 5\r\nTransfer-Encoding : chunked",
    b"Content-Length: 5\r\nTransfer-Encoding: xchunked",
    b"Content-Length: 5\r\nTransfer_Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Content-Length: 5\r\nContent-Length: 200",
    b"Transfer-Encoding: chunked",
)
"""Lengths of a body, which one of two servers might take for another request."""


def documented(name: str) -> str:
    """The file of *name*'s configuration, else the only block of the page that is marked as such."""
    if name in EXAMPLES:
        return EXAMPLES[name].read_text()
    (found,) = re.findall(rf"^```\w+ {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def program(name: str) -> Path:
    from scripts.service_stack import ServiceUnavailable, caddy, envoy, nginx

    programs: dict[str, Callable[[], Path]] = {
        "envoy": envoy.envoy_program,
        "caddy": caddy.caddy_program,
        "nginx": nginx.nginx_program,
    }
    try:
        return programs[name]()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVER NOT TO BE HAD: {name}: {reason}")


def command(name: str, folder: Path, text: str) -> list[str | Path]:
    product = name.partition("_")[0]
    file = folder / f"{name}.{'yaml' if product == 'envoy' else 'conf'}"
    if product == "envoy":  # which waits a second before it closes what it refused
        text = re.sub(r"^( +)(stat_prefix: .*)$", r"\1\2\n\1delayed_close_timeout: 0s", text, flags=re.MULTILINE)
    if product == "nginx":  # where it may write, which is no business of the docs
        kept = "".join(
            f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"daemon off; master_process off; pid {folder}/{name}.pid;\n" + text.replace(
            "http {", f"http {{ access_log off; {kept}", 1
        )
    file.write_text(text)
    started = program(product)
    if product == "envoy":
        return [started, "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    if product == "caddy":
        return [started, "run", "--adapter", "caddyfile", "--config", file]
    return [started, "-p", folder, "-e", "stderr", "-c", file]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, str, str], list[int]]]:
    """Starts a documented gateway in front of an API; returns the ports of loopback that it listens on."""
    running: list[subprocess.Popen[bytes]] = []

    def started(name: str, api: str, check: str) -> list[int]:
        text = re.sub(r"/etc/(nginx|envoy|caddy)/", f"{tmp_path}/", documented(name))
        ports = [free_port() for documented_port in ("10000", "10001") if documented_port in text]
        for documented_port, real in zip(("8080", "8420", "10000", "10001"), (api, check, *ports), strict=False):
            assert documented_port in text
            text = text.replace(documented_port, str(real))
        environment = os.environ | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
        running.append(subprocess.Popen(command(name, tmp_path, text), env=environment))
        deadline = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports[-1]), timeout=1).close()
                return ports
            except OSError:
                assert running[-1].poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    yield started
    for process in running:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.parametrize("name", DOWN)
def test_a_documented_configuration_works(
    name: str,
    start: Callable[[str, str, str], list[int]],
    make_service: Callable[..., Any],
    oidc_provider: OidcProvider,
    tmp_path: Path,
) -> None:
    """Allowed with the level for the upstream, whatever the agent says of itself; stepped up, denied; closed while we
    are down, and within seconds while we hang. Each tells client certificates, and nobody tells them for it."""
    issuer = BoundIssuer(tmp_path)
    more = SETTINGS.format(issuer=oidc_provider.issuer, keys=oidc_provider.jwks_url, audience=RESOURCE)
    service = make_service(more + BOUND.format(keys=issuer.file, header=CERTIFICATE_HEADERS[name].decode()))
    service.settings.write_text(service.settings.read_text().replace("callers:\n", f"callers:\n{SOC}", 1))
    service.start()
    site = ServiceReviewer(service, oidc_provider.issuer)
    agent = oidc_client(oidc_provider)
    token = agent.token(scope="tools:read tools:write")
    with Endpoint(upstream) as api:
        (port,) = start(name, api.url.rpartition(":")[2], str(service.port))
        http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        lying = bearer(token) | {"x-risk-level": "low", "x-forwarded-method": "GET", "x-original-method": "GET"}
        assert http.post("/mcp", headers=lying).text == "upstream"
        assert api.seen[-1][2]["x-risk-level"] == "unknown"

        site.pin(agent.client_id, "medium")
        assert http.get("/mcp", headers=bearer(token)).status_code == 200
        held = http.post("/mcp", headers=lying)
        assert held.status_code == 401
        assert 'error="insufficient_user_authentication"' in held.headers["www-authenticate"]
        assert held.headers["x-approval-id"]
        site.pin(agent.client_id, "critical")
        assert http.get("/mcp", headers=bearer(token)).status_code == 403
        site.agent(agent.client_id, "unpin", why="for this test")
        assert http.get("/mcp", headers=bearer(token)).status_code == 200

        check_client_certificates(name, tmp_path, start, issuer, api, service.port)
        passed = len(api.seen)
        service.process.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert http.get("/mcp", headers=bearer(token)).status_code == SLOW[name]
            assert time.monotonic() - begun < 5
        finally:
            service.process.send_signal(signal.SIGCONT)
        service.stop()
        assert http.get("/mcp", headers=bearer(token)).status_code == DOWN[name]
        assert len(api.seen) == passed
        http.close()


class BoundIssuer:
    """An authorization server that binds tokens to certificates (RFC 8705); its key set is a file in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "bound-jwks.json"
        self._key = new_key()
        self.file.write_text(json.dumps(public_keys(self._key)))

    def token(self, certificate: x509.Certificate) -> str:
        now = int(time.time())
        claims = {"iss": "https://bound.example", "sub": "bot", "client_id": "bot", "aud": "https://api.example"}
        claims |= {"iat": now, "exp": now + 600, "jti": "t", "scope": "read", "cnf": {"x5t#S256": x5t_of(certificate)}}
        return jwt.encode(claims, self._key, "RS256", {"typ": "at+jwt", "kid": "key-1"})


class Attacker:
    """A client that has every certificate, and the keys of few.

    Attributes:
        header: by which the proxy tells certificates.
    """

    def __init__(self, product: str, authority: CertificateAuthority) -> None:
        self.header = CERTIFICATE_HEADERS[product]
        self.authority = authority
        self.product = product

    def value(self, name: str) -> bytes:
        """A certificate as the proxy writes it."""
        certificate = self.authority.certificate(name)
        if self.product == "caddy":
            return b":" + base64.b64encode(certificate.public_bytes(Encoding.DER)) + b":"
        pem = escaped_pem(certificate).encode()
        digest = certificate.fingerprint(SHA256()).hex().encode()
        return b'Hash=%s;Cert="%s"' % (digest, pem) if self.product == "envoy" else pem

    def forgeries(self, name: str) -> list[tuple[bytes, ...]]:
        """Headers that tell of it: in spellings, twice, folded, behind another one, and taken for the connection's."""
        header, value = self.header, b": " + self.value(name)
        spellings = (header, header.lower(), header.replace(b"-", b"_"), header + b" ", header + b"\t", header + b"\0")
        return [
            *((spelling + value,) for spelling in spellings),
            (header + value,) * 2,
            (b"X-Other: a", b" " + header + value),
            (b"X-Other: a\n" + header + value,),
            (b"Connection: " + header, header + value),
        ]

    def smuggled(self, path: str, name: str, token: str = "") -> list[bytes]:
        """Requests behind, or within, the body of another one."""
        hidden = b"0\r\n\r\n" + request(path, self.header + b": " + self.value(name), token=token)
        trailer = b"0\r\n%s: %s\r\n\r\n" % (self.header, self.value(name))
        trailing = request(path, b"Transfer-Encoding: chunked", method="POST", token=token) + trailer
        outer = [request(path, lengths, method="POST", token=token, close=False) for lengths in SMUGGLED]
        return [*(one + hidden for one in outer), trailing]


def check_client_certificates(
    product: str,
    folder: Path,
    start: Callable[[str, str, str], list[int]],
    issuer: BoundIssuer,
    api: Endpoint,
    trustwatch: int,
) -> None:
    """The documented proxy with mTLS in front of the service, and an attacker who has every certificate but no key."""
    authority = CertificateAuthority(folder)
    for name in ("server", "agent", "other"):
        authority.issue(name)
    authority.issue("soc", hosts=("soc.acme.example",))
    authority.issue("own", hosts=("soc.acme.example",), own=True)
    authority.issue("expired", hosts=("soc.acme.example",), begun_days_ago=5)
    agents, callers = start(f"{product}_mtls", api.url.rpartition(":")[2], str(trustwatch))
    attacker = Attacker(product, authority)
    check_bound_tokens(attacker, agents, issuer, api)
    check_callers_with_certificates(attacker, callers, trustwatch)


def check_bound_tokens(attacker: Attacker, port: int, issuer: BoundIssuer, api: Endpoint) -> None:
    """A token passes with the certificate that it is bound to, on its own connection alone."""
    authority = attacker.authority
    token, others = (issuer.token(authority.certificate(name)) for name in ("agent", "other"))
    passed = len(api.seen)
    right, stranger, nobody = (TlsClient(authority, port, name) for name in ("agent", "other", None))
    kept = [request("/mcp", token=which, close=False) for which in (token, others, token)]
    lying = (attacker.header + b": " + attacker.value("other"), b"X-Risk-Level: low")
    assert right.statuses(*kept, request("/mcp", *lying, token=token)) == [200, 401, 200, 200]
    assert api.seen[-1][2]["x-risk-level"] == "unknown"
    assert len(api.seen) == passed + 3
    assert not any(attacker.header.lower().decode() in headers for _, _, headers, _ in api.seen[passed:])
    for client in (stranger, nobody):
        assert client.statuses(request("/mcp", token=token)) == [401]
        for forged in attacker.forgeries("agent"):
            assert client.statuses(request("/mcp", *forged, token=token)) in REFUSED, forged
        for smuggling in attacker.smuggled("/mcp", "agent", token):
            assert 200 not in client.statuses(smuggling), smuggling
    for path in ("/_trustwatch", "/%5ftrustwatch", "/x/../_trustwatch"):
        assert 200 not in nobody.statuses(request(path, *attacker.forgeries("agent")[0], token=token))
    for name in ("own", "expired"):
        bound = issuer.token(authority.certificate(name))
        assert TlsClient(authority, port, name).statuses(request("/mcp", token=bound)) in ([400], [])
    assert len(api.seen) == passed + 3


def check_callers_with_certificates(attacker: Attacker, port: int, trustwatch: int) -> None:
    """A program is whom its certificate names: issued, in its time, told by the proxy and by no other address."""
    asked, authority = "/v1/decisions?tenant=acme-corp", attacker.authority
    soc = TlsClient(authority, port, "soc")
    assert soc.statuses(request(asked, close=False), request(asked, attacker.header + b": x")) == [200, 200]
    for more in (b"Origin: https://evil.example", b"Sec-Fetch-Site: none", b"Authorization: Bearer x"):
        assert soc.statuses(request(asked, more)) == [401], more
    assert soc.statuses(request(asked).replace(b"Host: localhost", b"Host: evil.example")) == [421]
    for path in CHECK_PATHS:
        assert soc.statuses(request(path)) == [404], path
    for name in ("own", "expired"):
        assert TlsClient(authority, port, name).statuses(request(asked)) in ([400], [])
    for name in ("other", None):
        client = TlsClient(authority, port, name)
        for forged in attacker.forgeries("soc"):
            assert client.statuses(request(asked, *forged)) in REFUSED, forged
        for smuggling in attacker.smuggled(asked, "soc"):
            assert 200 not in client.statuses(smuggling), smuggling
    for status, client in ((401, TlsClient(authority, port, None)), (403, soc)):  # nobody behind it is this machine
        assert client.statuses(request("/metrics")) == [status]
    for address, status in (("127.0.0.1", 200), ("127.0.0.9", 401)):  # the proxy's own, and one that is no proxy's
        transport = httpx2.HTTPTransport(local_address=address)
        with httpx2.Client(transport=transport, base_url=f"http://127.0.0.1:{trustwatch}") as direct:
            headers = {attacker.header.decode(): attacker.value("soc").decode(), "x-forwarded-for": "127.0.0.1"}
            assert direct.get(asked, headers=headers).status_code == status
