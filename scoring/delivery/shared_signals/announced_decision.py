"""Decisions as the outbox announces them: what security event tokens are derived from."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from ...records.agents import LevelName, RiskLevel
from ...records.commits import OutboxRow
from ...records.containment import Intervention
from ..notifiers.alert_events import ALERT_TYPE

PIN_CAUSE: Final = "pin"
"""Cause of a change that a person ordered by fixing the level, in addition to the causes of decisions."""


class _Reason(msgspec.Struct):
    code: str
    text: str = ""


class _TokenPolicy(msgspec.Struct):
    revoke: bool = False


class _DecisionData(msgspec.Struct):
    decision_id: str
    tenant: str
    issuer: str
    agent_id: str
    previous_level: LevelName
    risk_level: LevelName
    decided_at: datetime
    mode: str
    cause: str
    token_policy: _TokenPolicy
    event_time: datetime | None = None
    concern: str | None = None
    reasons: tuple[_Reason, ...] = ()


class _AlertEvent(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class AnnouncedDecision(NamedTuple):
    """A change of level, as far as receivers may know of it.

    Attributes:
        revokes: whether the token policy of the new level revokes tokens.
        enforced: whether that policy is acted on.
        decided_ms: when it was decided, UTC milliseconds.
        at_s: time of the event that led to it, else of the decision; seconds since 1970.
        reasons: code and sentence of each reason, the gravest first.
        principal: for whom the agent acted last; "" = unknown, or not to be disclosed.
        overruled: whether a person has fixed the level, so that policy acts on that one, not on this.
        in_claims: whether a hook writes the level into the agent's tokens.
    """

    decision_id: str
    tenant: str
    issuer: str
    agent_id: str
    previous_level: RiskLevel
    level: RiskLevel
    revokes: bool
    enforced: bool
    cause: str
    concern: str
    decided_ms: int
    at_s: float
    reasons: tuple[tuple[str, str], ...]
    principal: str = ""
    overruled: bool = False
    in_claims: bool = False

    @property
    def rises(self) -> bool:
        """True if the new level is the higher one."""
        return self.level > self.previous_level


_alert_decoder = msgspec.json.Decoder(_AlertEvent)
_data_decoder = msgspec.json.Decoder(_DecisionData)


def read_announced_decision(payload: bytes) -> AnnouncedDecision | None:
    """The decision that an alert announces; None for alerts of anything else, and for rows that are not ours."""
    try:
        alert = _alert_decoder.decode(payload)
        if alert.type != ALERT_TYPE:
            return None
        data = _data_decoder.decode(alert.data)
    except msgspec.MsgspecError:
        return None
    return AnnouncedDecision(
        data.decision_id,
        data.tenant,
        data.issuer,
        data.agent_id,
        RiskLevel[data.previous_level.upper()],
        RiskLevel[data.risk_level.upper()],
        data.token_policy.revoke,
        data.mode == "enforce",
        data.cause,
        data.concern or "",
        round(data.decided_at.timestamp() * 1000),
        (data.event_time or data.decided_at).timestamp(),
        tuple((reason.code, reason.text) for reason in data.reasons),
    )


# Pins as the outbox announces them: a person fixed the level that policy acts on, or that ended.


PIN_ROW_KIND: Final = "pin"


class AnnouncedPin(msgspec.Struct, frozen=True):
    """A pin that begins to hold, or that does no more."""

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
    announced = AnnouncedPin(
        pin.intervention_id, *agent.identity, level=pin.level, holds=pin.status == "active", changed_ms=pin.updated_ms
    )
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


_pin_decoder = msgspec.json.Decoder(AnnouncedPin)


def read_announced_pin(payload: bytes) -> AnnouncedPin | None:
    """The pin in a row of that kind; None for rows that are not ours."""
    try:
        return _pin_decoder.decode(payload)
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
        before,
        after,
        revokes,
        enforced,
        PIN_CAUSE,
        "",
        pin.changed_ms,
        pin.changed_ms / 1000,
        (),
    )
