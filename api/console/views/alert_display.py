"""Alerts for people: what each of them says, and how it fares at every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from trustwatch.scoring.delivery.notifiers.alert_content import AlertContent, parse_alert
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery

from .escalations import Escalation, LevelStep, group_escalations

_STATUS_TEXTS = {
    "pending": "waits for its next attempt",
    "delivered": "arrived",
    "failed": "refused for good",
    "suppressed": "held back: told before within the cool-down",
    "dead": "given up",
}


class DisplayedTarget(NamedTuple):
    """State of one alert at one target.

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


class DisplayedAlert(NamedTuple):
    """One alert at all its targets.

    Attributes:
        decision_id: "" where it is about no decision.
        step: the change of an agent's level that it is about; None = it is about none.
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
    targets: tuple[DisplayedTarget, ...]
    worst: str
    step: LevelStep | None

    @property
    def previous(self) -> int:
        """Level before; that of the alert where it is about no change."""
        return RiskLevel.UNKNOWN if self.step is None else self.step.before


def display_alerts(deliveries: Sequence[Delivery]) -> list[DisplayedAlert]:
    """*deliveries* put together by alert, in the order in which alerts come first."""
    by_key: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_key.setdefault(delivery.key, []).append(delivery)
    return [_display_alert(key, rows) for key, rows in by_key.items()]


def _display_alert(key: str, deliveries: Sequence[Delivery]) -> DisplayedAlert:
    first = deliveries[0]
    content = _alert_facts(first)
    targets = tuple(_display_target(delivery) for delivery in deliveries)
    return DisplayedAlert(
        key,
        content.kind,
        content.title,
        content.subject,
        first.tenant,
        RiskLevel(first.level).label,
        first.created_ms,
        key.removeprefix(ALERT_KEY_PREFIX) if key.startswith(ALERT_KEY_PREFIX) else "",
        content.reasons,
        targets,
        min((delivery.status for delivery in deliveries), key=_SEVERITY.index),
        _level_step(content, first.created_ms),
    )


def alert_escalations(alerts: Sequence[DisplayedAlert]) -> list[Escalation[DisplayedAlert]]:
    """Alerts, newest first, those of one agent's climb as one entry."""
    return group_escalations(alerts, lambda alert: alert.step)


def _level_step(content: AlertContent, created_ms: int) -> LevelStep | None:
    if content.kind != "level" or content.previous is None:
        return None
    return LevelStep(content.identity, content.previous, content.level, created_ms)


_SEVERITY = ["dead", "failed", "pending", "suppressed", "delivered"]


def _alert_facts(delivery: Delivery) -> AlertContent:
    """Content of an alert for display; an actuator's row is no alert, and is described by its kind alone."""
    try:
        decoded: Any = msgspec.json.decode(delivery.payload)
    except msgspec.DecodeError:
        decoded = {}
    event = decoded if isinstance(decoded, dict) and "specversion" in decoded else {}
    content = parse_alert(event)
    if event:
        return content
    level = RiskLevel(delivery.level).label
    title = f"Token policy of {level}" if delivery.kind == "action" else f"{delivery.kind.capitalize()} of {level}"
    subject = decoded.get("agent_id", "") if isinstance(decoded, dict) else ""
    return replace(content, title=title, subject=str(subject))


def _display_target(delivery: Delivery) -> DisplayedTarget:
    words = _STATUS_TEXTS.get(delivery.status, delivery.status)
    if delivery.status == "pending" and delivery.attempts == 0:
        words = "waits for its first attempt"
    return DisplayedTarget(
        delivery.target,
        delivery.status,
        words,
        delivery.attempts,
        delivery.next_attempt_ms if delivery.status == "pending" else 0,
        delivery.delivered_ms,
        delivery.last_error,
        delivery.suppressed_before,
    )
