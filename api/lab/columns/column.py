"""What a column of a frame is, and columns that several frames have."""

from __future__ import annotations

from typing import NamedTuple

from ....scoring.records import RiskLevel

LEVELS = tuple(level.label for level in RiskLevel)


class Column(NamedTuple):
    """One column. *kind* is a key of `KINDS`."""

    name: str
    kind: str
    meaning: str


KINDS: dict[str, str] = {
    "time": "datetime64[ms, UTC]",
    "name": "category",
    "level": "category",
    "text": "str",
    "number": "float64",
    "count": "int64",
    "whole": "Int64",
    "flag": "bool",
    "maybe": "boolean",
    "bytes": "object",
}
"""Kind of column -> dtype. `whole` and `maybe` may be missing, `level` is ordered."""

WHO = (
    Column("tenant", "name", "tenant"),
    Column("issuer", "name", "issuer of the agent's tokens"),
    Column("agent_id", "name", "agent"),
    Column("agent_type", "name", "its type: the peer group, within the tenant"),
)
SCORED = (
    Column("time", "time", "when it happened"),
    Column("id", "text", "id of the event"),
    *WHO,
    Column("action", "name", "what was done"),
)
ALERT_LEVEL = Column("level", "level", "level that an alert is raised at")
SIDE = Column("side", "name", "A, or B where two models or policies are compared")
