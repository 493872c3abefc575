"""An agent asks for more and more, is refused, then given, then uses it."""

from __future__ import annotations

from collections.abc import Iterator

from ..calendar import HOUR_MS
from ..grammar import TaskStep
from ..kinds import ACCOUNT, CLUSTER, EMPLOYEE, TABLE, VAULT, make_step
from ..session import SUCCESS_JSON
from .base import UNPRIVILEGED_ROLES, AttackContext, AttackScenario, usual_steps

_SCOPE_CREEP_SESSIONS = 8
_DENIED_SESSIONS = 4
"""Rounds that are refused before somebody gives in."""

_TARGET_STEPS: tuple[TaskStep, ...] = (
    make_step("export_table", "read", TABLE, "data:export", size_out=60_000),
    make_step("list_employees", "read", EMPLOYEE, "hr:admin", size_out=30_000),
    make_step("read_statement", "read", ACCOUNT, "payments:admin", size_out=9_000),
    make_step("read_secret_metadata", "read", VAULT, "vault:admin", size_out=900),
    make_step("grant_role", "admin", CLUSTER, "iam:admin", type="admin"),
)


def play_scope_creep(strike: AttackContext) -> Iterator[None]:
    """Eight sessions, about an hour apart: one scope more in each request; the last four are granted and used."""
    draws = strike.draws
    pause = min(HOUR_MS, (strike.end_ms - strike.at_ms) // (_SCOPE_CREEP_SESSIONS + 1))
    usual = usual_steps(strike, "read")
    for number in range(_SCOPE_CREEP_SESSIONS):
        session = strike.start_session(strike.at_ms + number * pause + draws.uniform_between(0, 0.3) * pause)
        wanted = _TARGET_STEPS[: 1 + min(number, len(_TARGET_STEPS) - 1)]
        scopes = sorted({*session.task.scopes, *(prize.scope for prize in wanted)})
        session.write_token_event("token.request", scopes, event_label=1, denied=number < _DENIED_SESSIONS)
        session.pause(0.5)
        if number < _DENIED_SESSIONS:
            session.obtain_token()
            session.pause(0.5)
        for own in usual[:3]:
            session.perform(own)
            session.pause()
        for prize in wanted if number >= _DENIED_SESSIONS else ():
            session.perform(prize, event_label=1, outcome=SUCCESS_JSON)
            session.pause()
        yield


SCOPE_CREEP = AttackScenario(
    "scope_creep",
    "token requests grow by a scope an hour, are denied at first, then granted and used",
    play_scope_creep,
    UNPRIVILEGED_ROLES,
)
