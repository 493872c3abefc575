"""Revocation of tokens of contained agents at their server (RFC 7009), as soon as a gateway sees one.

Not an actuator of clients: it needs the token itself, which only its verifier has. A token is held in memory for as
long as the request takes, is in no log, error or store, and is recognized by its hash alone. Many servers revoke only
tokens of the requesting client (RFC 7009, 2.1); introspection afterwards shows whether one does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import httpx2
from cachetools import FIFOCache

from trustwatch.ingest.outgoing_http import connection_error_text

from .actuator import error_detail
from .authenticators import ClientAuthenticator

RevocationOutcome = Literal["confirmed", "accepted", "still_active", "known", "unsupported", "refused", "failed"]
"""`confirmed`: introspection reports it inactive; `accepted`: answered with 200, without introspection;
`known`: it was burned before; `unsupported`: no endpoint for that issuer, or not for such tokens."""

MAX_REMEMBERED_TOKENS = 10_000  # Revoked tokens that are remembered, by hash

MAX_CONCURRENT_REVOCATIONS = 32
_FINAL_OUTCOMES = frozenset({"confirmed", "accepted", "unsupported"})


class RevocationResult(NamedTuple):
    """Result of revoking one token. *error* is a line for operators."""

    outcome: RevocationOutcome
    error: str = ""


@dataclass(frozen=True)
class RevocationEndpoint:
    """Endpoint that revokes the tokens of some issuers."""

    name: str
    issuers: frozenset[str]
    url: str
    proof: ClientAuthenticator = field(repr=False)
    introspection_url: str = ""
    timeout_s: float = 5.0


class TokenRevoker:
    """Revokes tokens that are at hand. For one event loop."""

    def __init__(
        self, endpoints: Sequence[RevocationEndpoint], http: httpx2.AsyncClient, observe: Callable[[str, str], None]
    ) -> None:
        self._endpoints = {issuer: endpoint for endpoint in reversed(endpoints) for issuer in endpoint.issuers}
        self._http = http
        self._observe = observe
        self._revoked_tokens: FIFOCache[bytes, None] = FIFOCache(MAX_REMEMBERED_TOKENS)
        self._tasks: set[asyncio.Task[RevocationResult]] = set()

    def serves(self, issuer: str) -> bool:
        """Returns whether tokens of that issuer can be revoked."""
        return issuer in self._endpoints

    def revoke_in_background(self, token: str, issuer: str) -> bool:
        """Revoke in the background; return whether it was started. Never waits, never raises."""
        if not self.serves(issuer) or len(self._tasks) >= MAX_CONCURRENT_REVOCATIONS:
            return False
        if _token_hash(token) in self._revoked_tokens:
            return False
        task = asyncio.get_running_loop().create_task(self.revoke(token, issuer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """Wait for what is under way: each takes no longer than its endpoint's time."""
        await asyncio.gather(*self._tasks)

    async def revoke(self, token: str, issuer: str) -> RevocationResult:
        """Revoke *token* at *issuer*, once: a token that was revoked is not sent again. Never raises."""
        endpoint, mark = self._endpoints.get(issuer), _token_hash(token)
        if endpoint is None:
            return RevocationResult("unsupported", "no revocation endpoint is configured for the issuer")
        if mark in self._revoked_tokens:
            return RevocationResult("known")
        self._revoked_tokens[mark] = None  # before it is tried: requests of the same token come by the hundred
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                burned = await self._revoke_at_endpoint(token, endpoint)
        except TimeoutError:
            burned = RevocationResult("failed", f"no answer within {endpoint.timeout_s:g} s")
        except httpx2.HTTPError as error:
            burned = RevocationResult("failed", connection_error_text(error))
        if burned.outcome not in _FINAL_OUTCOMES:
            self._revoked_tokens.pop(mark, None)
        self._observe(endpoint.name, burned.outcome)
        return burned

    async def _revoke_at_endpoint(self, token: str, endpoint: RevocationEndpoint) -> RevocationResult:
        answer = await self._post(endpoint.url, {"token": token, "token_type_hint": "access_token"}, endpoint)
        if answer.status_code != 200:
            text, denied = f"HTTP {answer.status_code}{error_detail(answer)}", answer.status_code in (400, 401, 403)
            if answer.status_code == 400 and "unsupported_token_type" in text:
                return RevocationResult("unsupported", text)
            return RevocationResult("refused" if denied else "failed", text)
        if not endpoint.introspection_url:
            return RevocationResult("accepted")
        answer = await self._post(endpoint.introspection_url, {"token": token}, endpoint)
        if answer.status_code != 200:
            return RevocationResult("accepted", f"introspection: HTTP {answer.status_code}{error_detail(answer)}")
        try:
            active = answer.json()["active"]
        except (ValueError, TypeError, KeyError):
            return RevocationResult("accepted", "introspection: the answer does not say whether the token is active")
        if active is False:
            return RevocationResult("confirmed")
        error = "the server revokes only tokens of the client that asks, or not such tokens"
        return RevocationResult("still_active", error)

    async def _post(self, url: str, form: dict[str, str], endpoint: RevocationEndpoint) -> httpx2.Response:
        headers = endpoint.proof.authenticate(url, form)
        return await self._http.post(url, data=form, headers=headers)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
