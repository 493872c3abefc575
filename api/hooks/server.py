"""Hooks on bare ASGI: found by path, bounded, answered from memory, measured.

Tokens wait for these answers, so they take the short way that the risk answer takes (`api/http/front.py`), not the one
through FastAPI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import structlog
from starlette.types import Receive, Scope, Send

from ...scoring.policy import LivePolicy
from ..guard import PolicyDecisionPoint
from ..problems import CONTENT_TYPE, internal_problem
from ..request_body import RequestBodyTooLong, read_request_body
from ..settings import HookSettings
from .asking import HookDecider
from .authzen import (
    EVALUATION_PATH,
    EVALUATIONS_PATH,
    METADATA_PATH,
    AuthZenEndpoint,
    AuthZenMetadataEndpoint,
    IdentifyHookCaller,
)
from .base import MAX_HOOK_BODY_BYTES, HookAdapter, HookRequest, HookResponse
from .endpoint import HookEndpoint
from .hydra import HydraHook
from .okta import OktaHook
from .proof import hook_authentication
from .wso2 import Wso2Hook
from .zitadel import ZitadelHook

HOOK_PATH_PREFIX = "/hooks/"
HOOK_ADAPTERS: dict[str, type[HookAdapter]] = {
    "hydra": HydraHook,
    "okta": OktaHook,
    "wso2": Wso2Hook,
    "zitadel": ZitadelHook,
}

HookAdmission = Callable[[HookRequest, Scope], Awaitable[Callable[[HookRequest], HookResponse] | HookResponse]]
HookMeter = Callable[[str, str, int, float], None]
"""Told of every answer: name of the hook, route, status, seconds."""

_log = structlog.get_logger(__name__)


class HookServerDependencies(NamedTuple):
    """What hooks work with.

    Attributes:
        decision_point: decides and records.
        live_policy: the book in force.
        identify: the caller of a request, by its access token.
        url: how others reach the service.
        clock: seconds since 1970.
        monotonic: seconds, for durations.
        meter: told of every answer.
        new_id: text that never repeats.
    """

    decision_point: PolicyDecisionPoint
    live_policy: LivePolicy
    identify: IdentifyHookCaller
    url: str
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    meter: HookMeter
    new_id: Callable[[], str]


class HookRoute(NamedTuple):
    """One path."""

    hook: str
    route: str
    method: str
    admit: HookAdmission
    too_large: Callable[[HookRequest, int], HookResponse]


class HookServer:
    """Answers all configured hooks.

    Args:
        hooks: of the settings.
        needs: what they work with.
    """

    def __init__(self, hooks: Iterable[HookSettings], needs: HookServerDependencies) -> None:
        self._dependencies = needs
        self._routes = {place.route.encode(): place for hook in hooks for place in _routes_of_hook(hook, needs)}

    def handles(self, path: bytes) -> bool:
        """Whether a path, percent-encoded as it came, is one of a hook."""
        return path in self._routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = self._dependencies.monotonic()
        place = self._routes[scope["raw_path"]]
        try:
            answer = await self._answer(place, scope, receive)
        except Exception as error:
            answer = self._failure_response(place, error)
        if answer is None:
            return
        length = (b"content-length", b"%d" % len(answer.body))
        # 204 has no body, and so no length (RFC 9110)
        headers = [*answer.headers, (b"cache-control", b"no-store"), *([length] if answer.status != 204 else [])]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        self._dependencies.meter(place.hook, place.route, answer.status, self._dependencies.monotonic() - start)

    async def _answer(self, place: HookRoute, scope: Scope, receive: Receive) -> HookResponse | None:
        """None where the client went away before its request was whole."""
        if scope["method"] != place.method:
            return HookResponse(405, b"", ((b"allow", place.method.encode()),))
        request = HookRequest(tuple(scope["headers"]), b"")
        admitted = await place.admit(request, scope)
        if isinstance(admitted, HookResponse):
            return admitted
        try:
            body = await read_request_body(receive, MAX_HOOK_BODY_BYTES)
        except RequestBodyTooLong:
            return place.too_large(request, MAX_HOOK_BODY_BYTES)
        return None if body is None else admitted(request._replace(body=body))

    def _failure_response(self, place: HookRoute, error: Exception) -> HookResponse:
        """Nothing before the answer may fail; where it does all the same, no internal detail leaves."""
        error_id = self._dependencies.new_id()
        _log.error("hook_failed", hook=place.hook, error_id=error_id, error=type(error).__name__, why=str(error))
        return HookResponse(500, internal_problem(error_id).body(), ((b"content-type", CONTENT_TYPE.encode()),))


def _routes_of_hook(settings: HookSettings, needs: HookServerDependencies) -> list[HookRoute]:
    asking = HookDecider(settings, needs.decision_point, needs.live_policy, lambda: int(needs.clock() * 1000))
    if settings.kind != "authzen":
        endpoint = HookEndpoint(
            HOOK_ADAPTERS[settings.kind](settings), hook_authentication(settings, needs.clock), asking
        )
        return [HookRoute(settings.name, HOOK_PATH_PREFIX + settings.name, "POST", endpoint.admit, endpoint.too_large)]
    one, many = (AuthZenEndpoint(asking, needs.identify, several=several) for several in (False, True))
    metadata = AuthZenMetadataEndpoint(needs.url)
    return [
        HookRoute(settings.name, EVALUATION_PATH, "POST", one.admit, one.too_large),
        HookRoute(settings.name, EVALUATIONS_PATH, "POST", many.admit, many.too_large),
        HookRoute(settings.name, METADATA_PATH, "GET", metadata.admit, one.too_large),
    ]
