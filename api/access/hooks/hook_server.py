"""The server of hooks, and the proofs that authenticate a product."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.ingest.settings import Secret
from trustwatch.scoring.policy.access_evaluation import UNDECIDED

from ... import clock
from ...http.dependencies import authenticate_request
from ...http.fast_path import RequestBodyTooLong, read_request_body
from ...http.ledger import Ledger
from ...http.problems import CONTENT_TYPE, internal_problem
from ...http.prometheus_metrics import ServiceMetrics
from ...http.refused_callers import LineLimit, RefusedCallers
from ...http.runtime import Runtime
from ...http.slice import ServiceRegistry
from ...settings.enforcement_settings import HookSettings
from ..call_evaluation import CallEvaluator
from ..decision_point import AccessDecision, PolicyDecisionPoint, RequestLimitExceeded
from .authzen_hook import (
    EVALUATION_PATH,
    EVALUATIONS_PATH,
    METADATA_PATH,
    AuthZenEndpoint,
    metadata_response,
)
from .hook_adapter import (
    MAX_HOOK_BODY_BYTES,
    HookAdapter,
    HookDecider,
    HookRequest,
    HookResponder,
    HookResponse,
    ParsedHookRequest,
)
from .product_hooks import HOOK_ADAPTERS

AUTHORIZATION_HEADER = b"authorization"
SIGNATURE_HEADER = b"zitadel-signature"
SECRET_HEADER = b"x-trustwatch-key"
MAX_SIGNATURES = 8
"""Signatures that one header may hold: two while a key is changed."""
SIGNATURE_TOLERANCE_S = 300.0
"""Age at which a signature of ZITADEL is no longer taken: what its own libraries allow."""


CHALLENGES = {"bearer": b'Bearer realm="trustwatch"', "basic": b'Basic realm="trustwatch"'}
"""`WWW-Authenticate` of a refusal; other proofs have no scheme of HTTP."""


def is_from_product(request: HookRequest, settings: HookSettings, now_s: float) -> bool:
    """Return whether a request has the hook's secret, in constant time."""
    secret = settings.secret
    assert secret is not None
    if settings.kind == "zitadel":
        return has_valid_signature(request, secret, now_s)
    if settings.proof == "header":
        return secret.matches(request.header(SECRET_HEADER) or b"")
    scheme, _, given = (request.header(AUTHORIZATION_HEADER) or b"").partition(b" ")
    given = given.strip(b" ") if scheme.lower() == settings.proof.encode() else b""
    if settings.proof == "basic":
        try:
            given = base64.b64decode(given, validate=True)
        except binascii.Error:
            given = b""
    return secret.matches(given)


def has_valid_signature(request: HookRequest, secret: Secret, now_s: float) -> bool:
    """Return whether `ZITADEL-Signature: t=…,v1=…` is the HMAC-SHA256 of time and raw body, and not too far from
    *now_s*.
    """
    parts = [part.strip().partition(b"=") for part in (request.header(SIGNATURE_HEADER) or b"").split(b",")]
    times = [value for name, _, value in parts if name == b"t"]
    given = [value for name, _, value in parts if name == b"v1"]
    if len(times) != 1 or not times[0].isdigit() or len(times[0]) > 12 or not 0 < len(given) <= MAX_SIGNATURES:
        return False
    if abs(now_s - int(times[0])) > SIGNATURE_TOLERANCE_S:
        return False
    key = secret.reveal().encode()
    expected = hmac.new(key, times[0] + b"." + request.body, hashlib.sha256).hexdigest().encode()
    return any([hmac.compare_digest(expected, signature.lower()) for signature in given])  # a list: all are compared


