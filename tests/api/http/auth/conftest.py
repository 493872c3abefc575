"""An issuer as it is in the world: keys, tokens, and a JWKS server on loopback that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from trustwatch.api.http.auth import bearer_tokens, jwks
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import AuthenticatedCaller, CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.token_verification import KeySet, parse_keys
from trustwatch.api.settings.access_settings import CallerSettings, IssuerSettings, VerificationSettings

NOW = 1_790_000_000.0
ISSUER = "https://as.example"
AUDIENCE = "https://trust.example"


class FakeClock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class SigningKey:
    """A private key with its kid; signs whatever header and claims it is given."""

    def __init__(self, alg: str, kid: str, private: Any) -> None:
        self.alg, self.kid, self.private = alg, kid, private

    def jwk(self, **more: Any) -> dict[str, Any]:
        maker: Any = {"E": ECAlgorithm, "R": RSAAlgorithm, "P": RSAAlgorithm}[self.alg[0]]
        maker = OKPAlgorithm if self.alg == "EdDSA" else maker
        return {**maker.to_jwk(self.private.public_key(), as_dict=True), "kid": self.kid, "use": "sig", **more}

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> bytes:
        """An access token that is right but for what is given; None removes a claim."""
        right = {
            "iss": ISSUER,
            "sub": "service-account-1",
            "client_id": "gateway-1",
            "aud": AUDIENCE,
            "iat": int(NOW),
            "exp": int(NOW) + 300,
            "scope": "trust.score:read trust.ingest",
        }
        kept = {name: value for name, value in {**right, **claims}.items() if value is not None}
        headers = {"typ": "at+jwt", "kid": self.kid, **(header or {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(kept, self.private, algorithm=self.alg, headers=headers).encode()


class JwksServer:
    """Serves a JWKS; `status`, `body`, `headers` and `hang` (an event that holds answers back) can be changed."""

    def __init__(self) -> None:
        self.body = b'{"keys": []}'
        self.status = 200
        self.headers: dict[str, str] = {}
        self.hang: threading.Event | None = None
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                if outer.hang is not None:
                    outer.hang.wait(10)
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    return  # the client gave up, as it should

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def publish(self, *keys: SigningKey | dict[str, Any]) -> None:
        self.body = jwks_of(*keys)

    def close(self) -> None:
        if self.hang is not None:
            self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def jwks_of(*keys: SigningKey | dict[str, Any]) -> bytes:
    return msgspec.json.encode({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]})


class IssuerTestbed:
    """One issuer, its server, a clock, and what the service makes of them."""

    def __init__(self, server: JwksServer) -> None:
        self.server = server
        self.clock = FakeClock()
        self.rules = VerificationSettings()
        self.issuer = IssuerSettings(issuer=ISSUER, audiences=(AUDIENCE,), jwks_uri=server.url)
        self.ahead = 0.0
        """Seconds by which the clock was set forward; no time has passed in them."""
        self.jwks = JwksCache([self.issuer], self.clock, lambda: self.clock.now - self.ahead)
        callers = CallerDirectory(
            [CallerSettings(name="gateway", client_id="gateway-1", tenants=("acme-corp",))], [ISSUER]
        )
        self.verifier: TokenVerifier[AuthenticatedCaller] = TokenVerifier(
            [self.issuer], self.jwks, callers.resolve, self.rules, self.clock
        )


@pytest.fixture(scope="session")
def new_key() -> Callable[..., SigningKey]:
    def make(alg: str = "ES256", kid: str = "k1") -> SigningKey:
        if alg == "EdDSA":
            return SigningKey(alg, kid, ed25519.Ed25519PrivateKey.generate())
        if alg[0] in "RP":
            return SigningKey(alg, kid, rsa.generate_private_key(65537, 2048))
        return SigningKey(alg, kid, ec.generate_private_key(ec.SECP256R1()))

    return make


@pytest.fixture(scope="session")
def es(new_key: Callable[..., SigningKey]) -> SigningKey:
    return new_key("ES256", "es-1")


@pytest.fixture(scope="session")
def rs(new_key: Callable[..., SigningKey]) -> SigningKey:
    return new_key("RS256", "rs-1")


@pytest.fixture(scope="session")
def ed(new_key: Callable[..., SigningKey]) -> SigningKey:
    return new_key("EdDSA", "ed-1")


@pytest.fixture
def issuer() -> IssuerSettings:
    return IssuerSettings(issuer=ISSUER, audiences=(AUDIENCE,), jwks_uri="https://as.example/jwks")


@pytest.fixture
def keys(es: SigningKey, rs: SigningKey, ed: SigningKey, issuer: IssuerSettings) -> KeySet:
    return parse_keys(jwks_of(es, rs, ed))


@pytest.fixture
def server() -> Iterator[JwksServer]:
    running = JwksServer()
    yield running
    running.close()


@pytest.fixture
def new_world(server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., IssuerTestbed]:
    def make(**constants: float) -> IssuerTestbed:
        for name, value in {"UNKNOWN_KEY_WAIT_S": 2.0, "REFRESH_S": 1000.0, **constants}.items():
            module = jwks if hasattr(jwks, name) else bearer_tokens
            monkeypatch.setattr(module, name, value)
        return IssuerTestbed(server)

    return make


@pytest.fixture
def world(new_world: Callable[..., IssuerTestbed]) -> IssuerTestbed:
    return new_world()
