"""What a shadow run measured of champion and challenger over the same events."""

from __future__ import annotations

from typing import Any

import msgspec


class ShadowModelStats(msgspec.Struct, frozen=True):
    """One model. Alerts count rises to a level or above; `false_alerts` leave out what people labelled an attack."""

    version: str
    alerts: dict[str, int]
    false_alerts: dict[str, int]
    per_1000: dict[str, float]
    detected: int
    delay_s: float | None


class LabelledAttackStats(msgspec.Struct, frozen=True):
    """Labelled attacks within the run: how many there are, and whose they are."""

    attacks: int = 0
    kept: int = 0  # both detect them
    lost: int = 0  # the champion alone
    won: int = 0  # the challenger alone


class AlertAgreement(msgspec.Struct, frozen=True):
    """Agent-days by who alerted at medium or above; those of labelled attacks are left out."""

    both: int = 0
    neither: int = 0
    only_champion: int = 0
    only_challenger: int = 0


class ShadowComparison(msgspec.Struct, frozen=True):
    """A shadow run. Offsets are of the log: counted from the first up to the second; of several partitions, sums."""

    champion: ShadowModelStats
    challenger: ShadowModelStats
    agent_days: int
    events: int
    from_offset: int
    to_offset: int
    labels: LabelledAttackStats = LabelledAttackStats()
    agreement: AlertAgreement = AlertAgreement()


def comparison_to_dict(figures: ShadowComparison) -> dict[str, Any]:
    """For the store and for people."""
    found: dict[str, Any] = msgspec.to_builtins(figures)
    return found


def comparison_from_dict(stored: dict[str, Any]) -> ShadowComparison | None:
    """What was stored; None before the first, or where another version of the program wrote it."""
    try:
        return msgspec.convert(stored, ShadowComparison) if stored else None
    except msgspec.ValidationError:
        return None
