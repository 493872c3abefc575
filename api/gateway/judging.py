"""Asks the guard about a call: what a gateway can not do is denied, and what fails is answered as the settings say."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from ...scoring.policy import LivePolicy, Question, Verdict
from ...scoring.policy.verdict import NOT_NARROWED, STALE, STEP_UP, UNDECIDED
from ...scoring.records import RiskLevel
from ...scoring.verdicts import Known
from ..guard import Decided, Guard
from ..hooks.base import EVENT_SCOPES
from ..settings import GatewaySettings
from .holder import Holder

_NOTHING = Known(None, RiskLevel.UNKNOWN, RiskLevel.UNKNOWN, "", "")

_log = structlog.get_logger(__name__)

Fit = Callable[[Verdict], Verdict]


class TokenRevoker(Protocol):
    """Revokes tokens at the authorization server that issued them (`scoring.actuators.rfc7009.TokenRevoker`)."""

    def soon(self, token: str, issuer: str) -> bool:
        """Revoke in the background; whether it was taken on. Never waits, never raises, never logs the token."""


class Judging:
    """The guard, as gateways ask it.

    Args:
        settings: of gateways.
        guard: decides and records.
        policy: the book in force.
        revoker: of tokens that are seen though policy says `revoke`.
        now_ms: UTC milliseconds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        guard: Guard,
        policy: LivePolicy,
        revoker: TokenRevoker,
        now_ms: Callable[[], int],
    ) -> None:
        self._guard = guard
        self._policy = policy
        self._revoker = revoker
        self._now_ms = now_ms
        self._opens = settings.on_failure == "open"
        self._denies_stale = settings.on_stale == "deny"
        self.records_all = settings.record == "all"
        self._safe = frozenset(settings.safe_methods)

    def call(self, holder: Holder, token: bytes, method: str, via: str) -> Decided:
        """The verdict on a call with a method; "" is a method that is not known. Never raises."""
        return self._decided(holder, token, via, self._fit_safe if method in self._safe else self._fit_unsafe)

    def introspection(self, holder: Holder, token: bytes, via: str) -> Decided:
        """The verdict on a token that is asked about; its `scopes` are those that it is good for. Never raises."""
        return self._decided(holder, token, via, self._fit_fresh)

    def _decided(self, holder: Holder, token: bytes, via: str, fit: Fit) -> Decided:
        try:
            decided = self._guard.decide(holder.question, via, fit)
            if decided.verdict.revoke:
                self._revoker.soon(token.decode("ascii"), holder.issuer)
        except Exception as error:
            return self._undecided(error, holder.question, via)
        return decided

    def _undecided(self, error: Exception, question: Question, via: str) -> Decided:
        enforced = self._may_enforce(question.tenant)
        opened = self._opens or not enforced
        self._guard.failed(via, fails_open=opened)
        self._tell("gateway_failed", via, error)
        verdict = Verdict(
            opened, opened, enforced, RiskLevel.UNKNOWN, UNDECIDED, None, None, False, (), (), opened, False, ""
        )
        return Decided(verdict, _NOTHING, "")

    def _may_enforce(self, tenant: str) -> bool:
        """Where no policy is enforced, no fault of ours may refuse anything."""
        try:
            return self._policy.book.may_enforce(tenant)
        except Exception:
            return True

    def unverifiable(self, via: str, issuer: str) -> None:
        """Count a token that can not be verified since the issuer's keys can not be had. It never opens the door:
        anybody can write a token that names that issuer."""
        self._guard.failed(via, fails_open=False)
        _log.warning("gateway_without_keys", via=via, issuer=issuer)

    def record(self, decided: Decided, question: Question, via: str, kind: str, method: str, target: str) -> None:
        """Make an audit event of a denial, or of every call where the settings say so. Never raises."""
        if decided.verdict.allow and not self.records_all:
            return
        more: dict[str, Any] = {"resource": {"id": target}} if target else {}
        if len(question.scopes) > EVENT_SCOPES:
            first = list(question.scopes[:EVENT_SCOPES])
            more["scopes"] = {"requested": first, "granted": first if decided.verdict.allow else []}
        try:
            self._guard.record(
                decided, question, via, kind=kind, action=method or "unknown", at_ms=self._now_ms(), more=more
            )
        except Exception as error:
            self._guard.audit.dropped += 1
            self._tell("gateway_not_recorded", via, error)

    def _fit_fresh(self, verdict: Verdict) -> Verdict:
        return _refused(verdict, STALE) if verdict.stale and self._denies_stale and verdict.would_allow else verdict

    def _fit_unsafe(self, verdict: Verdict) -> Verdict:
        """Nobody knows which of its scopes a call uses, so every one of them must be good."""
        verdict = self._fit_fresh(verdict)
        if not verdict.would_allow:
            return verdict
        if verdict.refused_scopes:
            return _refused(verdict, NOT_NARROWED)
        return _refused(verdict, STEP_UP, step_up=True) if verdict.step_up else verdict

    def _fit_safe(self, verdict: Verdict) -> Verdict:
        """A safe method needs none of the scopes that wait for a person, as long as one is left: nobody is asked."""
        verdict = self._fit_fresh(verdict)
        if not verdict.would_allow:
            return verdict
        if verdict.refused_scopes:
            return _refused(verdict, NOT_NARROWED)
        return msgspec.structs.replace(verdict, step_up=False) if verdict.step_up else verdict

    def _tell(self, what: str, via: str, error: Exception) -> None:
        trace = "".join(traceback.format_exception(error))  # no local variables: one of them is a token
        _log.error(what, via=via, error=type(error).__name__, traceback=trace)


def _refused(verdict: Verdict, reason: str, *, step_up: bool = False) -> Verdict:
    """A denial in place of what a gateway can not do. In shadow mode it is only told as what would have been."""
    return msgspec.structs.replace(
        verdict, allow=not verdict.enforced, would_allow=False, reason=reason, scopes=None, step_up=step_up
    )


def narrowed(members: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Members of an active introspection answer, with the scopes that the token is good for now."""
    found = {name: value for name, value in members.items() if name not in ("scp", "scope")}
    given = members.get("scope", members.get("scp"))
    scopes = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    if scopes:
        left = scopes if verdict.scopes is None else [scope for scope in scopes if scope in verdict.scopes]
        found["scope"] = " ".join(left)
    return found
