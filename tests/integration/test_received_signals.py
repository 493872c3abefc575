"""Signals of others to the real service: kill -9 between taking and acknowledging loses none and doubles none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.ingest.formats.received_signals import CAEP, WISE

from ..support.nightly import size
from ..support.service_process import Service
from ..support.shared_signals import ForeignTransmitter, PollServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KILLS = size(each_push=2, nightly=8)
AGENTS = size(each_push=60, nightly=400)
SECRET = "a-secret-of-the-transmitter"
SETTINGS = """\
shared_signals:
  transmitters:
    - name: idp
      issuer: https://idp.example
      audiences: [trustwatch-signals]
      tenants: [acme-corp]
      issuers: [https://as.example]
      jwks_file: {jwks}
      push_secret: {secret}
      poll_url: {poll}
"""
EVIDENCE, HARD = 2.0, 20.0


class Peer:
    """A transmitter that gives half of its SETs by push, until each is taken, and half by poll."""

    def __init__(self, folder: Path) -> None:
        self.polls = PollServer()
        self._transmitter = ForeignTransmitter(folder)
        self.settings = SETTINGS.format(jwks=self._transmitter.jwks, secret=SECRET, poll=self.polls.url)

    def sign(self, event_type: str, agent: str) -> tuple[str, str]:
        """A SET about *agent*, and its identifier."""
        subject = {"format": "iss_sub", "iss": "https://as.example", "sub": agent}
        claims = self._transmitter.claims(event_type, 0, time.time(), sub_id=subject)
        claims["jti"] = f"{event_type.rpartition('/')[2]}-{agent}"
        return claims["jti"], self._transmitter.sign(claims)

    def push(self, service: Service, token: str) -> None:
        """Push until it is taken, as a transmitter does."""
        headers = {"content-type": "application/secevent+jwt", "authorization": f"Bearer {SECRET}"}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                answer = httpx2.post(f"{service.url}/ssf/receive/idp", content=token, headers=headers, timeout=5.0)
            except httpx2.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status_code == 202:
                return
            assert answer.status_code in (429, 503), answer.text
            time.sleep(0.05)
        raise AssertionError("a SET was never taken")

    def give(self, service: Service, event_type: str, agents: list[str], pause_s: float = 0.0) -> None:
        """SETs about the agents, in turn by push and by poll."""
        for number, agent in enumerate(agents):
            jti, token = self.sign(event_type, agent)
            if number % 2:
                self.polls.put(jti, token)
            else:
                self.push(service, token)
            time.sleep(pause_s)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.polls.close()


def test_killed_service_loses_no_signal_and_doubles_none(make_service: Callable[..., Service], peer: Peer) -> None:
    """Evidence about each agent comes while the service is killed; then a compromise of each, whose decision says how
    much evidence there was: once, of every one."""
    service = make_service(peer.settings)
    service.start()
    agents = [f"bot-{number}" for number in range(AGENTS)]
    giving = threading.Thread(target=peer.give, args=(service, CAEP + "session-revoked", agents, 0.02))
    giving.start()
    for _ in range(KILLS):
        time.sleep(0.3)
        service.kill()
        service.start()
    giving.join()
    service.wait(lambda: not peer.polls.waiting, 60.0)
    peer.give(service, WISE + "workload-compromised", agents)
    service.wait(lambda: not peer.polls.waiting, 60.0)
    service.settle()

    decided: dict[str, Any] = {
        row["agent_id"]: row for row in service.pages("/v1/decisions") if row["level"] == "critical"
    }
    assert sorted(decided) == sorted(agents)
    found = {agent: (row["evidence"]["prior"], row["evidence"]["gain"]) for agent, row in decided.items()}
    assert set(found.values()) == {(EVIDENCE, HARD)}
    assert {row["event_id"] for row in decided.values()} == {f"workload-compromised-{agent}" for agent in agents}
    assert peer.polls.errors == {}
    assert SECRET not in service.log()
    assert service.stop() == 0
    assert "Traceback" not in service.log()
