"""Recent events of one agent, from the embedded log and the archive: a bounded search that reports its extent."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trustwatch.ingest.errors import CorruptLog, MalformedEvent, TrustwatchError
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.segment_import import first_offset, is_log
from trustwatch.ingest.record_erasure import RecordEraser
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.erasures import Erasure

from ..settings.root import Settings

if TYPE_CHECKING:
    from trustwatch.ingest.archive.archive_reader import LatestEvents

MAX_RECORDS_READ = 40_000
"""Records of the log that are searched: about 20 MB, some 50 ms."""

LOG_READ_BATCH = 2_000
DECISION_WINDOW_S = 600.0
"""Events around a decision are those up to this long before it, and a tenth of that after it."""

MAX_EVENTS_BEFORE, MAX_EVENTS_AFTER = 20, 10
"""Events around a decision that are listed: the last ones up to it, including its own, and the first after it."""

JSON_ESCAPE = b"\\u"
"""Escape that can stand for any character: a record with it is always decoded, since it may hide the name."""

_SAME_MOMENT_S = 0.001
"""A decision keeps milliseconds of its event's time."""

ErasureFilter = Callable[[int, bytes], bytes | None]
"""Takes offset and payload of an event; returns the payload as it may be shown, None if it may not."""

_WORD_PATTERN = re.compile(rb"[A-Za-z0-9._-]+")


def _agent_events(
    reader: LogReader, start: int, end: int, name: AgentName, unerased: ErasureFilter
) -> Iterator[NativeEvent]:
    words = _WORD_PATTERN.findall(name.agent_id.encode(errors="replace"))
    mark = max(words, key=len, default=b"")  # is unchanged in the JSON unless it was escaped
    try:
        reader.seek(0, start)
        at = start
        while at < end and (batch := reader.poll(LOG_READ_BATCH, 0.0)) is not None:
            base, at = at, batch.next_offset
            for offset, record in enumerate(batch.records, base):
                if record.kind == RecordKind.EVENT and (mark in record.payload or JSON_ESCAPE in record.payload):
                    event = _displayable_event(offset, record.payload, name, unerased)
                    if event is not None:
                        yield event
    except CorruptLog:
        return  # segments are removed while we read; what was found is true


def _displayable_event(offset: int, payload: bytes, name: AgentName, unerased: ErasureFilter) -> NativeEvent | None:
    """Return the event of a record for display, or None if it is not the agent's, or erased."""
    try:
        event = decode_event(payload)
        if (event.agent.id, event.agent.issuer or "", event.tenant or "") != (name.agent_id, name.issuer, name.tenant):
            return None
        shown = unerased(offset, payload)
        return None if shown is None else event if shown is payload else decode_event(shown)
    except MalformedEvent:
        return None


MAX_LISTED_EVENTS = 50
"""Events that are listed."""

MAX_LISTED_COUNTS = 12
"""Actions, and resources, that are listed with how often: the most frequent."""


class EventLocations(NamedTuple):
    """Places of stored events: embedded log, archive, topic."""

    log: Path | None  # directory of the embedded log; None if events are in a topic
    archive: Path | None
    topic: str = ""  # whose records the archive holds; "" = the embedded log


class DecisionMoment(NamedTuple):
    """Position of the decision whose surrounding events are read; *at_ms* UTC, 0 for none."""

    at_ms: int = 0
    partition: int = 0
    offset: int = 0


@dataclass
class AgentEventHistory:
    """Latest events of an agent from log and archive, with counts of all found events.

    *around* are those within `DECISION_WINDOW_S` of the moment, oldest first; of the log at most `MAX_EVENTS_BEFORE`
    up to it, and `MAX_EVENTS_AFTER` behind it. *actions* and *resources* are the most frequent of all found.
    """

    events: list[NativeEvent] = field(default_factory=list)  # newest first, at most `MAX_LISTED_EVENTS`
    around: list[NativeEvent] = field(default_factory=list)
    left_out: list[tuple[str, int]] = field(default_factory=list)  # actions around that are not listed; of the log
    match_count: int = 0  # events of the agent among all that was read
    logged: int | None = None  # records of the log that were read; None if there is no log here
    archived: int | None = None  # rows of the archive that were read; None if it was not read (*trouble*)
    whole: bool = False  # nothing older is left anywhere
    damaged: int = 0  # files of the archive that cannot be read
    trouble: str = ""  # why the archive was not read, although it was needed
    busy: bool = False  # the trouble passes within moments
    actions: list[tuple[str, int]] = field(default_factory=list)
    resources: list[tuple[str, int]] = field(default_factory=list)
    hours: list[int] = field(default_factory=lambda: [0] * 24)  # found by hour of day, UTC


def event_locations(settings: Settings) -> EventLocations:
    """Return the stores in which a service keeps its events."""
    if settings.distributed:
        return EventLocations(None, settings.archive.directory, settings.brokers.topic_names.events)
    return EventLocations(settings.data_dir / "log", settings.archive.directory)


def load_event_history(
    locations: EventLocations, name: AgentName, moment: DecisionMoment, erasures: Sequence[Erasure]
) -> AgentEventHistory:
    """Load the events of an agent from log and archive. Blocks. Raises OSError.

    Events of a subject are hidden once its erasure is requested.
    """
    concerned = [erasure for erasure in erasures if erasure.subject and erasure.tenant == name.tenant]
    # Offsets of a topic do not order its records against the order: all count as from before it.
    by_offset = locations.log is not None
    erasers = [(RecordEraser(erasure.erasure_subject), erasure.at_offset if by_offset else -1) for erasure in concerned]

    def unerased(offset: int, payload: bytes) -> bytes | None:
        record = Record(RecordKind.EVENT, 0, 0, payload)
        for erase, end in erasers:
            if end < 0 or offset < end:  # what came after the order is not erased
                record = erase(record)
        return record.payload if record.kind == RecordKind.EVENT else None

    return _EventLook(locations, name, moment, unerased).run()


