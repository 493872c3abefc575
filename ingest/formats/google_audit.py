"""Activities of Google Workspace that its Reports API lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import MalformedEvent
from .format_signs import SIGNS
from .record_mapping import UnpackedRecord
from .wrapped_records import check_surroundings, unpack_audit_log


def unpack_workspace_activities(value: bytes) -> Iterator[UnpackedRecord]:
    """Events of activities: one of these may hold several, whose parameters are a list of names and values."""
    for unpacked in unpack_audit_log(value, shows=SIGNS["google-workspace"]):
        raw, record = unpacked.raw, unpacked.record
        events = record.get("events") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(events, list):
            yield unpacked
            continue
        try:
            check_surroundings(record, len(events))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
            continue
        if not events:
            yield UnpackedRecord(raw, None)
        for number, event in enumerate(events):
            named = event if isinstance(event, dict) else {}
            parameters = _parameter_values(named.get("parameters"))
            yield UnpackedRecord(raw, {**record, "event": named, "number": str(number), "parameters": parameters})


def _parameter_values(parameters: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for parameter in parameters if isinstance(parameters, list) else ():
        if isinstance(parameter, dict) and isinstance(parameter.get("name"), str):
            given = (parameter.get(member) for member in ("value", "intValue", "boolValue", "multiValue"))
            values[parameter["name"]] = next((value for value in given if value is not None), None)
    return values
