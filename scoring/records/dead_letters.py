"""Dead letters: records that are not events or commands, and inputs that the event intake refused."""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import Record

from .agents import WireTime

PIPELINE_SENDER = "pipeline"
"""Sender of letters that the pipeline makes of records of all tenants; no caller may have this name."""


class RefusedInput(msgspec.Struct):
    """Payload of a DEAD record: an input that the event intake refused."""

    letter_id: str
    received_ms: WireTime
    source: str
    reason: str
    path: str
    raw: str  # base64
    room: str = ""  # of `DeadLetter`


_refused_input_decoder = msgspec.json.Decoder(RefusedInput)


def dead_letter_of_record(partition: int, offset: int, record: Record, error: MalformedEvent) -> DeadLetter:
    """Return the dead letter of a record that the pipeline cannot read."""
    letter_id = record_id(record.received_ms, partition, offset, "dead")
    return DeadLetter(
        letter_id, record.received_ms, PIPELINE_SENDER, error.reason, error.path, record.payload, partition, offset
    )


def dead_letter_of_refused_input(partition: int, offset: int, record: Record) -> DeadLetter:
    """Return the dead letter of a DEAD record, with the id that the sender received."""
    try:
        refused = _refused_input_decoder.decode(record.payload)
        raw = base64.b64decode(refused.raw)
    except (msgspec.MsgspecError, ValueError) as error:
        return dead_letter_of_record(partition, offset, record, MalformedEvent(f"not a refused input: {error}"))
    what = (refused.source, refused.reason, refused.path, raw)
    return DeadLetter(refused.letter_id, refused.received_ms, *what, partition, offset, room=refused.room)


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that could not become an audit event, with its raw bytes so that nothing is lost."""

    letter_id: Annotated[str, member("id of the dead letter", "01KAW4ED1JQ4V1S0Z3Y8M4C2QK")]
    received_ms: Annotated[int, member("when the record arrived")]
    source: Annotated[str, member("caller or topic that sent it", "caller:gateway")]
    reason: Annotated[str, member("what is wrong there", "Object missing required field `time`")]
    path: Annotated[str, member("JSON path of what was wrong", "$.time")]
    raw: bytes
    partition: int
    offset: int
    replayed_ms: Annotated[int, member("when it was accepted after a replay; null until then", null=True)] = 0
    room: str = ""  # the tenant, or the source of several tenants, for which it is counted; "" = the pipeline
