"""A real `trustwatch serve` with everything that a page of the console can show, and the servers around it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from trustwatch.api.console.console_sessions import issue_login_code

from .alert_receiver import SECRET, Receiver
from .service_process import ModelAndDay, Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from scripts.service_stack import OidcProvider

ISSUER = "https://as.example"
MORE = """\
console:
  enabled: true
  development_login: true
  oidc:
    issuer: "{oidc}"
    client_id: console
    client_secret: {secret}
    grants:
      - {{name: soc, value: soc, scopes: ["trust.score:read", "trust.feedback"], tenants: [acme-corp]}}
webhooks:
  - {{name: soc, url: "{receiver}/soc", secret: "{signing}"}}
  - {{name: old-pager, url: "http://127.0.0.1:9/gone", secret: "{signing}"}}
hooks:
  - {{name: authzen, kind: authzen, tenant: acme-corp, issuer: "https://as.example"}}
"""
CLIENT_SECRET = "secret of the console in tests, long enough"
PEOPLE = {"alice": {"name": "Alice Analyst", "groups": ["soc"]}}


class ConsoleTestbed:
    """The service, its alert receiver and its OpenID provider.

    Args:
        settings: further lines of its settings.
    """

    def __init__(self, folder: Path, world: ModelAndDay, provider: OidcProvider, settings: str = "") -> None:
        self.provider = provider
        self.receiver = Receiver()
        self._day = [_moved(event, _days_since(world.day[-1])) for event in world.day]
        more = (
            MORE.format(oidc=provider.issuer, secret=CLIENT_SECRET, receiver=self.receiver.url, signing=SECRET)
            + settings
        )
        self.service = Service(folder / "service", world.model, more)
        self.url = self.service.url
        self._cookies: Any = None

    @property
    def own_hosts(self) -> set[str]:
        return {url.partition("://")[2] for url in (self.url, self.provider.url)}

    def start(self) -> None:
        """Serve, and have a day behind it: attacks, refused records, an approval that waits, a pin."""
        client = {
            "client_id": "console",
            "client_secret": CLIENT_SECRET,
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
            "redirect_uris": [f"{self.url}/console/callback"],
            "token_endpoint_auth_method": "client_secret_basic",
        }
        self.provider.configure(clients=(client,), users=PEOPLE)
        self.provider.start()
        self.service.start()
        for start in range(0, len(self._day), 500):
            answer = self.service.post(b"\n".join(self._day[start : start + 500]))
            assert answer.status_code == 202, answer.text
        self._refused_records()
        self.service.settle()
        self.ask_for_approval("agent-waiting", "payments:write")

    def _refused_records(self) -> None:
        self.service.post(b'{"id": "no-agent", "type": "tool.call", "action": "<script>alert(1)</script>"}')
        self.service.post(b'\x00\x01\xff\xfe{"id": "bytes"}')
        self.service.post(b'{"id": "once-more", "agent": {"id": "x"}, "type": "tool.call"}')

    def ask_for_approval(self, agent: str, scope: str) -> None:
        """A pin makes its level certain; then its request needs a person."""
        self.pin(agent, "high")
        assert not self.may(agent, scope)
        self.service.wait(
            lambda: [
                one
                for one in self.service.pages("/v1/approvals", status="pending")
                if (one["agent_id"], one["scopes"]) == (agent, [scope])
            ]
        )

    def may(self, agent: str, scope: str) -> bool:
        """Whether the decision point lets an agent have a scope now."""
        question = {
            "subject": {"type": "client", "id": agent},
            "action": {"name": scope},
            "resource": {"type": "account", "id": "42"},
        }
        answer = self.service.client.post("/access/v1/evaluation", json=question, headers=self.service.auth())
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["decision"])

    def query(self, members: dict[str, Any]) -> str:
        return urlencode(members)

    def pin(self, agent: str, level: str) -> None:
        """Fix an agent's level, seen or not."""
        answer = self.service.client.post(
            f"/v1/agents/{agent}/pin",
            json={"level": level, "why": "for the tests", "valid_s": 3600},
            params={"tenant": "acme-corp", "issuer": ISSUER},
            headers=self.service.auth(),
        )
        assert answer.status_code == 201, answer.text

    def steal(self, agent: str) -> None:
        """Work for a while, then go on with a token that was revoked: critical, whatever the model thinks."""
        now = time.time()
        events = [_event(agent, number, now - 60 + number) for number in range(30)]
        events.append(_event(agent, 31, now - 20, type="token.revoke", action="revoke"))
        events += [_event(agent, 32 + number, now - 15 + number) for number in range(6)]
        assert self.service.send(events).json()["accepted"] == len(events)

    def session_cookies(self, browser: Browser) -> Any:
        """Cookies of a session of the development login; signed in once for all tests."""
        if self._cookies is None:
            context = browser.new_context()
            code = issue_login_code(self.service.folder / "data", time.time())
            context.new_page().goto(f"{self.url}/console/dev-login?code={code}")
            self._cookies = context.cookies()
            context.close()
        return self._cookies

    def close(self) -> None:
        """End everything but the provider, which belongs to all tests."""
        self.service.close()
        self.receiver.close()


def _event(agent: str, number: int, at_s: float, **members: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
    return {
        "id": f"{agent}/{number}",
        "time": at,
        "type": "tool.call",
        "tenant": "acme-corp",
        "action": "read_file",
        "agent": {"id": agent, "issuer": ISSUER, "type": "Clerk"},
        "outcome": "success",
        "credential": {"method": "private_key_jwt", "token_id": "sha256:stolen"},
        **members,
    }


def _days_since(event: bytes) -> timedelta:
    """Whole days by which events move so that the last is yesterday's: hours of the day mean something to the model."""
    last = datetime.fromisoformat(json.loads(event)["time"])
    return timedelta(days=(datetime.now(UTC).date() - last.date()).days - 1)


def _moved(event: bytes, by: timedelta) -> bytes:
    members = json.loads(event)
    at = datetime.fromisoformat(members["time"]) + by
    return json.dumps(members | {"time": at.isoformat(timespec="milliseconds")}).encode()
