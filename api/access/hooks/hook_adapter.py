"""Common parts of all hooks: requests, answers, and the interface of a product's adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import msgspec
import structlog

from trustwatch.api import clock
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.policy.access_evaluation import STALE, AccessRequest, Verdict, deny
from trustwatch.scoring.records.containment import Intervention
from trustwatch_client.events import MAX_ID_LENGTH

from ...http.problems import error_members
from ...http.refused_callers import LineLimit
from ...settings.enforcement_settings import HookSettings
from ..approval_workflow import Outcome
from ..decision_point import (
    MAX_SCOPES,
    AccessDecision,
    ClientInducedFailure,
    PolicyDecisionPoint,
    RequestLimitExceeded,
    check_name_length,
    earlier_actors,
    refusal_members,
    text_or_empty,
)

MAX_HOOK_BODY_BYTES = 1024 * 1024
"""Bytes of a request to a hook."""


REFRESH_GRANT = "refresh_token"
TOKEN_EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - the name of a grant
_EVENT_TYPES_BY_GRANT = {
    REFRESH_GRANT: "token.refresh",
    TOKEN_EXCHANGE_GRANT: "token.exchange",
    "token_exchange": "token.exchange",
}


class UnreadableHookRequest(TrustwatchError):
    """Raised if the product sent a request of unknown shape, which cannot be decided."""

    code = "unreadable"


class HookRequest(NamedTuple):
    """A hook request as received. Header names are in lower case."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the only header of that name, or None if there is none or more than one."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None


class HookResponse(NamedTuple):
    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


HookResponder = Callable[[HookRequest], Awaitable[HookResponse]]
"""Answers a request once its body is read."""


class ParsedHookRequest(NamedTuple):
    """A parsed request of a product.

    Attributes:
        access_request: for the decision point.
        action: grant type, or the product's name for it.
        data: the request, for the answer.
        event_extras: further members of the audit event; never a token, a secret or a body.
        lifetime_s: how long the token would live without us; None = not known.
        own_event_type: type of the audit event; "" = that of the grant type.
    """

    access_request: AccessRequest
    action: str
    data: Any
    event_extras: dict[str, Any]
    lifetime_s: int | None = None
    own_event_type: str = ""

    @property
    def event_type(self) -> str:
        return self.own_event_type or _EVENT_TYPES_BY_GRANT.get(self.action, "token.request")