@dataclass(eq=False, repr=False)
class _EventLook:
    """Reads the log, and the archive for events that the log does not have. Both reads are bounded."""

    _locations: EventLocations
    _name: AgentName
    _moment: DecisionMoment
    _unerased: ErasureFilter
    _found: AgentEventHistory = field(default_factory=AgentEventHistory)
    _actions: Counter[str] = field(default_factory=Counter)
    _resources: Counter[str] = field(default_factory=Counter)
    _before: dict[int, int] = field(default_factory=dict)  # offset from which on the log was read, by partition

    def run(self) -> AgentEventHistory:
        found = self._found
        self._read_log()
        if len(found.events) < MAX_LISTED_EVENTS:
            self._read_older()
        at_s = self._moment.at_ms / 1000
        led_to_it = any(event.time.timestamp() - at_s < _SAME_MOMENT_S for event in found.around)
        if self._moment.at_ms and not led_to_it and not found.trouble:  # the log may begin after the decision
            at = datetime.fromtimestamp(at_s, UTC)
            then = self._look_up(  # newest first, so that nothing after it pushes out what led to it
                since=at - timedelta(seconds=DECISION_WINDOW_S),
                until=at + timedelta(milliseconds=1),
                limit=MAX_EVENTS_BEFORE,
                max_matches=MAX_EVENTS_BEFORE,
            )
            found.around = [*([] if then is None else self._displayable(then)[::-1]), *found.around]
        found.whole = found.whole and not found.trouble
        found.actions = self._actions.most_common(MAX_LISTED_COUNTS)
        found.resources = self._resources.most_common(MAX_LISTED_COUNTS)
        return found

    def _read_log(self) -> None:
        found, log = self._found, self._locations.log
        if log is None or not is_log(log):
            return
        kept: deque[NativeEvent] = deque(maxlen=MAX_LISTED_EVENTS)
        # Around the decision: later events must not push out those that led to it.
        before: deque[NativeEvent] = deque(maxlen=MAX_EVENTS_BEFORE)
        after: list[NativeEvent] = []
        left_out: Counter[str] = Counter()
        with LogReader(log) as reader:
            end, first = reader.end_offset(0), first_offset(log)
            start = self._before[0] = max(first, end - MAX_RECORDS_READ)
            for event in _agent_events(reader, start, end, self._name, self._unerased):
                kept.append(event)
                late_s = event.time.timestamp() - self._moment.at_ms / 1000
                if -DECISION_WINDOW_S <= late_s <= DECISION_WINDOW_S / 10:
                    left_out[event.action] += 1
                    if late_s < _SAME_MOMENT_S:
                        before.append(event)
                    elif len(after) < MAX_EVENTS_AFTER:
                        after.append(event)
                found.match_count += 1
                self._actions[event.action] += 1
                if event.resource is not None and event.resource.id:
                    self._resources[event.resource.id] += 1
                found.hours[event.time.hour] += 1
        found.events, found.around = list(reversed(kept)), [*before, *after]
        found.left_out = (left_out - Counter(event.action for event in found.around)).most_common()
        found.logged, found.whole = end - start, start <= first

    def _read_older(self) -> None:
        found = self._found
        older = self._look_up(before=self._before, limit=MAX_LISTED_EVENTS - len(found.events))
        if older is None:
            return
        found.events += self._displayable(older)
        found.match_count += older.match_count
        found.archived, found.damaged = older.rows_examined, older.damaged_files
        found.whole = older.complete and not older.damaged_files
        found.hours = [sum(both) for both in zip(found.hours, older.hours, strict=True)]
        self._actions += older.actions
        self._resources += older.resources

    def _look_up(self, **query: Any) -> LatestEvents | None:
        """Read events of the archive; None if there are none (see *trouble*)."""
        found, (log, archive, topic) = self._found, self._locations
        if archive is None:
            if log is None:
                found.trouble = (
                    "Events are in a topic, where those of one agent cannot be looked up, and no archive is kept "
                    "(archive.directory of the settings names one)."
                )
            return None
        try:
            from trustwatch.ingest.archive.archive_reader import AgentEventQuery, latest_events  # needs `archive`
        except ImportError:
            found.trouble = "The archive cannot be read here: the extra “archive” (pyarrow) is not installed."
            return None
        try:
            agent = self._name.tenant, self._name.issuer, self._name.agent_id
            result = latest_events(archive, topic, AgentEventQuery(*agent, **query))
        except BlockingIOError:
            found.trouble, found.busy = "Files of the archive are being rewritten at this moment.", True
            return None
        except (TrustwatchError, OSError) as error:
            found.trouble = f"The archive cannot be read: {error}."
            return None
        if result is None and log is None:
            found.trouble = f"Nothing is archived in {archive} so far, or the archive is on another machine."
        return result

    def _displayable(self, result: LatestEvents) -> list[NativeEvent]:
        shown = (_displayable_event(row.offset, row.raw, self._name, self._unerased) for row in result.rows)
        return [event for event in shown if event is not None]
