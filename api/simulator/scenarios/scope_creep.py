"""An agent asks for more and more, is refused, then given, then uses it."""

from __future__ import annotations

from collections.abc import Iterator

from ..calendar import HOUR_MS
from ..grammar import Step
from ..kinds import ACCOUNT, CLUSTER, EMPLOYEE, TABLE, VAULT, step
from ..session import SUCCESS
from .base import UNPRIVILEGED, Scenario, Strike, own_steps

_ROUNDS = 8
_REFUSED = 4
"""Rounds that are refused before somebody gives in."""

_PRIZES: tuple[Step, ...] = (
    step("export_table", "read", TABLE, "data:export", size_out=60_000),
    step("list_employees", "read", EMPLOYEE, "hr:admin", size_out=30_000),
    step("read_statement", "read", ACCOUNT, "payments:admin", size_out=9_000),
    step("read_secret_metadata", "read", VAULT, "vault:admin", size_out=900),
    step("grant_role", "admin", CLUSTER, "iam:admin", type="admin"),
)


def play(strike: Strike) -> Iterator[None]:
    """Eight sessions, about an hour apart: one scope more in each request; the last four are granted and used."""
    draws = strike.draws
    pause = min(HOUR_MS, (strike.end_ms - strike.at_ms) // (_ROUNDS + 1))
    usual = own_steps(strike, "read")
    for number in range(_ROUNDS):
        session = strike.session(strike.at_ms + number * pause + draws.between(0, 0.3) * pause)
        wanted = _PRIZES[: 1 + min(number, len(_PRIZES) - 1)]
        scopes = sorted({*session.task.scopes, *(prize.scope for prize in wanted)})
        session.token("token.request", scopes, event_label=1, denied=number < _REFUSED)
        session.think(0.5)
        if number < _REFUSED:
            session.open()
            session.think(0.5)
        for own in usual[:3]:
            session.step(own)
            session.think()
        for prize in wanted if number >= _REFUSED else ():
            session.step(prize, event_label=1, outcome=SUCCESS)
            session.think()
        yield


SCOPE_CREEP = Scenario(
    "scope_creep",
    "token requests grow by a scope an hour, are denied at first, then granted and used",
    play,
    UNPRIVILEGED,
)
