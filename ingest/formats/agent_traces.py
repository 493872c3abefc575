"""Observations of Langfuse, in the pages and downloads of their traces.

Neither LangSmith nor Langfuse has a member for the agent: the author of a trace names it in its metadata, or the
project or trace is called like it. So ids are self-asserted, as those of OpenTelemetry spans.
"""

from __future__ import annotations

from collections.abc import Iterator

from .format_signs import SIGNS
from .record_mapping import UnpackedRecord
from .wrapped_records import unpack_audit_log


def unpack_observations(value: bytes) -> Iterator[UnpackedRecord]:
    """Observations; those in a trace's page or download with what the trace alone says."""
    for raw, record, kind, _ in unpack_audit_log(value, shows=SIGNS["langfuse"]):
        observations = record.get("observations") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(observations, list):
            yield UnpackedRecord(raw, record, kind)
            continue
        of_trace = {
            "traceName": record.get("name"),
            "userId": record.get("userId"),
            "sessionId": record.get("sessionId"),
        }
        for observation in observations:
            named = observation if isinstance(observation, dict) else {}
            yield UnpackedRecord(raw, {**of_trace, **named}, kind)
