"""Keycloak's own transmitter of shared signals (26.7, `--features=ssf`) to our receiver, by poll. Each night."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from scripts.service_stack import Keycloak
from trustwatch.ingest.formats.received_signals import CAEP

from ..support.nightly import is_nightly
from ..support.service_process import Service

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not is_nightly(), reason="starts a Keycloak built for it: in .ci/nightly"),
]

EVENTS = (CAEP + "session-revoked", CAEP + "credential-change")
REALM, CLIENT, SECRET, ROLE = "agents", "trustwatch", "the-secret-of-the-receiver", "emit"
SETTINGS = """\
shared_signals:
  transmitters:
    - name: keycloak
      issuer: {issuer}
      audiences: [{audience}]
      tenants: [acme-corp]
      jwks_uri: {jwks}
      stream: {{events: [{events}], metadata_url: {metadata}}}
      auth: {{client_id: {client}, client_secret: {secret}, token_url: {token}, scope: "ssf.manage ssf.read"}}
"""


class SsfRealm:
    """A realm that transmits, with our client, which may also have Keycloak emit events."""

    def __init__(self, keycloak: Keycloak, http: httpx2.Client) -> None:
        self.keycloak, self.http = keycloak, http
        self.admin = f"{keycloak.url}/admin/realms/{REALM}"
        user, password = keycloak.admin
        given = {"grant_type": "password", "client_id": "admin-cli", "username": user, "password": password}
        self._auth = self._token("master", given)
        self._make()

    def _token(self, realm: str, form: dict[str, str]) -> dict[str, str]:
        answer = self.http.post(self.keycloak.token_url(realm), data=form)
        answer.raise_for_status()
        return {"authorization": f"Bearer {answer.json()['access_token']}"}

    def ask(self, method: str, path: str, auth: dict[str, str] | None = None, **more: Any) -> Any:
        """What the server answers to a request that succeeds."""
        answer = self.http.request(method, path, headers=auth or self._auth, **more)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _make(self) -> None:
        realm = {
            "realm": REALM,
            "enabled": True,
            "sslRequired": "none",
            "attributes": {"ssf.transmitterEnabled": "true"},
        }
        self.ask("POST", f"{self.keycloak.url}/admin/realms", json=realm)
        attributes = {"ssf.enabled": "true", "ssf.allowEmitEvents": "true", "ssf.emitEventsRole": ROLE}
        client = {"clientId": CLIENT, "secret": SECRET, "serviceAccountsEnabled": True, "attributes": attributes}
        self.ask("POST", f"{self.admin}/clients", json=client)
        (made,) = self.ask("GET", f"{self.admin}/clients", params={"clientId": CLIENT})
        scopes = {one["name"]: one["id"] for one in self.ask("GET", f"{self.admin}/client-scopes")}
        for name in ("ssf.manage", "ssf.read"):
            self.ask("PUT", f"{self.admin}/clients/{made['id']}/optional-client-scopes/{scopes[name]}")
        self.ask("POST", f"{self.admin}/roles", json={"name": ROLE})
        account = self.ask("GET", f"{self.admin}/clients/{made['id']}/service-account-user")
        role = self.ask("GET", f"{self.admin}/roles/{ROLE}")
        self.ask("POST", f"{self.admin}/users/{account['id']}/role-mappings/realm", json=[role])
        form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
        self.receiver = self._token(REALM, form | {"scope": "ssf.manage ssf.read"})

    @property
    def transmitter(self) -> str:
        return f"{self.keycloak.issuer(REALM)}/ssf/transmitter"

    def create_stream(self) -> dict[str, Any]:
        body = {
            "delivery": {"method": "urn:ietf:rfc:8936"},
            "events_requested": list(EVENTS),
        }
        stream: dict[str, Any] = self.ask("POST", f"{self.transmitter}/streams", self.receiver, json=body)
        return stream

    def add_agent(self, stream: dict[str, Any], name: str) -> dict[str, str]:
        """A subject of the stream: an agent that Keycloak knows as a user."""
        self.ask("POST", f"{self.admin}/users", json={"username": name, "enabled": True})
        (user,) = self.ask("GET", f"{self.admin}/users", params={"username": name, "exact": "true"})
        subject = {"format": "iss_sub", "iss": self.keycloak.issuer(REALM), "sub": user["id"]}
        body = {"stream_id": stream["stream_id"], "subject": subject}
        self.ask("POST", f"{self.transmitter}/subjects/add", self.receiver, json=body)
        return subject

    def emit(self, event_type: str, subject: dict[str, str], **event: Any) -> None:
        path = f"{self.admin}/ssf/clients/{CLIENT}/events/emit"
        said = self.ask("POST", path, self.receiver, json={"eventType": event_type, "sub_id": subject, "event": event})
        assert said["status"] == "dispatched", said


@pytest.fixture
def realm(keycloak: Keycloak) -> Iterator[SsfRealm]:
    """A realm of a Keycloak that was built with its transmitter."""
    keycloak.configure(features=("ssf",))
    keycloak.start()
    with httpx2.Client(timeout=30.0) as http:
        yield SsfRealm(keycloak, http)


def command(service: Service, name: str, *arguments: str) -> str:
    """What `trustwatch signals` says to people and programs."""
    asked = service.command("signals", name, "keycloak", *arguments, "--settings", str(service.settings))
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + ("" if "--json" in arguments else done.stderr)


def test_signals_of_keycloak(realm: SsfRealm, make_service: Callable[..., Service]) -> None:
    """A stream of Keycloak's that we take over: verified by our state alone; its events are acknowledged and in our
    log; its status and subjects are managed by our commands."""
    keycloak = realm.keycloak
    stream = realm.create_stream()
    subject = realm.add_agent(stream, "bot-7")
    service = make_service(
        SETTINGS.format(
            issuer=keycloak.issuer(REALM),
            audience=stream["aud"][0],
            jwks=keycloak.jwks_url(REALM),
            events=", ".join(EVENTS),
            metadata=f"{keycloak.issuer(REALM)}/.well-known/ssf-configuration",
            client=CLIENT,
            secret=SECRET,
            token=keycloak.token_url(REALM),
        )
    )
    service.start()

    def counted(outcome: str) -> float:
        name = f'trustwatch_received_signals_total{{outcome="{outcome}",transmitter="keycloak"}}'
        lines = service.client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)

    service.wait(lambda: counted("verified") == 1.0, 60.0)
    realm.emit("CaepSessionRevoked", subject, initiating_entity="policy", reason_admin={"en": "x"})
    service.wait(lambda: counted("evidence") == 1.0, 60.0)
    realm.emit("CaepSessionRevoked", subject, initiating_entity="user", reason_admin={"en": "x"})
    service.wait(lambda: counted("note") == 1.0, 60.0)
    poll = {"maxEvents": 10, "returnImmediately": True}
    service.wait(
        lambda: realm.ask("POST", stream["delivery"]["endpoint_url"], realm.receiver, json=poll)["sets"] == {}, 30.0
    )
    assert json.loads(command(service, "status", "--json"))["status"] == "enabled"
    assert "paused" in command(service, "status", "--set", "paused", "--reason", "moving")
    assert "paused" in command(service, "status")
    assert "enabled" in command(service, "status", "--set", "enabled")
    assert "removed" in command(service, "remove-subject", json.dumps(subject))
    assert "added" in command(service, "add-subject", json.dumps(subject))
    service.settle()
    agents = [row["agent_id"] for row in service.pages("/v1/agents", tenant="acme-corp")]
    assert agents == [subject["sub"]]
    assert service.stop() == 0
    assert SECRET not in service.log()
    assert "Traceback" not in service.log()
