"""Burn on sight: tokens of contained agents that a gateway sees are revoked at their server (RFC 7009).

Not an actuator of clients: it needs the token itself, which only who verifies it has. A token is held in memory for as
long as the request takes, is in no log, error or store, and is known again by its hash alone. Many servers revoke only
tokens of the client that asks (RFC 7009, 2.1); whether one does is what introspection afterwards tells.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import httpx

from .auth import ClientProof
from .told import told

BurnOutcome = Literal["confirmed", "accepted", "still_active", "known", "unsupported", "refused", "failed"]
"""`confirmed`: introspection says that it is dead; `accepted`: answered with 200, and nobody can be asked;
`known`: it was burned before; `unsupported`: no endpoint for that issuer, or not for such tokens."""

REMEMBERED = 10_000
"""Tokens known as burned, by hash."""

MOST_AT_ONCE = 32
_SETTLED = frozenset({"confirmed", "accepted", "unsupported"})


class Burned(NamedTuple):
    """What came of a token. *error* is a line for operators."""

    outcome: BurnOutcome
    error: str = ""


@dataclass(frozen=True)
class RevocationEndpoint:
    """Where tokens of an issuer are revoked.

    Args:
        name: in metrics.
        issuers: of the tokens.
        url: revocation endpoint.
        proof: our client authentication, there and at introspection.
        introspection_url: asked afterwards; "" = never.
        timeout_s: of both requests together.
    """

    name: str
    issuers: frozenset[str]
    url: str
    proof: ClientProof = field(repr=False)
    introspection_url: str = ""
    timeout_s: float = 5.0


class TokenRevoker:
    """Revokes tokens that are at hand. For one event loop.

    Args:
        endpoints: by issuer; the first that names it is used.
        http: client without a time limit of its own.
        observe: told (endpoint's name, outcome) of each token that was tried.
    """

    def __init__(
        self, endpoints: Sequence[RevocationEndpoint], http: httpx.AsyncClient, observe: Callable[[str, str], None]
    ) -> None:
        self._endpoints = {issuer: one for one in reversed(endpoints) for issuer in one.issuers}
        self._http = http
        self._observe = observe
        self._burned: OrderedDict[bytes, None] = OrderedDict()
        self._tasks: set[asyncio.Task[Burned]] = set()

    def serves(self, issuer: str) -> bool:
        """Whether tokens of that issuer can be revoked."""
        return issuer in self._endpoints

    def soon(self, token: str, issuer: str) -> bool:
        """Revoke in the background, for who answers a request; whether it was taken on. Never waits, never raises."""
        if not self.serves(issuer) or len(self._tasks) >= MOST_AT_ONCE or self._is_burned(_mark(token)):
            return False
        task = asyncio.get_running_loop().create_task(self.revoke(token, issuer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """Wait for what is under way: each takes no longer than its endpoint's time."""
        await asyncio.gather(*self._tasks)

    async def revoke(self, token: str, issuer: str) -> Burned:
        """Revoke *token* at *issuer*, once: a token that was burned is not sent again. Never raises."""
        endpoint, mark = self._endpoints.get(issuer), _mark(token)
        if endpoint is None:
            return Burned("unsupported", "no revocation endpoint is configured for the issuer")
        if self._is_burned(mark):
            return Burned("known")
        self._remember(mark)  # before it is tried: requests of the same token come by the hundred
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                burned = await self._burn(token, endpoint)
        except TimeoutError:
            burned = Burned("failed", f"no answer within {endpoint.timeout_s:g} s")
        except httpx.HTTPError as error:
            burned = Burned("failed", type(error).__name__)
        if burned.outcome not in _SETTLED:
            self._burned.pop(mark, None)
        self._observe(endpoint.name, burned.outcome)
        return burned

    async def _burn(self, token: str, endpoint: RevocationEndpoint) -> Burned:
        answer = await self._post(endpoint.url, {"token": token, "token_type_hint": "access_token"}, endpoint)
        if answer.status_code != 200:
            return _judged(answer)
        if not endpoint.introspection_url:
            return Burned("accepted")
        answer = await self._post(endpoint.introspection_url, {"token": token}, endpoint)
        if answer.status_code != 200:
            return Burned("accepted", f"introspection: HTTP {answer.status_code}{told(answer)}")
        try:
            active = answer.json()["active"]
        except (ValueError, TypeError, KeyError):
            return Burned("accepted", "introspection: the answer does not say whether the token is active")
        if active is False:
            return Burned("confirmed")
        return Burned("still_active", "the server revokes only tokens of the client that asks, or not such tokens")

    async def _post(self, url: str, form: dict[str, str], endpoint: RevocationEndpoint) -> httpx.Response:
        headers = endpoint.proof.prove(url, form)
        return await self._http.post(url, data=form, headers=headers)

    def _is_burned(self, mark: bytes) -> bool:
        return mark in self._burned

    def _remember(self, mark: bytes) -> None:
        self._burned[mark] = None
        while len(self._burned) > REMEMBERED:
            self._burned.popitem(last=False)


def _judged(answer: httpx.Response) -> Burned:
    text = f"HTTP {answer.status_code}{told(answer)}"
    if answer.status_code == 400 and "unsupported_token_type" in text:
        return Burned("unsupported", text)
    return Burned("refused" if answer.status_code in (400, 401, 403) else "failed", text)


def _mark(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
