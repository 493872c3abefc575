"""Pins as the outbox announces them: a person fixed the level that policy acts on, or that ended.

No target takes such a row; security event tokens are derived from it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ...records.agents import RiskLevel
from ...records.commits import OutboxRow
from ...records.containment import Intervention
from .announced_decision import PIN_CAUSE, AnnouncedDecision

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
    """The pin in a row of that kind; None for what is none of ours."""
    try:
        return _pin_decoder.decode(payload)
    except msgspec.MsgspecError:
        return None


def pin_as_decision(pin: AnnouncedPin, measured: RiskLevel, *, revokes: bool, enforced: bool) -> AnnouncedDecision:
    """The change of the level that policy acts on, which *pin* or its end made.

    Args:
        measured: level of the agent without the pin.
        revokes: whether the policy of the new level revokes tokens.
        enforced: whether that policy is acted on.
    """
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
