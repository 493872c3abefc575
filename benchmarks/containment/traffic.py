"""Live traffic of the population: real tokens and requests through the gateway, from an address for each client."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt

from .population import ApiCall, ClientSession, SimulatedClient, session_starts

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
PROBE_S = 0.02
"""How soon a thief tries something else when it was refused."""

IN_VAIN = 12
"""After so many refusals in a row, of reads and writes alike, it gives up."""


@dataclass
class OAuthAccount:
    """A client with its key at the authorization server."""

    client: SimulatedClient
    client_id: str
    key: Any
    token_url: str
    audience: str

    def form(self, scopes: tuple[str, ...]) -> dict[str, str]:
        """A token request with private_key_jwt (RFC 7523)."""
        now = int(time.time())
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": self.token_url, "iat": now, "exp": now + 60}
        signed = jwt.encode(claims | {"jti": secrets.token_hex(16)}, self.key, "RS256", {"kid": "key-1"})
        return {
            "grant_type": "client_credentials",
            "scope": " ".join(scopes),
            "audience": self.audience,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": signed,
        }


@dataclass
class HijackTimes:
    """What became of one hijack. Times are UTC seconds; 0 = did not happen."""

    client_id: str
    began: float = 0.0
    """The thief's first request to the API (its token request came before, and may count as malicious already)."""
    asked: float = 0.0
    refused_at_gateway: float = 0.0
    """From then on nothing passed."""
    calls_passed: int = 0
    token: str = ""
    lifetime_s: int = 0
    statuses: list[int] = field(default_factory=list)


@dataclass
class BenignTraffic:
    """What the others got."""

    sessions: int = 0
    calls: int = 0
    token_refusals: list[tuple[str, int, str]] = field(default_factory=list)
    call_refusals: list[tuple[str, int]] = field(default_factory=list)


class TrafficDriver:
    """Drives the population.

    Args:
        accounts: every client.
        gateway: `http://host:port` of the gateway.
        stolen: set by `steal`: sessions of those clients are no longer benign.
    """

    def __init__(self, accounts: list[OAuthAccount], gateway: str) -> None:
        self.accounts = {account.client.number: account for account in accounts}
        self.gateway = gateway
        self.benign = BenignTraffic()
        self.stolen: set[str] = set()
        self._dice = random.Random("live")

    async def run(self, seconds: float, every_s: float, stop: asyncio.Event) -> None:
        """Sessions of all clients that are not stolen."""
        clients = [account.client for account in self.accounts.values()]
        began, running = time.monotonic(), set()
        for offset, client in session_starts(clients, self._dice, seconds, every_s):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.0, began + offset - time.monotonic()))
            if stop.is_set():
                break
            task = asyncio.create_task(self._session(client))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _session(self, client: SimulatedClient) -> None:
        account, session = self.accounts[client.number], client.session(self._dice)
        if account.client_id in self.stolen:
            return
        async with _http(client.address) as http:
            answer = await http.post(account.token_url, data=account.form(session.scopes))
            if account.client_id in self.stolen:
                return
            self.benign.sessions += 1
            if answer.status_code != 200:
                self.benign.token_refusals.append((account.client_id, answer.status_code, answer.text[:200]))
                return
            await self._calls(account, session, http, answer.json()["access_token"])

    async def _calls(self, account: OAuthAccount, session: ClientSession, http: httpx2.AsyncClient, token: str) -> None:
        for call, gap in zip(session.calls, session.gaps, strict=True):
            await asyncio.sleep(gap)
            status = await self._call(http, call, token)
            if account.client_id in self.stolen:  # from now on it is not benign, and what it gets shows nothing
                return
            self.benign.calls += 1
            if status != 200:
                self.benign.call_refusals.append((account.client_id, status))

    async def hijack(self, number: int, within_s: float) -> HijackTimes:
        """Somebody uses a client's key until nothing passes any more, whatever it tries."""
        account = self.accounts[number]
        theft, session = HijackTimes(account.client_id), account.client.theft(self._dice)
        self.stolen.add(account.client_id)
        deadline = time.monotonic() + within_s
        async with _http(session.calls[0].source) as http:
            theft.asked = time.time()
            answer = await http.post(account.token_url, data=account.form(session.scopes))
            answer.raise_for_status()
            theft.token, theft.lifetime_s = answer.json()["access_token"], answer.json()["expires_in"]
            theft.began = time.time()
            at = in_vain = 0
            while time.monotonic() < deadline and in_vain < IN_VAIN:
                status = await self._call(http, session.calls[at % len(session.calls)], theft.token)
                theft.statuses.append(status)
                if status == 200:
                    theft.calls_passed += 1
                    in_vain, theft.refused_at_gateway = 0, 0.0
                else:
                    in_vain += 1
                    theft.refused_at_gateway = theft.refused_at_gateway or time.time()
                await asyncio.sleep(session.gaps[at % len(session.gaps)] if status == 200 else PROBE_S)
                at += 1
        return theft

    async def call_once(self, number: int, token: str) -> int:
        """One harmless call with a token; the status."""
        client = self.accounts[number].client
        async with _http(client.address) as http:
            return await self._call(http, client.session(self._dice).calls[0], token)

    async def _call(self, http: httpx2.AsyncClient, call: ApiCall, token: str) -> int:
        answer = await http.request(
            call.method, self.gateway + call.path, headers={"authorization": f"Bearer {token}", "user-agent": "agent/1"}
        )
        return answer.status_code


def _http(address: str) -> httpx2.AsyncClient:
    """A client whose connections come from *address*, which is this machine's as all of 127.0.0.0/8 is."""
    return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(local_address=address), timeout=20.0)
