"""Decisions as the outbox announces them: what security event tokens are derived from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, cast

import msgspec

from ...records.agents import LevelName, RiskLevel
from ...records.commits import OutboxRow
from ...records.containment import Intervention
from ..notifiers.alert_events import ALERT_TYPE

PIN_CAUSE: Final = "pin"
"""Cause of a change that a person ordered by fixing the level, in addition to the causes of decisions."""


class _Reason(msgspec.Struct, frozen=True):
    code: str


class _TokenPolicy(msgspec.Struct, frozen=True):
    revoke: bool = False


class _AlertEvent(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class AnnouncedDecision(msgspec.Struct, frozen=True):
    """A change of level, as far as receivers may know of it: the data of an alert, and what the transmitter adds.

    Attributes:
        principal: for whom the agent acted last; "" = unknown, or not to be disclosed.
        overruled: whether a person has fixed the level, so that policy acts on that one, not on this.
        in_claims: whether a hook writes the level into the agent's tokens.
    """

    decision_id: str
    tenant: str
    issuer: str
    agent_id: str
    before: LevelName = msgspec.field(name="previous_level")
    after: LevelName = msgspec.field(name="risk_level")
    decided_at: datetime
    mode: str
    cause: str
    token_policy: _TokenPolicy
    event_time: datetime | None = None
    concern: str | None = None
    reasons: tuple[_Reason, ...] = ()
    principal: str = ""
    overruled: bool = False
    in_claims: bool = False

    @property
    def previous_level(self) -> RiskLevel:
        """Level before the change."""
        return RiskLevel[self.before.upper()]

    @property
    def level(self) -> RiskLevel:
        """Level after the change."""
        return RiskLevel[self.after.upper()]

    @property
    def rises(self) -> bool:
        """True if the new level is the higher one."""
        return self.level > self.previous_level

    @property
    def acts(self) -> bool:
        """True if the policy of the new level revokes tokens, and is enforced."""
        return self.token_policy.revoke and self.mode == "enforce"

    @property
    def decided_ms(self) -> int:
        """When it was decided, UTC milliseconds."""
        return round(self.decided_at.timestamp() * 1000)

    @property
    def at_s(self) -> int:
        """Time of the event that led to it, else of the decision; seconds since 1970."""
        return int((self.event_time or self.decided_at).timestamp())


def read_announced_decision(payload: bytes) -> AnnouncedDecision | None:
    """The decision that an alert announces; None for alerts of anything else, and for rows that are not ours."""
    try:
        alert = msgspec.json.decode(payload, type=_AlertEvent)
        return msgspec.json.decode(alert.data, type=AnnouncedDecision) if alert.type == ALERT_TYPE else None
    except msgspec.MsgspecError:
        return None


PIN_ROW_KIND: Final = "pin"


class AnnouncedPin(msgspec.Struct, frozen=True):
    """A pin as the outbox announces it: a person fixed the level that policy acts on, or that ended."""

    intervention_id: str
    tenant: str
    issuer: str
    agent_id: str
    level: int
    holds: bool
    changed_ms: int


def build_pin_row(pin: Intervention) -> OutboxRow:
    """The outbox row that announces *pin* as it is now."""
    agent = pin.agent
    state = pin.level, pin.status == "active", pin.updated_ms
    announced = AnnouncedPin(pin.intervention_id, *agent.identity, *state)
    return OutboxRow(
        key=f"pin-{pin.intervention_id}-{pin.status}",
        kind=PIN_ROW_KIND,
        target="",
        payload=msgspec.json.encode(announced),
        created_ms=pin.updated_ms,
        agent_key=agent.key,
        level=pin.level,
        tenant=agent.tenant,
    )


def read_announced_pin(payload: bytes) -> AnnouncedPin | None:
    """The pin in a row of that kind; None for rows that are not ours."""
    try:
        return msgspec.json.decode(payload, type=AnnouncedPin)
    except msgspec.MsgspecError:
        return None


def pin_as_decision(pin: AnnouncedPin, measured: RiskLevel, *, revokes: bool, enforced: bool) -> AnnouncedDecision:
    """The change of the level that policy acts on, which *pin* or its end made."""
    pinned = RiskLevel(pin.level)
    before, after = (measured, pinned) if pin.holds else (pinned, measured)
    return AnnouncedDecision(
        f"{pin.intervention_id}.{'set' if pin.holds else 'ended'}",
        pin.tenant,
        pin.issuer,
        pin.agent_id,
        cast(LevelName, before.label),
        cast(LevelName, after.label),
        datetime.fromtimestamp(pin.changed_ms / 1000, UTC),
        "enforce" if enforced else "shadow",
        PIN_CAUSE,
        _TokenPolicy(revokes),
    )
