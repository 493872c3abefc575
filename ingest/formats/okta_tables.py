"""Okta System Log, whose console downloads a table with names of its own: `event_type`, `actor.alternate_id`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .format_signs import SIGNS
from .record_mapping import UnpackedRecord
from .wrapped_records import unpack_audit_log

_UNDERSCORE = re.compile(r"_([a-z0-9])")
_TARGET = re.compile(r"target(\d{1,3})")


def unpack_okta_log(value: bytes) -> Iterator[UnpackedRecord]:
    """Events of the log; rows of the table as events of the API."""
    for raw, record, kind, _ in unpack_audit_log(value, shows=SIGNS["okta"]):
        is_row = isinstance(record, dict) and "event_type" in record and "eventType" not in record
        yield UnpackedRecord(raw, _event_of_row(record) if is_row and isinstance(record, dict) else record, kind)


def _event_of_row(row: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = _renamed(row)
    event.setdefault("published", event.get("timestamp"))
    numbers = sorted(int(match[1]) for name in event if (match := _TARGET.fullmatch(name)))
    targets = [event[f"target{number}"] for number in numbers]
    return {**event, "target": [target for target in targets if isinstance(target, dict)]}


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_UNDERSCORE.sub(lambda match: match[1].upper(), name): _renamed(part) for name, part in value.items()}
    return value
