"""The real application with its checks for gateways, asked in this process; the pipeline is played by the test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from trustwatch.api.settings.access_settings import (
    CallerSettings,
    ProofSettings,
    VerificationSettings,
)
from trustwatch.api.settings.enforcement_settings import GatewayIssuerSettings, GatewaySettings
from trustwatch.scoring.policy.book import PolicyBook, PolicyTable
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ....support.access_testbed import AS, NOW, AccessTestbed

API = "https://api.example"
CALLERS = (
    CallerSettings(name="gateway", client_id="gateway", tenants=("acme",), issuers=("*",)),
    CallerSettings(name="other", client_id="other", tenants=("globex",), issuers=("*",)),
)
Answer = httpx2.Response


class Issuer:
    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "as-jwks.json"
        self.publish("k1")

    def publish(self, kid: str) -> None:
        self.kid = kid
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.file.write_text(json.dumps({"keys": [{**public, "kid": kid, "use": "sig"}]}))

    def settings(self, **given: Any) -> GatewayIssuerSettings:
        mine = {"issuer": AS, "audiences": (API, "https://other.example"), "jwks_file": self.file, "tenant": "acme"}
        return GatewayIssuerSettings(**(mine | given))

    def token(self, agent: str = "bot", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A right token but for what is given; None removes a claim."""
        right = {
            "iss": AS,
            "sub": agent,
            "client_id": agent,
            "aud": API,
            "iat": int(NOW),
            "exp": int(NOW) + 300,
            "scope": "tools:read",
        }
        kept = {name: value for name, value in (right | claims).items() if value is not None}
        return jwt.encode(kept, self.key, "ES256", {"typ": "at+jwt", "kid": self.kid, **(header or {})})


class GatewayTestbed(AccessTestbed):
    def __init__(
        self,
        folder: Path,
        database: Path,
        gateway: GatewaySettings,
        issuer: Issuer,
        book: PolicyBook,
        proofs: ProofSettings,
    ) -> None:
        self.issuer = issuer
        verification = VerificationSettings(proofs=proofs)
        super().__init__(folder, database, book, callers=CALLERS, gateway=gateway, verification=verification)

    def send(self, method: str, path: str, headers: Any = None, **more: Any) -> Answer:
        return self.run(self.http.request(method, path, headers=headers, **more))

    def envoy(self, token: str | None = None, method: str = "GET", path: str = "/mcp", **more: Any) -> Answer:
        headers = more.pop("headers", {}) | ({} if token is None else {"authorization": f"Bearer {token}"})
        return self.send(method, f"/ext-authz{path}", headers, **more)

    def forward(self, token: str | None = None, method: str = "GET", uri: str = "/mcp", **headers: str) -> Answer:
        given = {"x-forwarded-method": method, "x-forwarded-uri": uri, "x-forwarded-host": "api.example"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(
            "GET", "/forward-auth", given | ({} if token is None else {"authorization": f"Bearer {token}"})
        )

    def introspect(self, token: str, client: str = "gateway", **headers: str) -> Answer:
        return self.send("POST", "/introspect", self.auth(client) | headers, data={"token": token})

    def auth(self, client: str = "gateway", *scopes: str) -> dict[str, str]:
        return super().auth(client, *scopes)

    def metrics(self) -> str:
        return str(self.send("GET", "/metrics").text)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_store(sqlite_url(path)).close()
    return path


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


@pytest.fixture
def new_desk(tmp_path: Path, database: Path, issuer: Issuer) -> Iterator[Callable[..., GatewayTestbed]]:
    desks: list[GatewayTestbed] = []

    def make(
        *issuers: GatewayIssuerSettings,
        mode: str = "enforce",
        table: Any = None,
        none: bool = False,
        proofs: ProofSettings = ProofSettings(),  # noqa: B008
        **gateway: Any,
    ) -> GatewayTestbed:
        folder = tmp_path / str(len(desks))
        folder.mkdir()
        shutil.copyfile(database, folder / "trustwatch.db")
        given = GatewaySettings(issuers=() if none else issuers or (issuer.settings(),), **gateway)
        book = PolicyBook(PolicyTable(table, version="7"), modes={"acme": mode})  # type: ignore[dict-item]
        desks.append(GatewayTestbed(folder, folder / "trustwatch.db", given, issuer, book, proofs))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(new_desk: Callable[..., GatewayTestbed]) -> GatewayTestbed:
    return new_desk()
