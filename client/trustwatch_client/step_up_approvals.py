"""Refusals as callers see them, and what lets a step-up pass: an approval at the service, or a recent log-in.

Refusals disclose neither risk nor reasons nor levels.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Literal

import httpx2
import msgspec

from .events import Caller
from .service_connection import AsyncTokenSource, BoundedCache, LoopClient
from .timing import Clock, SystemClock

log = logging.getLogger("trustwatch_client")

GuardAction = Literal["allow", "deny", "step_up", "unavailable"]
ResponseHeaders = list[tuple[bytes, bytes]]
_NOT_QUOTABLE = re.compile(r'[^\x20-\x7e]|["\\]')
RETRY_AFTER_S = 1

REFUSAL_DETAILS: dict[GuardAction, tuple[int, str, str, str]] = {
    "deny": (403, "access_denied", "Forbidden", "Access is denied."),
    "step_up": (401, "insufficient_user_authentication", "Unauthorized", "A person must approve this first."),
    "unavailable": (503, "temporarily_unavailable", "Service Unavailable", "Access cannot be decided now. Try again."),
}
"""Action -> status, code, title, detail."""


class Challenge(msgspec.Struct, frozen=True):
    """Requirements of a step-up (RFC 9470).

    Attributes:
        acr_values: authentication context classes, the preferred one first, separated by spaces.
        max_age_s: s since the person authenticated, at most.
        resource_metadata: URL of the protected resource's metadata (RFC 9728).
    """

    acr_values: str | None = None
    max_age_s: int | None = None
    resource_metadata: str | None = None

    def header_value(self) -> str:
        """Return the value of `WWW-Authenticate`."""
        given = {
            "error": "insufficient_user_authentication",
            "error_description": REFUSAL_DETAILS["step_up"][3],
            "acr_values": self.acr_values,
            "max_age": self.max_age_s,
            "resource_metadata": self.resource_metadata,
        }
        return "Bearer " + ", ".join(
            f'{name}="{_NOT_QUOTABLE.sub("", str(value))}"' for name, value in given.items() if value is not None
        )


def refusal_response(action: GuardAction, challenge: Challenge) -> tuple[int, ResponseHeaders, bytes]:
    """Return status, headers and body (a problem document, RFC 9457) of a refused request."""
    status, code, title, detail = REFUSAL_DETAILS[action]
    kind = f"urn:trustwatch:problem:{code}"
    body = json.dumps({"type": kind, "title": title, "status": status, "detail": detail, "code": code}).encode()
    headers: ResponseHeaders = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if action == "step_up":
        headers.append((b"www-authenticate", challenge.header_value().encode("ascii")))
    if action == "unavailable":
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return status, headers, body


ApprovalSource = Callable[[Caller], Collection[str] | Awaitable[Collection[str]]]
"""Scopes that a person approved for a caller, compared exactly; `*` is all."""

INTERVENTIONS_PATH = "/v1/interventions"
MAX_CACHED_CALLERS = 10_000


class _ApprovedScopes(msgspec.Struct, frozen=True):
    scopes: tuple[str, ...] = ()


class _ApprovalsPage(msgspec.Struct, frozen=True):
    items: tuple[_ApprovedScopes, ...] = ()


class Approvals(LoopClient):
    """Approvals that persons gave at the service (`trustwatch approvals`), for one event loop.

    They are queried only if an answer requires a step-up, since the service reads them from its database. Without an
    answer nothing is approved. Approvals are requested where tokens are issued, or by the service's checks for
    gateways.

    Args:
        url, token, http, clock, insecure_http: as for `AsyncTrustClient`; scope `trust.score:read`.
        cache_s: s, for which approved scopes are remembered.
        timeout_s: s.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        *,
        cache_s: float = 1.0,
        timeout_s: float = 0.5,
        http: httpx2.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        super().__init__(url, token, http, clock, insecure_http=insecure_http)
        self._cache_s, self._timeout_s = cache_s, timeout_s
        self._cached_scopes: BoundedCache[tuple[str, str | None, str | None], tuple[float, tuple[str, ...]]] = (
            BoundedCache(MAX_CACHED_CALLERS)
        )

    async def __call__(self, caller: Caller) -> tuple[str, ...]:
        """Return the scopes that are approved for *caller* now; none if the service does not answer."""
        who = caller.agent_id, caller.tenant, caller.issuer
        cached = self._cached_scopes.get(who)
        if cached is not None and cached[0] > self._clock.steady():
            return cached[1]
        scopes = await self._fetch_approvals(caller)
        self._cached_scopes.put(who, (self._clock.steady() + self._cache_s, scopes))
        return scopes

    async def _fetch_approvals(self, caller: Caller) -> tuple[str, ...]:
        query = {"kind": "approval", "status": "approved", "agent_id": caller.agent_id, "limit": "500"}
        query |= {name: value for name, value in (("tenant", caller.tenant), ("issuer", caller.issuer)) if value}
        try:
            reply = await self._requests.send("GET", self._url + INTERVENTIONS_PATH, self._timeout_s, params=query)
            reply.raise_for_status()
            page = msgspec.json.decode(reply.content, type=_ApprovalsPage)
        except Exception as error:  # network, token, or an invalid page
            log.warning("approvals are unavailable: %s", type(error).__name__)
            return ()
        return tuple(scope for item in page.items for scope in item.scopes)


def shown_by_token(challenge: Challenge, clock: Clock | None = None) -> ApprovalSource:
    """Approve everything for a token that meets *challenge* (RFC 9470): its `acr` is accepted and its `auth_time` is
    recent enough. No token meets a challenge that requires neither.
    """
    clock = clock or SystemClock()
    accepted = (challenge.acr_values or "").split()

    def shown(caller: Caller) -> tuple[str, ...]:
        if not accepted and challenge.max_age_s is None:
            return ()
        if accepted and caller.acr not in accepted:
            return ()
        if challenge.max_age_s is not None:
            age = clock.wall() - caller.auth_time if caller.auth_time is not None else float("inf")
            if age > challenge.max_age_s:
                return ()
        return ("*",)

    return shown


async def read_approved_scopes(approved: ApprovalSource, caller: Caller) -> Collection[str]:
    """Return the scopes of *approved*; none if it fails."""
    try:
        scopes = approved(caller)
        return await scopes if inspect.isawaitable(scopes) else scopes
    except Exception as error:
        log.warning("approvals are unavailable: %s", type(error).__name__)
        return ()
