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
from ..guard import Guard
from ..problems import CONTENT_TYPE, internal_problem
from ..request_body import TooLong, whole_body
from ..settings import HookSettings
from .asking import Asking
from .authzen import EVALUATION, EVALUATIONS, METADATA, AuthZen, Identify, Metadata
from .base import MAX_BODY, HookAnswer, HookRequest, Product
from .endpoint import HookEndpoint
from .hydra import Hydra
from .okta import Okta
from .proof import proof_of
from .wso2 import Wso2
from .zitadel import Zitadel

PREFIX = "/hooks/"
PRODUCTS: dict[str, type[Product]] = {"hydra": Hydra, "okta": Okta, "wso2": Wso2, "zitadel": Zitadel}

Admit = Callable[[HookRequest, Scope], Awaitable[Callable[[HookRequest], HookAnswer] | HookAnswer]]
Meter = Callable[[str, str, int, float], None]
"""Told of every answer: name of the hook, route, status, seconds."""

_log = structlog.get_logger(__name__)


class Needs(NamedTuple):
    """What hooks work with.

    Attributes:
        guard: decides and records.
        policy: the book in force.
        identify: the caller of a request, by its access token.
        url: how others reach the service.
        clock: seconds since 1970.
        monotonic: seconds, for durations.
        meter: told of every answer.
        new_id: text that never repeats.
    """

    guard: Guard
    policy: LivePolicy
    identify: Identify
    url: str
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    meter: Meter
    new_id: Callable[[], str]


class Place(NamedTuple):
    """One path."""

    hook: str
    route: str
    method: str
    admit: Admit
    too_large: Callable[[HookRequest, int], HookAnswer]


class HookServer:
    """Answers all configured hooks.

    Args:
        hooks: of the settings.
        needs: what they work with.
    """

    def __init__(self, hooks: Iterable[HookSettings], needs: Needs) -> None:
        self._needs = needs
        self._places = {place.route.encode(): place for hook in hooks for place in _places(hook, needs)}

    def serves(self, path: bytes) -> bool:
        """Whether a path, percent-encoded as it came, is one of a hook."""
        return path in self._places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = self._needs.monotonic()
        place = self._places[scope["raw_path"]]
        try:
            answer = await self._answer(place, scope, receive)
        except Exception as error:
            answer = self._failed(place, error)
        if answer is None:
            return
        length = (b"content-length", b"%d" % len(answer.body))
        # 204 has no body, and so no length (RFC 9110)
        headers = [*answer.headers, (b"cache-control", b"no-store"), *([length] if answer.status != 204 else [])]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        self._needs.meter(place.hook, place.route, answer.status, self._needs.monotonic() - start)

    async def _answer(self, place: Place, scope: Scope, receive: Receive) -> HookAnswer | None:
        """None where the client went away before its request was whole."""
        if scope["method"] != place.method:
            return HookAnswer(405, b"", ((b"allow", place.method.encode()),))
        request = HookRequest(tuple(scope["headers"]), b"")
        admitted = await place.admit(request, scope)
        if isinstance(admitted, HookAnswer):
            return admitted
        try:
            body = await whole_body(receive, MAX_BODY)
        except TooLong:
            return place.too_large(request, MAX_BODY)
        return None if body is None else admitted(request._replace(body=body))

    def _failed(self, place: Place, error: Exception) -> HookAnswer:
        """Nothing before the answer may fail; where it does all the same, no internal detail leaves."""
        error_id = self._needs.new_id()
        _log.error("hook_failed", hook=place.hook, error_id=error_id, error=type(error).__name__, why=str(error))
        return HookAnswer(500, internal_problem(error_id).body(), ((b"content-type", CONTENT_TYPE.encode()),))


def _places(settings: HookSettings, needs: Needs) -> list[Place]:
    asking = Asking(settings, needs.guard, needs.policy, lambda: int(needs.clock() * 1000))
    if settings.kind != "authzen":
        endpoint = HookEndpoint(PRODUCTS[settings.kind](settings), proof_of(settings, needs.clock), asking)
        return [Place(settings.name, PREFIX + settings.name, "POST", endpoint.admit, endpoint.too_large)]
    one, many = (AuthZen(asking, needs.identify, several=several) for several in (False, True))
    metadata = Metadata(needs.url)
    return [
        Place(settings.name, EVALUATION, "POST", one.admit, one.too_large),
        Place(settings.name, EVALUATIONS, "POST", many.admit, many.too_large),
        Place(settings.name, METADATA, "GET", metadata.admit, one.too_large),
    ]