class HookAdapter(ABC):
    """Reads the requests of one product and renders its answers."""

    unchanged_response: HookResponse
    """The token is issued as it would have been without us: what failing open is."""
    unauthenticated_response: HookResponse
    """The answer if the secret is missing or wrong."""

    def __init__(self, settings: HookSettings) -> None:
        self.settings = settings
        self._agent_expression = settings.expression()

    @abstractmethod
    def read_request(self, body: bytes) -> ParsedHookRequest:
        """Parse a request body. Raises UnreadableHookRequest, ClientInducedFailure."""

    @abstractmethod
    def render_response(self, parsed: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        """Return the answer in the product's format."""

    def deny_unsupported(self, _parsed: ParsedHookRequest, verdict: Verdict) -> Verdict:
        """Return a denial if the product cannot enforce the verdict, otherwise the same verdict."""
        return verdict

    def granted_lifetime_s(self, parsed: ParsedHookRequest, _: Verdict) -> int | None:
        """Return the lifetime of the token in seconds, or None if the request does not state it."""
        return parsed.lifetime_s

    @abstractmethod
    def denial_response(self, reason: str) -> HookResponse:
        """Return the answer that refuses the token."""

    def access_request(self, data: Any, usual: Any, scopes: Iterable[Any], grant: str, act: Any) -> AccessRequest:
        """Build the query about the agent of a request."""
        agent = text_or_empty(usual if self._agent_expression is None else self._agent_expression(data))
        if not agent:
            raise UnreadableHookRequest("the request names no agent; see `agent` of the hook in the settings")
        names = tuple(dict.fromkeys(check_name_length(scope) for scope in scopes if type(scope) is str and scope))
        if len(names) > MAX_SCOPES:
            raise RequestLimitExceeded(f"more than {MAX_SCOPES} scopes")
        return AccessRequest(
            self.settings.tenant or "",
            self.settings.issuer or "",
            check_name_length(agent),
            names,
            grant == REFRESH_GRANT,
            earlier_actors(act, agent),
            caller=f"hook:{self.settings.name}",
        )

    def risk_claims(self, decided: AccessDecision) -> dict[str, Any]:
        """Return the claims to write into the token."""
        return decided.risk_claims() if self.settings.claims else {}


def is_json(request: HookRequest) -> bool:
    """Return whether the body is declared as `application/json`, with any parameters."""
    declared = request.header(b"content-type") or b""
    return declared.partition(b";")[0].strip(b" \t").lower() == b"application/json"


def decode_json_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; unknown members are allowed. Raises ClientInducedFailure, UnreadableHookRequest."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Half a surrogate pair in a parameter of the client is enough.
        raise ClientInducedFailure("the body is not valid JSON") from None
    if type(decoded) is not dict:
        raise UnreadableHookRequest("the body is not a JSON object")
    return decoded


def member_at(data: Any, *path: str) -> Any:
    """Return the member at *path*, or None."""
    for name in path:
        if type(data) is not dict:
            return None
        data = data.get(name)
    return data


def list_or_empty(value: Any) -> list[Any]:
    return value if type(value) is list else []


def object_or_empty(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def whole_seconds(value: Any) -> int | None:
    """Return whole seconds from a number or digits, or None if it is neither."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    return int(value) if type(value) in (int, float) and 0 <= value < 1e12 else None


def without_empty_members(**members: Any) -> dict[str, Any]:
    """Return the members of an audit event that are known."""
    return {name: value for name, value in members.items() if value}


def principal_member(name: Any, agent: str, kind: str = "user") -> dict[str, str] | None:
    """Return the principal that the agent acts for, or None if it acts for itself."""
    who = text_or_empty(name)[:MAX_ID_LENGTH]
    return {"id": who, "type": kind} if who and who != agent else None


def json_hook_response(status: int, content: Mapping[str, Any], *headers: tuple[bytes, bytes]) -> HookResponse:
    return HookResponse(status, msgspec.json.encode(content), ((b"content-type", b"application/json"), *headers))


HookConstraint = Callable[[ParsedHookRequest, Verdict], Verdict]

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class HookDecider:
    settings: HookSettings
    point: PolicyDecisionPoint

    def __post_init__(self) -> None:
        self.channel = self.settings.kind
        self._refusals = LineLimit(clock.monotonic)

    def knows(self, tenant: str, issuer: str, agent_id: str) -> bool:
        """Return whether that agent has been seen; true if that cannot be determined. Never raises."""
        try:
            return self.point.policy_evaluator.view.get(tenant, issuer, agent_id) is not None
        except Exception as error:
            self._log_failure("hook_failed", error)
            return True

    def decide(self, parsed: ParsedHookRequest, fit: HookConstraint) -> AccessDecision:
        """Return the verdict, with the reason `undecided` if an internal error prevents one. Never raises."""
        try:
            return self.point.decide(parsed.access_request, self.channel, partial(self._constrain, parsed, fit))
        except Exception as error:
            return self.undecided_decision(error, parsed.access_request)

    def preview(self, parsed: ParsedHookRequest, fit: HookConstraint, spent: tuple[Intervention, ...]) -> Outcome:
        """Return the outcome of a request once some approvals are spent. Counts nothing and requests no approval."""
        question = parsed.access_request._replace(spent=spent)
        verdict = self._constrain(parsed, fit, self.point.policy_evaluator.evaluate(question)[0])
        return Outcome(verdict.allow, verdict.scopes)

    def undecided_decision(self, error: Exception, question: AccessRequest) -> AccessDecision:
        """Count a request that could not be decided, and return the decision that applies."""
        return self.point.undecided(question, allow=self.fails_open(error, question.tenant))

    def fails_open(self, error: Exception, tenant: str) -> bool:
        """Count a request that failed with *error*. Return true if it is answered as if it were allowed.

        If no policy is enforced, nothing may be refused. A failure that a client can cause never lets it pass.
        """
        opened = self.settings.on_failure == "open" and not isinstance(error, ClientInducedFailure)
        opened = opened or not self.point.may_enforce(tenant)
        self.point.count_failure(self.channel, fails_open=opened)
        answered = "open" if opened else "closed"
        if isinstance(error, (UnreadableHookRequest, ClientInducedFailure)):
            _log.warning("hook_unreadable", hook=self.settings.name, why=str(error), answered=answered)
        else:
            self._log_failure("hook_failed", error, answered=answered)
        return opened

    def record(self, parsed: ParsedHookRequest, decided: AccessDecision, lifetime_s: int | None = None) -> None:
        """Record the request as an audit event. Never raises."""
        if not decided.verdict.allow:
            members = refusal_members(parsed.access_request, decided)
            self._refusals.write(_log.info, "token refused", hook=self.settings.name, **members)
        self.point.record_decision(
            decided,
            parsed.access_request,
            self.channel,
            kind=parsed.event_type,
            action=parsed.action,
            lifetime_s=lifetime_s,
            more=parsed.event_extras,
        )

    def _constrain(self, parsed: ParsedHookRequest, fit: HookConstraint, verdict: Verdict) -> Verdict:
        if verdict.stale and self.settings.on_stale == "deny":
            verdict = deny(verdict, STALE)
        return fit(parsed, verdict) if verdict.allow else verdict

    def _log_failure(self, what: str, error: Exception, **more: str) -> None:
        _log.error(what, hook=self.settings.name, **error_members(error), **more)
