"""Alerts for people: what each of them says, and how it fares at every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from ....scoring.notify.facts import Facts, facts
from ....scoring.records import Delivery, RiskLevel
from .climbs import Climb, Step, climbs

DECIDED = "alert-"
"""How the key of an alert about a decision begins; the id follows."""

_WORDS = {
    "pending": "waits for its next attempt",
    "delivered": "arrived",
    "failed": "refused for good",
    "suppressed": "held back: told before within the cool-down",
    "dead": "given up",
}


class TargetShown(NamedTuple):
    """How one alert fares at one target.

    Attributes:
        words: its state in a sentence.
        attempts: so far.
        next_ms: when it is tried again, 0 = not.
        why: the last error, or why it was held back; "" = no reason is known.
    """

    target: str
    status: str
    words: str
    attempts: int
    next_ms: int
    delivered_ms: int
    why: str
    suppressed_before: int


class AlertShown(NamedTuple):
    """One alert at all its targets.

    Attributes:
        decision_id: "" where it tells of no decision.
        step: the change of an agent's level that it tells of; None = it tells of none.
    """

    key: str
    kind: str
    title: str
    subject: str
    tenant: str
    level: str
    created_ms: int
    decision_id: str
    reasons: tuple[str, ...]
    targets: tuple[TargetShown, ...]
    worst: str
    step: Step | None

    @property
    def previous(self) -> int:
        """Level before; that of the alert where it tells of no change."""
        return RiskLevel.UNKNOWN if self.step is None else self.step.before


def alerts_shown(deliveries: Sequence[Delivery]) -> list[AlertShown]:
    """*deliveries* put together by alert, in the order in which alerts come first."""
    by_key: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_key.setdefault(delivery.key, []).append(delivery)
    return [_alert(key, found) for key, found in by_key.items()]


def _alert(key: str, found: Sequence[Delivery]) -> AlertShown:
    first = found[0]
    told = _facts(first)
    targets = tuple(_target(one) for one in found)
    return AlertShown(
        key,
        told.kind,
        told.title,
        told.subject,
        first.tenant,
        RiskLevel(first.level).label,
        first.created_ms,
        key.removeprefix(DECIDED) if key.startswith(DECIDED) else "",
        told.reasons,
        targets,
        min((one.status for one in found), key=_SEVERITY.index),
        _step(told, first.created_ms),
    )


def alert_climbs(alerts: Sequence[AlertShown]) -> list[Climb[AlertShown]]:
    """Alerts, newest first, those of one agent's climb as one entry."""
    return climbs(alerts, lambda one: one.step)


def _step(told: Facts, created_ms: int) -> Step | None:
    if told.kind != "level" or told.previous is None:
        return None
    return Step(told.identity, told.previous, told.level, created_ms)


_SEVERITY = ["dead", "failed", "pending", "suppressed", "delivered"]


def _facts(delivery: Delivery) -> Facts:
    """What the alert says; an actuator's row is none, and is told by its kind alone."""
    try:
        decoded: Any = msgspec.json.decode(delivery.payload)
    except msgspec.DecodeError:
        decoded = {}
    event = decoded if isinstance(decoded, dict) and "specversion" in decoded else {}
    told = facts(event)
    if event:
        return told
    level = RiskLevel(delivery.level).label
    title = f"Token policy of {level}" if delivery.kind == "action" else f"{delivery.kind.capitalize()} of {level}"
    subject = decoded.get("agent_id", "") if isinstance(decoded, dict) else ""
    return replace(told, title=title, subject=str(subject))


def _target(one: Delivery) -> TargetShown:
    words = _WORDS.get(one.status, one.status)
    if one.status == "pending" and one.attempts == 0:
        words = "waits for its first attempt"
    return TargetShown(
        one.target,
        one.status,
        words,
        one.attempts,
        one.next_attempt_ms if one.status == "pending" else 0,
        one.delivered_ms,
        one.last_error,
        one.suppressed_before,
    )
