"""Changes of level, as the alerts of the outbox tell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ..records.agents import AgentName, RiskLevel
from ..records.cases import CaseTie
from ..records.commits import ALERT_KEY_PREFIX
from ..records.indicators import Indicator
from . import codec

if TYPE_CHECKING:
    from .codec import AnyRow

TYING_KINDS: Final[Mapping[str, CaseTie]] = {"target": "target", "key": "key", "network": "network"}
"""Indicators that tie agents together where they are new; others are too common, or an agent's own."""
_NEW: Final = frozenset({"new", "with_new"})
MAX_TIES_OF_RISE: Final = 20
"""New names of one rise that tie it: an agent chooses how many it has."""


class _AlertData(msgspec.Struct):
    """Members of an alert that tell of a change of level."""

    decision_id: str
    tenant: str
    issuer: str
    agent_id: str
    agent_type: str
    previous_level: str
    risk_level: str
    indicators: tuple[dict[str, Any], ...] = ()


class _AlertPayload(msgspec.Struct):
    data: _AlertData


_payload_decoder = msgspec.json.Decoder(_AlertPayload)
_LEVELS = {level.label: level for level in RiskLevel}


class AlertedLevelChange(NamedTuple):
    """A change of an agent's level.

    Attributes:
        seq: of its row in the outbox.
        before: level before it.
        ties: new names that its events came with, by which agents are tied together.
    """

    seq: int
    at_ms: int
    agent: AgentName
    agent_type: str
    decision_id: str
    before: int
    level: int
    ties: tuple[tuple[CaseTie, str], ...]

    @property
    def rises(self) -> bool:
        """True if people are to look at it."""
        return self.level > self.before and self.level >= RiskLevel.MEDIUM


def read_level_change(row: AnyRow) -> AlertedLevelChange | None:
    """Read a change of level from an outbox row; None where it is about something else."""
    if not row.key.startswith(ALERT_KEY_PREFIX):
        return None
    try:
        data = _payload_decoder.decode(row.payload).data
    except msgspec.DecodeError:
        return None
    agent = AgentName(codec.to_unsigned(row.agent_key), data.tenant, data.issuer, data.agent_id)
    before, level = _LEVELS.get(data.previous_level), _LEVELS.get(data.risk_level)
    if before is None or level is None:
        return None
    ties = tuple(dict.fromkeys(_ties(data.indicators)))[:MAX_TIES_OF_RISE]
    return AlertedLevelChange(row.seq, row.created_ms, agent, data.agent_type, data.decision_id, before, level, ties)


def _ties(indicators: Iterable[dict[str, Any]]) -> Iterable[tuple[CaseTie, str]]:
    for members in indicators:
        try:
            indicator = msgspec.convert(members, Indicator)
        except msgspec.ValidationError:
            continue
        kind = TYING_KINDS.get(indicator.kind)
        is_new = indicator.status in _NEW if indicator.kind == "key" else indicator.status == "new"
        if kind is not None and is_new and indicator.value:
            yield kind, indicator.value
