"""Recent events of one agent, out of the embedded log. A bounded look back; what lies before is said to be unseen.

With Kafka there is no log beside this process, and behind the look there is more: `history` has both from the archive.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ...ingest.errors import CorruptLog, MalformedEvent
from ...ingest.events import NativeEvent, decode_event
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import RecordKind
from ...scoring.records import AgentName

MAX_RECORDS_READ = 40_000
"""Records that are looked through: about 20 MB, some 50 ms."""

LOG_READ_BATCH = 2_000
DECISION_WINDOW_S = 600.0
"""So long before a decision, and a tenth of it after, events are told as those around it."""

MAX_EVENTS_AROUND = 30
ErasureFilter = Callable[[int, bytes], bytes | None]
"""Given offset and payload of an event: the payload as it may be shown, None for one that may not."""

_WORD_PATTERN = re.compile(rb"[A-Za-z0-9._-]+")


class LogExcerpt(NamedTuple):
    """What was found.

    Attributes:
        events: newest first.
        around: those within `DECISION_WINDOW_S` of the moment that was asked about, oldest first; at most
            `MAX_EVENTS_AROUND`.
        match_count: events of the agent among the records looked at, shown or not.
        records_examined: records looked at.
        complete: whether that was all of the log.
        start: offset from which on records were looked at.
        actions, resources: how often each, of all found.
        hours: events by hour of day, UTC.
    """

    events: list[NativeEvent]
    around: list[NativeEvent]
    match_count: int
    records_examined: int
    complete: bool
    start: int
    actions: Counter[str]
    resources: Counter[str]
    hours: list[int]


def unfiltered_payload(_: int, payload: bytes) -> bytes | None:
    """Nothing is being erased."""
    return payload


def read_log_excerpt(
    log: Path,
    name: AgentName,
    most: int = 50,
    look_back: int = MAX_RECORDS_READ,
    moment_ms: int = 0,
    unerased: ErasureFilter = unfiltered_payload,
) -> LogExcerpt | None:
    """Events of an agent; None where there is no log. Blocks.

    Args:
        log: directory of the embedded log.
        name: of the agent.
        most: events that are returned.
        look_back: records that are looked at.
        moment_ms: of the decision whose events are wanted too, UTC ms; 0 = of none.
        unerased: what may be shown of an event while somebody is being erased.
    """
    bases = segment_bases(log) if log.is_dir() else []
    if not bases:
        return None
    kept: deque[NativeEvent] = deque(maxlen=most)
    around: deque[NativeEvent] = deque(maxlen=MAX_EVENTS_AROUND)
    actions: Counter[str] = Counter()
    resources: Counter[str] = Counter()
    hours, found = [0] * 24, 0
    with LogReader(log) as reader:
        end = reader.end_offset(0)
        start = max(bases[0], end - look_back)
        for event in _agent_events(reader, start, end, name, unerased):
            found += 1
            kept.append(event)
            if is_near_decision(event, moment_ms):
                around.append(event)
            actions[event.action] += 1
            if event.resource is not None and event.resource.id:
                resources[event.resource.id] += 1
            hours[event.time.hour] += 1
    return LogExcerpt(
        list(reversed(kept)), list(around), found, end - start, start <= bases[0], start, actions, resources, hours
    )


def is_near_decision(event: NativeEvent, moment_ms: int) -> bool:
    """Whether an event is one of those around the moment of a decision, UTC ms."""
    return -DECISION_WINDOW_S <= event.time.timestamp() - moment_ms / 1000 <= DECISION_WINDOW_S / 10


def _agent_events(
    reader: LogReader, start: int, end: int, name: AgentName, unerased: ErasureFilter
) -> Iterator[NativeEvent]:
    words = _WORD_PATTERN.findall(name.agent_id.encode(errors="replace"))
    mark = max(words, key=len, default=b"")  # stands in the JSON as it is, however that was written
    try:
        reader.seek(0, start)
        at = start
        while at < end and (batch := reader.poll(LOG_READ_BATCH, 0.0)) is not None:
            base, at = at, batch.next_offset
            for offset, record in enumerate(batch.records, base):
                if record.kind == RecordKind.EVENT and mark in record.payload:
                    event = displayable_event(offset, record.payload, name, unerased)
                    if event is not None:
                        yield event
    except CorruptLog:
        return  # segments are removed while we read; what was found is true


def displayable_event(offset: int, payload: bytes, name: AgentName, unerased: ErasureFilter) -> NativeEvent | None:
    """The event of a record, as it may be shown; None where it is none of the agent's."""
    try:
        event = decode_event(payload)
        if (event.agent.id, event.agent.issuer or "", event.tenant or "") != (name.agent_id, name.issuer, name.tenant):
            return None
        may = unerased(offset, payload)
        return None if may is None else event if may is payload else decode_event(may)
    except MalformedEvent:
        return None