@dataclass(eq=False, repr=False)
class HookEndpoint:
    """Answers one product. It never fails: requests that cannot be decided are answered as configured."""

    adapter: HookAdapter
    _decider: HookDecider
    _clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._signs_body = self.adapter.settings.kind == "zitadel"
        self._refusals = LineLimit(clock.monotonic)

    async def admit(self, request: HookRequest, _: Scope) -> HookResponder | HookResponse:
        """Return the function that answers the request once its body is read, or a refusal that needs no body."""
        return self.answer if self._signs_body or self._is_authentic(request) else self._unauthenticated_response()

    def _is_authentic(self, request: HookRequest) -> bool:
        return is_from_product(request, self.adapter.settings, self._clock())

    async def answer(self, request: HookRequest) -> HookResponse:
        """Return the answer to a whole request."""
        if self._signs_body and not self._is_authentic(request):
            return self._unauthenticated_response()
        product = self.adapter
        try:
            parsed = product.read_request(request.body)
        except Exception as error:
            return self._failure_response(error)
        if self._decider.point.any_for_one_use:
            question = parsed.access_request
            judge = partial(self._decider.preview, parsed, product.deny_unsupported)
            spent = await self._decider.point.spend_needed((question.identity,), judge)
            parsed = parsed._replace(access_request=question._replace(spent=spent))
        decided = self._decider.decide(parsed, product.deny_unsupported)
        try:
            answer = self._render(parsed, decided)
        except Exception as error:
            decided = self._decider.undecided_decision(error, parsed.access_request)
            answer = self._render(parsed, decided)
        self._decider.record(parsed, decided, product.granted_lifetime_s(parsed, decided.verdict))
        return answer

    def _render(self, parsed: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        if decided.verdict.reason == UNDECIDED:
            return self._undecided_response(opened=decided.verdict.allow)
        return self.adapter.render_response(parsed, decided)

    def _undecided_response(self, *, opened: bool) -> HookResponse:
        return self.adapter.unchanged_response if opened else self.adapter.denial_response(UNDECIDED)

    def too_large(self, most: int) -> HookResponse:
        """Return the answer to a body of more than *most* bytes, which is not read."""
        if self._signs_body:
            return self._unauthenticated_response()
        return self._failure_response(RequestLimitExceeded(f"a body of more than {most} bytes"))

    def _failure_response(self, error: Exception) -> HookResponse:
        return self._undecided_response(opened=self._decider.fails_open(error, self._decider.settings.tenant or ""))

    def _unauthenticated_response(self) -> HookResponse:
        settings = self.adapter.settings
        members = {"code": "hook_secret", "hook": settings.name}
        self._refusals.write(_log.warning, "the secret of a hook is missing or wrong", **members)
        answer = self.adapter.unauthenticated_response
        challenge = None if self._signs_body else CHALLENGES.get(settings.proof)
        if challenge is None:
            return answer
        return answer._replace(headers=(*answer.headers, (b"www-authenticate", challenge)))


# Tokens wait for these answers, so they take the same short path as the risk answer (`api/http/fast_path.py`), not
# the one through FastAPI.

HOOK_PATH_PREFIX = "/hooks/"

_log = structlog.get_logger(__name__)


class HookRoute(NamedTuple):
    """The route of a hook: path, method and the functions that answer it."""

    hook: str
    route: str
    method: str
    admit: Callable[[HookRequest, Scope], Awaitable[HookResponder | HookResponse]]
    too_large: Callable[[int], HookResponse]


class HookServer:
    def __init__(self, services: ServiceRegistry, calls: CallEvaluator) -> None:
        runtime = services.get(Runtime)
        self._monotonic, self._new_id = runtime.monotonic, runtime.new_id
        self._count_answer = services.get(ServiceMetrics).count_hook_answer
        routes = [route for hook in runtime.settings.hooks for route in _routes_of_hook(hook, services, calls)]
        self._routes = {route.route.encode(): route for route in routes}

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """Return this server if the percent-encoded *path* is that of a hook."""
        return self if path in self._routes else None

    def template(self, path: bytes) -> str:
        return self._routes[path].route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        route = self._routes[scope["raw_path"]]
        try:
            answer = await self._answer(route, scope, receive)
        except Exception as error:  # before the decision: answered without internal detail
            error_id = self._new_id()
            _log.error("hook_failed", hook=route.hook, error_id=error_id, error=type(error).__name__, why=str(error))
            problem_type = (b"content-type", CONTENT_TYPE.encode())
            answer = HookResponse(500, internal_problem(error_id).body(), (problem_type,))
        if answer is None:
            return
        headers = [*answer.headers, (b"cache-control", b"no-store")]
        if answer.status != 204:  # 204 has no body, and so no length (RFC 9110)
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        self._count_answer(route.hook, route.route, answer.status, self._monotonic() - start)

    async def _answer(self, route: HookRoute, scope: Scope, receive: Receive) -> HookResponse | None:
        """Answer one request. Return None if the client disconnected before its request was complete."""
        if scope["method"] != route.method:
            return HookResponse(405, b"", ((b"allow", route.method.encode()),))
        request = HookRequest(tuple(scope["headers"]), b"")
        admitted = await route.admit(request, scope)
        if isinstance(admitted, HookResponse):
            return admitted
        try:
            body = await read_request_body(receive, MAX_HOOK_BODY_BYTES)
        except RequestBodyTooLong:
            return route.too_large(MAX_HOOK_BODY_BYTES)
        if body is None:
            return None
        return await admitted(request._replace(body=body))


def _routes_of_hook(settings: HookSettings, services: ServiceRegistry, calls: CallEvaluator) -> list[HookRoute]:
    runtime = services.get(Runtime)
    decider = HookDecider(settings, services.get(PolicyDecisionPoint))
    if settings.kind != "authzen":
        endpoint = HookEndpoint(HOOK_ADAPTERS[settings.kind](settings), decider, runtime.clock)
        return [HookRoute(settings.name, HOOK_PATH_PREFIX + settings.name, "POST", endpoint.admit, endpoint.too_large)]
    identify = partial(authenticate_request, runtime.verifier)
    shared = decider, identify, calls, services.get(RefusedCallers), services.get(Ledger)
    single, many = (AuthZenEndpoint(*shared, is_batch) for is_batch in (False, True))
    metadata = metadata_response(runtime.settings.listen.url())

    async def send_metadata(_request: HookRequest, _scope: Scope) -> HookResponse:
        return metadata

    return [
        HookRoute(settings.name, EVALUATION_PATH, "POST", single.admit, single.too_large),
        HookRoute(settings.name, EVALUATIONS_PATH, "POST", many.admit, many.too_large),
        HookRoute(settings.name, METADATA_PATH, "GET", send_metadata, single.too_large),
    ]
