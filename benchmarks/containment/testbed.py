"""All that a containment run needs, for real: Ory Hydra, Envoy, an API behind it, and the service with its ingest."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from scripts.service_stack import Envoy, Hydra
from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.api.shared_signals.routes import SCOPE_SSF_MANAGE
from trustwatch.scoring.delivery.shared_signals.event_types import EVENTS_SUPPORTED
from trustwatch.scoring.records.security_events import PUSH_METHOD

from .generated_history import EventContext, generate_history
from .population import ROLES, SimulatedClient, route_name, routes
from .set_receiver import SetReceiver
from .traffic import OAuthAccount
from .upstream import Upstream

ROOT = Path(__file__).parents[2]
TENANT, API, HOOK_HEADER = "acme", "https://api.example", "X-Trustwatch-Key"


class ContainmentTestbed:
    """Starts all of it in *folder*; `close` ends it.

    Args:
        folder: of everything that is written.
        clients: agents of the population.
    """

    def __init__(self, folder: Path, clients: int) -> None:
        self.folder = folder
        self.population = [SimulatedClient(number) for number in range(clients)]
        self.upstream = Upstream()
        self.receiver = SetReceiver()
        self.hydra = Hydra(folder / "hydra", bound=True)
        self.envoy = Envoy(folder / "envoy", bound=True)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(base_url=self.url, timeout=30.0)
        self._secret = secrets.token_urlsafe(32)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._token_until = 0.0
        self._token = ""

    def start(self) -> None:
        """Start the servers, register the population, train, and serve. Raises `ServiceUnavailable`."""
        self.hydra.configure(token_hook=f"{self.url}/hooks/hydra", hook_key=(HOOK_HEADER, self._secret))
        self.hydra.start()
        self.accounts = [self._account(client) for client in self.population]
        self._train()
        self.service = self._run(self._command("serve", "--settings", str(self._settings())), "service.log")
        self.wait(lambda: self.http.get("/readyz").status_code == 200, 90.0)
        self._create_stream()
        self._start_gateway()
        self._forward_access_log()

    def close(self) -> None:
        """End everything."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.envoy.remove(keep_logs=True)
        self.hydra.remove(keep_logs=True)
        self.upstream.close()
        self.receiver.close()
        self.http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON of the service's API."""
        answer = self.http.get(path, params=parameters, headers=self._auth())
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: dict[str, Any], **parameters: Any) -> Any:
        """The same by POST."""
        answer = self.http.post(path, json=body, params=parameters, headers=self._auth())
        answer.raise_for_status()
        return answer.json()

    def is_active(self, token: str) -> bool:
        """What the introspection façade says of a token."""
        answer = self.http.post("/introspect", data={"token": token}, headers=self._auth())
        answer.raise_for_status()
        return bool(answer.json()["active"])

    def introspect_at_hydra(self, token: str) -> bool:
        """What Hydra itself says of a token."""
        answer = httpx2.post(f"{self.hydra.admin_url}/admin/oauth2/introspect", data={"token": token}, timeout=20)
        return bool(answer.json()["active"])

    def client_at_hydra(self, client_id: str) -> dict[str, Any]:
        """The client as Hydra has it, without what it changes by itself."""
        found = httpx2.get(f"{self.hydra.admin_url}/admin/clients/{client_id}", timeout=20).json()
        return {name: value for name, value in found.items() if name not in ("updated_at",)}

    def wait(self, until: Callable[[], Any], within_s: float) -> Any:
        """The first true answer of *until*."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                if found := until():
                    return found
            except httpx2.TransportError:
                assert self.service.poll() is None, (self.folder / "service.log").read_text()[-4000:]
            time.sleep(0.05)
        raise TimeoutError(f"not within {within_s} s: {(self.folder / 'service.log').read_text()[-2000:]}")

    def wait_for_calls(self, within_s: float) -> None:
        """Until calls that the gateway logged are known of some agent: its token request alone is one event.

        Raises:
            TimeoutError: no log came, with the last words of its shipper.
        """
        try:
            self.wait(
                lambda: any(one["events"] > 2 for one in self.get("/v1/agents", tenant=TENANT)["items"]), within_s
            )
        except TimeoutError as error:
            shipper = (self.folder / "ingest.log").read_text()[-2000:]
            raise TimeoutError(f"the gateway's log does not arrive: {shipper}\n{error}") from None

    def _auth(self) -> dict[str, str]:
        if time.time() > self._token_until:
            now = time.time()
            scopes = (*ALL_SCOPES, SCOPE_SSF_MANAGE)
            self._token = self._key.issue_token("all", "all", scopes, "trustwatch", 3600, now, secrets.token_hex(8))
            self._token_until = now + 3000
        return {"authorization": f"Bearer {self._token}"}

    def _create_stream(self) -> None:
        """Have the receiver told of what the service decides, by push."""
        delivery = {"method": PUSH_METHOD, "endpoint_url": self.receiver.url}
        endpoint = self.get("/.well-known/ssf-configuration")["configuration_endpoint"]
        self.post(endpoint.removeprefix(self.url), {"delivery": delivery, "events_requested": list(EVENTS_SUPPORTED)})

    def _account(self, client: SimulatedClient) -> OAuthAccount:
        """Register a client with a key of its own; a lifetime of its own where its number is even."""
        key = rsa.generate_private_key(65537, 2048)
        made = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        public = {"kty": "RSA", "n": made["n"], "e": made["e"], "kid": "key-1", "use": "sig", "alg": "RS256"}
        body: dict[str, Any] = {
            "client_id": client.client_id,
            "grant_types": ["client_credentials"],
            "scope": " ".join(client.scopes),
            "audience": [API],
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "RS256",
            "jwks": {"keys": [public]},
        }
        if client.number % 2 == 0:
            body["client_credentials_grant_access_token_lifespan"] = "30m0s"
        answer = httpx2.post(f"{self.hydra.admin_url}/admin/clients", json=body, timeout=30)
        assert answer.status_code == 201, answer.text
        return OAuthAccount(client, client.client_id, key, self.hydra.token_url, API)

    def _train(self) -> None:
        around = EventContext(TENANT, self.hydra.issuer, self.envoy.url.removeprefix("http://"), "hydra")
        events = self.folder / "history.jsonl"
        events.write_bytes(b"\n".join(generate_history(self.population, around, time.time())) + b"\n")
        command = self._command("train", str(events), "--model", str(self.folder / "model"))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    def _settings(self) -> Path:
        issuer = self.hydra.issuer
        self._key = LocalSigningKey.open(self.folder / "data")
        every = {"tenants": ["*"], "issuers": ["*"], "sources": ["*"]}
        settings = {
            "data_dir": "data",
            "model_dir": "model",
            "listen": {"port": self.port},
            "issuers": [
                {"issuer": "urn:trustwatch:local", "jwks_file": "data/local-jwks.json", "audiences": ["trustwatch"]}
            ],
            "callers": [
                {"name": "all", "client_id": "all", **every},
                {"name": "envoy", "client_id": "envoy", "tenants": [TENANT], "issuers": [issuer], "format": "envoy"},
            ],
            "shared_signals": {"enabled": True, "push_hosts": ["127.0.0.1"]},
            "token_policy_file": "policy.yaml",
            "registry": [
                {"tenant": TENANT, "issuer": issuer, "agent": f"agent-{role.lower()}-*", "type": role} for role in ROLES
            ],
            "hooks": [
                {
                    "name": "hydra",
                    "kind": "hydra",
                    "tenant": TENANT,
                    "issuer": issuer,
                    "secret": self._secret,
                }
            ],
            "gateway": {
                "issuers": [{"issuer": issuer, "audiences": [API], "jwks_uri": self.hydra.jwks_url, "tenant": TENANT}],
            },
            "actuators": [{"name": "hydra", "kind": "hydra", "url": self.hydra.admin_url, "issuers": [issuer]}],
        }
        # From high on tokens die: by default only from critical on, and calls are held for a person before that.
        policy = {"version": "containment-1", "mode": "enforce", "levels": {"high": {"allow": False, "revoke": True}}}
        (self.folder / "policy.yaml").write_text(json.dumps(policy))
        path = self.folder / "settings.yaml"
        path.write_text(json.dumps(settings))
        return path

    def _start_gateway(self) -> None:
        self.envoy.configure(
            self.upstream.url, f"{self.url}/ext-authz", identity={self.hydra.issuer: self.hydra.jwks_url}
        )
        configuration = self.envoy.configuration()
        (listener,) = configuration["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (host,) = manager["route_config"]["virtual_hosts"]
        host["routes"] = [_route(route, host["routes"][0]["route"]) for route in routes()] + host["routes"]
        self.envoy.configure_raw(configuration)
        self.envoy.start()

    def _forward_access_log(self) -> None:
        """The gateway's log to the service, as a log shipper does."""
        self.envoy.access_log.touch()
        token = self._key.issue_token(
            "envoy", "envoy", ("trust.ingest",), "trustwatch", 86_400, time.time(), secrets.token_hex(8)
        )
        tail = self._run(["tail", "-n", "+1", "-F", str(self.envoy.access_log)], "tail.log", stdout=subprocess.PIPE)
        command = self._command("ingest", "-", "--url", self.url, "--token", token)
        assert tail.stdout is not None
        with tail.stdout:  # it is the shipper's from here on
            self._run(command, "ingest.log", stdin=tail.stdout)

    def _run(self, command: list[str], log: str, **more: Any) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            given: dict[str, Any] = {"stdout": file, "stderr": file, "start_new_session": True} | more
            process = subprocess.Popen(command, cwd=ROOT, **given)
        self._processes.append(process)
        return process

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "trustwatch", *arguments]


def _route(route: str, to: dict[str, Any]) -> dict[str, Any]:
    """A route of the gateway that has a name: what an agent does is told by it, not by paths with ids in them."""
    pattern = route.replace("{}", "[^/]+")
    return {"name": route_name(route), "match": {"safe_regex": {"regex": pattern}}, "route": to}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
