"""Sources of step-up approvals: a person's approval at the service, or a token that proves a recent log-in."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection

import httpx2
import msgspec

from .access_tokens import AsyncTokenSource
from .bounded_cache import BoundedCache
from .caller import Caller
from .refusal import Challenge
from .service_connection import AsyncClosedOnExit, AsyncServiceConnection
from .settings import validate_url
from .timing import Clock, SystemClock

log = logging.getLogger("trustwatch_client")

ApprovalSource = Callable[[Caller], Collection[str] | Awaitable[Collection[str]]]
"""Scopes that a person approved for a caller, to the letter; `*` is all."""

INTERVENTIONS_PATH = "/v1/interventions"
MAX_CACHED_CALLERS = 10_000


class _ApprovedScopes(msgspec.Struct, frozen=True):
    scopes: tuple[str, ...] = ()


class _ApprovalsPage(msgspec.Struct, frozen=True):
    items: tuple[_ApprovedScopes, ...] = ()


class Approvals(AsyncClosedOnExit):
    """Approvals that persons gave at the service (`trustwatch approvals`), for one event loop.

    The service reads them from its database, so they are asked for only when an answer wants a step-up. No answer is no
    approval. Approvals are asked for where tokens are issued, or by the service's own checks for gateways.

    Args:
        url, token, http, clock, insecure_http: as for `AsyncTrustClient`; scope `trust.score:read`.
        cache_s: s, what was approved is known for so long.
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
        self._url = validate_url(url, insecure_http=insecure_http) + INTERVENTIONS_PATH
        self._clock = clock or SystemClock()
        self._connection = AsyncServiceConnection(token, self._clock, http)
        self._cache_s, self._timeout_s = cache_s, timeout_s
        self._cached_scopes: BoundedCache[tuple[str, str | None, str | None], tuple[float, tuple[str, ...]]] = (
            BoundedCache(MAX_CACHED_CALLERS)
        )

    async def __call__(self, caller: Caller) -> tuple[str, ...]:
        """Scopes that are approved for *caller* now; none if the service does not answer."""
        who = caller.agent_id, caller.tenant, caller.issuer
        cached = self._cached_scopes.get(who)
        if cached is not None and cached[0] > self._clock.steady():
            return cached[1]
        scopes = await self._fetch_approvals(caller)
        self._cached_scopes.put(who, (self._clock.steady() + self._cache_s, scopes))
        return scopes

    async def close(self) -> None:
        """End connections."""
        await self._connection.close()

    async def _fetch_approvals(self, caller: Caller) -> tuple[str, ...]:
        asked = {"kind": "approval", "status": "approved", "agent_id": caller.agent_id, "limit": "500"}
        asked |= {name: value for name, value in (("tenant", caller.tenant), ("issuer", caller.issuer)) if value}
        try:
            reply = await self._connection.requests.send("GET", self._url, self._timeout_s, params=asked)
            reply.raise_for_status()
            page = msgspec.json.decode(reply.content, type=_ApprovalsPage)
        except Exception as error:  # network, token, or no such page: no approval is known
            log.warning("approvals are not to be had: %s", type(error).__name__)
            return ()
        return tuple(scope for item in page.items for scope in item.scopes)


def shown_by_token(challenge: Challenge, clock: Clock | None = None) -> ApprovalSource:
    """Lets everything pass for a token that meets *challenge* (RFC 9470): its `acr` is one of those asked for, its
    `auth_time` recent enough. A challenge that asks for neither is met by no token.
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
    """Scopes that *approved* returns; none if it fails."""
    try:
        scopes = approved(caller)
        return await scopes if inspect.isawaitable(scopes) else scopes
    except Exception as error:
        log.warning("approvals are not to be had: %s", type(error).__name__)
        return ()
