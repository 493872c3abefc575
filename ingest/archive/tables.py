"""Columns of an archived event. `raw` holds the record as it was logged; the others are its main members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ..events import NativeEvent

_TIME_TYPE, _TEXT_TYPE, _NAMES_TYPE = pa.timestamp("ms", tz="UTC"), pa.string(), pa.list_(pa.string())
_MAX_INT64 = 2**63 - 1


def _fitting_integer(value: int | None) -> int | None:
    """None for what no column holds; `raw` still does."""
    return value if value is None or abs(value) <= _MAX_INT64 else None


EVENT_COLUMNS: dict[str, tuple[Any, Callable[[NativeEvent], Any]]] = {
    "id": (_TEXT_TYPE, lambda e: e.id),
    "source": (_TEXT_TYPE, lambda e: e.source),
    "type": (_TEXT_TYPE, lambda e: e.type),
    "tenant_name": (_TEXT_TYPE, lambda e: e.tenant or ""),
    "issuer": (_TEXT_TYPE, lambda e: e.agent.issuer),
    "agent_id": (_TEXT_TYPE, lambda e: e.agent.id),
    "agent_type": (_TEXT_TYPE, lambda e: e.agent.type),
    "self_asserted": (pa.bool_(), lambda e: e.agent.self_asserted),
    "principal_id": (_TEXT_TYPE, lambda e: e.principal and e.principal.id),
    "delegation": (_NAMES_TYPE, lambda e: e.delegation),
    "task": (_TEXT_TYPE, lambda e: e.task),
    "action": (_TEXT_TYPE, lambda e: e.action),
    "effect": (_TEXT_TYPE, lambda e: e.effect),
    "resource_type": (_TEXT_TYPE, lambda e: e.resource and e.resource.type),
    "resource_id": (_TEXT_TYPE, lambda e: e.resource and e.resource.id),
    "resource_target": (_TEXT_TYPE, lambda e: e.resource and e.resource.target),
    "audience": (_TEXT_TYPE, lambda e: e.resource and e.resource.audience),
    "peer": (_TEXT_TYPE, lambda e: e.peer),
    "scopes_requested": (_NAMES_TYPE, lambda e: e.scopes and e.scopes.requested),
    "scopes_granted": (_NAMES_TYPE, lambda e: e.scopes and e.scopes.granted),
    "outcome": (_TEXT_TYPE, lambda e: e.outcome),
    "status": (pa.int64(), lambda e: _fitting_integer(e.status)),
    "error": (_TEXT_TYPE, lambda e: e.error),
    "bytes_in": (pa.float64(), lambda e: e.bytes_in),
    "bytes_out": (pa.float64(), lambda e: e.bytes_out),
    "duration_ms": (pa.float64(), lambda e: e.duration_ms),
    "count": (pa.float64(), lambda e: e.count),
    "client_ip": (_TEXT_TYPE, lambda e: e.client and e.client.ip),
    "credential_method": (_TEXT_TYPE, lambda e: e.credential and e.credential.method),
    "token_lifetime_s": (pa.float64(), lambda e: e.credential and e.credential.token_lifetime_s),
    "session": (_TEXT_TYPE, lambda e: e.session),
    "trace_id": (_TEXT_TYPE, lambda e: e.trace_id),
}
"""Column -> its Arrow type, and how an event fills it; null where the event does not say."""

EVENT_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("received", _TIME_TYPE),
        ("time", _TIME_TYPE),
        *((name, kind) for name, (kind, _) in EVENT_COLUMNS.items()),
        ("raw", pa.binary()),
    ]
)


def event_table(rows: Sequence[tuple[int, int, int, NativeEvent, bytes]], partition: int = 0) -> pa.Table:
    """Rows of (offset, received, time, event, raw) of a partition as a table; times in UTC milliseconds."""
    columns = [
        pa.repeat(pa.scalar(partition, pa.int32()), len(rows)),
        pa.array([row[0] for row in rows], pa.int64()),
        pa.array([row[1] for row in rows], pa.int64()).cast(_TIME_TYPE),
        pa.array([row[2] for row in rows], pa.int64()).cast(_TIME_TYPE),
        *(pa.array([fill(row[3]) for row in rows], kind) for kind, fill in EVENT_COLUMNS.values()),
        pa.array([row[4] for row in rows], pa.binary()),
    ]
    return pa.table(columns, schema=EVENT_SCHEMA)
