"""What a column of a frame is, and columns that several frames have."""

from __future__ import annotations

from typing import NamedTuple

from ....scoring.records import RiskLevel

LEVEL_NAMES = tuple(level.label for level in RiskLevel)


class FrameColumn(NamedTuple):
    """One column. *kind* is a key of `KINDS`."""

    name: str
    kind: str
    meaning: str


COLUMN_DTYPES: dict[str, str] = {
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

AGENT_COLUMNS = (
    FrameColumn("tenant", "name", "tenant"),
    FrameColumn("issuer", "name", "issuer of the agent's tokens"),
    FrameColumn("agent_id", "name", "agent"),
    FrameColumn("agent_type", "name", "its type: the peer group, within the tenant"),
)
SCORED_EVENT_COLUMNS = (
    FrameColumn("time", "time", "when it happened"),
    FrameColumn("id", "text", "id of the event"),
    *AGENT_COLUMNS,
    FrameColumn("action", "name", "what was done"),
)
ALERT_LEVEL_COLUMN = FrameColumn("level", "level", "level that an alert is raised at")
SIDE_COLUMN = FrameColumn("side", "name", "A, or B where two models or policies are compared")
