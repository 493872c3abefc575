"""Asks the guard for a hook, says what holds when that fails, and makes every question an audit event."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from ...scoring.policy import LivePolicy, Question, Verdict, denied
from ...scoring.policy.verdict import STALE, UNDECIDED
from ...scoring.records import RiskLevel
from ...scoring.verdicts import Known
from ..guard import Decided, Guard
from ..settings import HookSettings
from .base import EVENT_SCOPES, Asked, ByClient, Unreadable

Fit = Callable[[Asked, Verdict], Verdict]

_NOTHING = Known(None, RiskLevel.UNKNOWN, RiskLevel.UNKNOWN, "", "")

_log = structlog.get_logger(__name__)


class Asking:
    """The guard, as one hook asks it.

    Args:
        settings: of the hook.
        guard: decides and records.
        policy: the book in force.
        now_ms: UTC milliseconds.
    """

    def __init__(self, settings: HookSettings, guard: Guard, policy: LivePolicy, now_ms: Callable[[], int]) -> None:
        self.settings = settings
        self.via = settings.kind
        self._guard = guard
        self._policy = policy
        self._now_ms = now_ms

    def decide(self, asked: Asked, fit: Fit) -> Decided:
        """The verdict; one with the reason `undecided` where there is none, for a fault of ours. Never raises."""
        try:
            return self._guard.decide(asked.question, self.via, partial(self._fitted, asked, fit))
        except Exception as error:
            return self.undecided(error, asked.question)

    def undecided(self, error: Exception, question: Question) -> Decided:
        """What holds for a question that could not be decided; counts it."""
        enforced = self._may_enforce(question.tenant)
        allow = self.fails_open(error, question.tenant)
        verdict = Verdict(
            allow, allow, enforced, RiskLevel.UNKNOWN, UNDECIDED, None, None, False, (), (), allow, False, ""
        )
        return Decided(verdict, _NOTHING, "")

    def fails_open(self, error: Exception, tenant: str) -> bool:
        """Whether a question that failed with *error* is answered as if nothing stood against it; counts it.

        Where no policy is enforced nothing may be refused. What a client can bring about never opens the door.
        """
        opened = self.settings.on_failure == "open" and not isinstance(error, ByClient)
        opened = opened or not self._may_enforce(tenant)
        self._guard.failed(self.via, fails_open=opened)
        answered = "open" if opened else "closed"
        if isinstance(error, (Unreadable, ByClient)):
            _log.warning("hook_unreadable", hook=self.settings.name, why=str(error), answered=answered)
        else:
            self._tell("hook_failed", error, answered=answered)
        return opened

    def record(self, asked: Asked, decided: Decided, lifetime_s: int | None = None) -> None:
        """Make an audit event of the question. Never raises: who asks has its answer whatever becomes of it."""
        try:
            more = {**_scopes(asked.question, decided.verdict), **asked.more}
            self._guard.record(
                decided,
                asked.question,
                self.via,
                kind=asked.event_type,
                action=asked.action,
                at_ms=self._now_ms(),
                lifetime_s=lifetime_s if decided.verdict.allow else None,
                more=more,
            )
        except Exception as error:
            self._guard.audit.dropped += 1
            self._tell("hook_not_recorded", error)

    def _fitted(self, asked: Asked, fit: Fit, verdict: Verdict) -> Verdict:
        if verdict.stale and self.settings.on_stale == "deny":
            verdict = denied(verdict, STALE)
        return fit(asked, verdict) if verdict.allow else verdict

    def _may_enforce(self, tenant: str) -> bool:
        try:
            return self._policy.book.may_enforce(tenant)
        except Exception as error:
            self._tell("hook_failed", error)
            return True

    def _tell(self, what: str, error: Exception, **more: str) -> None:
        trace = "".join(traceback.format_exception(error))  # no local variables: they hold requests
        _log.error(what, hook=self.settings.name, error=type(error).__name__, traceback=trace, **more)


def _scopes(question: Question, verdict: Verdict) -> dict[str, Any]:
    """The scopes of an event, where there are more than an event holds: the first ones."""
    if len(question.scopes) <= EVENT_SCOPES:
        return {}
    requested = question.scopes[:EVENT_SCOPES]
    if verdict.allow and verdict.scopes is not None and len(verdict.scopes) < len(question.scopes):
        return {"scopes": {"requested": list(requested)}}
    left = () if not verdict.allow else requested
    return {"scopes": {"requested": list(requested), "granted": list(left)}}
