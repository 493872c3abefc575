"""What the door refuses is logged too, so that the sender's mistake can be looked at and tried again."""

from __future__ import annotations

import base64

import msgspec

from ...ingest.events import MAX_EVENT_BYTES
from ...ingest.source import Record, RecordKind
from ...scoring.dead_letters import RefusedInput

MAX_DEAD_LETTER_BYTES = MAX_EVENT_BYTES
"""Bytes of a refused input that are kept; an event can not be larger, so what is longer is none."""


def dead_letter_record(letter_id: str, now_ms: int, source: str, reason: str, path: str, raw: bytes) -> Record:
    """The log record of a refused input.

    Args:
        letter_id: id of the dead letter it becomes.
        now_ms: arrival, UTC milliseconds.
        source: name of the caller.
        reason: why it is refused.
        path: JSON path of the wrong member.
        raw: as received; cut at MAX_KEPT bytes, which the reason then says.
    """
    if len(raw) > MAX_DEAD_LETTER_BYTES:
        reason = f"{reason} (the first {MAX_DEAD_LETTER_BYTES} of {len(raw)} bytes are kept)"
        raw = raw[:MAX_DEAD_LETTER_BYTES]
    letter = RefusedInput(letter_id, now_ms, source, reason, path, base64.b64encode(raw).decode())
    return Record(RecordKind.DEAD, 0, now_ms, msgspec.json.encode(letter), letter_id.encode())
