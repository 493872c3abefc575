"""Recent events of one agent, out of the embedded log. A bounded look back; what lies before is said to be unseen.

With brokers there is no log beside this process, and behind the look there is more: `history` has both from the
archive.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trustwatch.ingest.errors import CorruptLog, MalformedEvent, TrustwatchError
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.log_segments import segment_bases
from trustwatch.ingest.record_erasure import RecordEraser
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.erasures import Erasure

from ..settings.root import Settings

MAX_RECORDS_READ = 40_000
"""Records that are looked through: about 20 MB, some 50 ms."""

LOG_READ_BATCH = 2_000
DECISION_WINDOW_S = 600.0
"""Events so long before a decision, and a tenth of it after, count as those around it."""

MAX_EVENTS_BEFORE, MAX_EVENTS_AFTER = 20, 10
"""Events around a decision that are told: the last up to it, its own included, and the first behind it."""

JSON_ESCAPE = b"\\u"
"""Escape by which JSON may write any character: a record that has it is decoded, whatever name it may hide."""

_SAME_MOMENT_S = 0.001
"""A decision keeps milliseconds of its event's time."""

ErasureFilter = Callable[[int, bytes], bytes | None]
"""Given offset and payload of an event: the payload as it may be shown, None for one that may not."""

_WORD_PATTERN = re.compile(rb"[A-Za-z0-9._-]+")


class LogExcerpt(NamedTuple):
    """Events of an agent found in the embedded log.

    Attributes:
        events: newest first.
        around: those within `DECISION_WINDOW_S` of the moment that was asked about, oldest first; at most
            `MAX_EVENTS_BEFORE` up to it, and `MAX_EVENTS_AFTER` behind it.
        left_out: actions of those within it that are not in *around*, with how often.
        match_count: events of the agent among the records looked at, shown or not.
        records_examined: records looked at.
        complete: whether that was all of the log.
        start: offset from which on records were looked at.
        actions, resources: how often each, of all found.
        hours: events by hour of day, UTC.
    """

    events: list[NativeEvent]
    around: list[NativeEvent]
    left_out: Counter[str]
    match_count: int
    records_examined: int
    complete: bool
    start: int
    actions: Counter[str]
    resources: Counter[str]
    hours: list[int]


def unfiltered_payload(_: int, payload: bytes) -> bytes | None:
    """The payload as it is: the filter where no erasure is open."""
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
    near = _NearEvents(moment_ms)
    actions: Counter[str] = Counter()
    resources: Counter[str] = Counter()
    hours, match_count = [0] * 24, 0
    with LogReader(log) as reader:
        end = reader.end_offset(0)
        start = max(bases[0], end - look_back)
        for event in _agent_events(reader, start, end, name, unerased):
            match_count += 1
            kept.append(event)
            near.add(event)
            actions[event.action] += 1
            if event.resource is not None and event.resource.id:
                resources[event.resource.id] += 1
            hours[event.time.hour] += 1
    return LogExcerpt(
        list(reversed(kept)),
        near.told(),
        near.left_out(),
        match_count,
        end - start,
        start <= bases[0],
        start,
        actions,
        resources,
        hours,
    )


class _NearEvents:
    """Events around the moment of a decision, UTC ms: what led to it must not be pushed out by what came after."""

    def __init__(self, moment_ms: int) -> None:
        self._moment_s = moment_ms / 1000
        self._before: deque[NativeEvent] = deque(maxlen=MAX_EVENTS_BEFORE)
        self._after: list[NativeEvent] = []
        self._actions: Counter[str] = Counter()

    def add(self, event: NativeEvent) -> None:
        """Keep an event if it is one of those around; they come in the order of the log."""
        late_s = event.time.timestamp() - self._moment_s
        if not -DECISION_WINDOW_S <= late_s <= DECISION_WINDOW_S / 10:
            return
        self._actions[event.action] += 1
        if late_s < _SAME_MOMENT_S:
            self._before.append(event)
        elif len(self._after) < MAX_EVENTS_AFTER:
            self._after.append(event)

    def told(self) -> list[NativeEvent]:
        """The last ones before, then the first ones after."""
        return [*self._before, *self._after]

    def left_out(self) -> Counter[str]:
        """Actions of the others, with how often."""
        return self._actions - Counter(event.action for event in self.told())


def _agent_events(
    reader: LogReader, start: int, end: int, name: AgentName, unerased: ErasureFilter
) -> Iterator[NativeEvent]:
    words = _WORD_PATTERN.findall(name.agent_id.encode(errors="replace"))
    mark = max(words, key=len, default=b"")  # stands in the JSON as it is, unless it was escaped
    try:
        reader.seek(0, start)
        at = start
        while at < end and (batch := reader.poll(LOG_READ_BATCH, 0.0)) is not None:
            base, at = at, batch.next_offset
            for offset, record in enumerate(batch.records, base):
                if record.kind == RecordKind.EVENT and (mark in record.payload or JSON_ESCAPE in record.payload):
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


# Both looks, into the log and into the archive, are bounded and say how far they went. The events of a subject are not
# shown from the moment its erasure is asked for.

if TYPE_CHECKING:
    from trustwatch.ingest.archive.latest_events import AgentEventQuery, LatestEvents

MAX_LISTED_EVENTS = 50
"""Events that are listed."""


class EventLocations(NamedTuple):
    """Places of stored events: embedded log, archive, topic.

    Attributes:
        log: directory of the embedded log; None = events are in a topic.
        archive: directory of the archive; None = none is kept.
        topic: whose records the archive holds; "" = the embedded log.
    """

    log: Path | None
    archive: Path | None
    topic: str = ""


class DecisionMoment(NamedTuple):
    """Position of the decision whose surrounding events are looked for; *at_ms* UTC, 0 = of none."""

    at_ms: int = 0
    partition: int = 0
    offset: int = 0


class AgentEventHistory(NamedTuple):
    """Latest events of an agent from log and archive, with counts of all that were found.

    Attributes:
        events: newest first, at most `MAX_LISTED_EVENTS`.
        around: those around the moment that was asked about, oldest first.
        left_out: the most frequent actions of those around that are not listed, with how often; of the log alone.
        match_count: events of the agent among all that was looked at.
        logged: records of the log looked at; None = there is no log here.
        archived: rows of the archive looked at; None = it was not looked at, or can not be (*trouble*).
        whole: whether nothing older is left anywhere.
        damaged: files of the archive that can not be read.
        trouble: why the archive was not looked at, "" = it was, or was not needed.
        busy: whether that passes within moments.
        actions, resources: the most frequent of all found, with how often.
        hours: found by hour of day, UTC.
    """

    events: list[NativeEvent]
    around: list[NativeEvent]
    left_out: list[tuple[str, int]]
    match_count: int
    logged: int | None
    archived: int | None
    whole: bool
    damaged: int
    trouble: str
    busy: bool
    actions: list[tuple[str, int]]
    resources: list[tuple[str, int]]
    hours: list[int]


def event_locations(settings: Settings) -> EventLocations:
    """Places where a service keeps its events."""
    brokers = settings.brokers
    if settings.distributed:
        return EventLocations(None, settings.archive.directory, brokers.names.events)
    return EventLocations(settings.data_dir / "log", settings.archive.directory)


def load_event_history(
    locations: EventLocations, name: AgentName, moment: DecisionMoment, erasures: Sequence[Erasure]
) -> AgentEventHistory:
    """Events of an agent, of both places. Blocks.

    Args:
        locations: where to look.
        name: of the agent.
        moment: of the decision whose events are wanted, too.
        erasures: those that are asked for and not done.

    Raises:
        OSError: the log can not be read.
    """
    concerned = [erasure for erasure in erasures if erasure.subject and erasure.tenant == name.tenant]
    unerased = make_erasure_filter(concerned, by_offset=locations.log is not None)
    log = None
    if locations.log is not None:
        log = read_log_excerpt(locations.log, name, MAX_LISTED_EVENTS, moment_ms=moment.at_ms, unerased=unerased)
    return _ArchiveSearch(locations, name, moment, unerased, log).run()


def make_erasure_filter(erasures: Sequence[Erasure], *, by_offset: bool) -> ErasureFilter:
    """Filter of events of erased subjects. In a topic all count as from before the order: offsets do not order them."""
    erasers = [(RecordEraser(erasure.erasure_subject), erasure.at_offset if by_offset else -1) for erasure in erasures]

    def may(offset: int, payload: bytes) -> bytes | None:
        record = Record(RecordKind.EVENT, 0, 0, payload)
        for erase, end in erasers:
            if end < 0 or offset < end:  # what came behind the order is not erased
                record = erase(record)
        return record.payload if record.kind == RecordKind.EVENT else None

    return may


class _ArchiveSearch:
    """The look through the archive, for what the log does not have."""

    def __init__(
        self,
        locations: EventLocations,
        name: AgentName,
        moment: DecisionMoment,
        unerased: ErasureFilter,
        log: LogExcerpt | None,
    ) -> None:
        self._locations, self._name, self._moment, self._unerased, self._log = locations, name, moment, unerased, log
        self._trouble, self._busy = "", False

    def run(self) -> AgentEventHistory:
        log = self._log
        events = [] if log is None else log.events
        around = [] if log is None else log.around
        older = None
        if len(events) < MAX_LISTED_EVENTS:
            older = self._run_query(self._query_before_log())
        if older is not None:
            events = [*events, *self._displayable_events(older)]
        if self._moment.at_ms and not self._knows_what_led_to_it(around) and not self._trouble:
            then = self._run_query(self._query_around_decision())
            around = [*([] if then is None else self._displayable_events(then)[::-1]), *around]
        return self._combine(events, around, older)

    def _knows_what_led_to_it(self, around: Sequence[NativeEvent]) -> bool:
        """True if there is an event up to the decision: the log may begin behind it."""
        return any(event.time.timestamp() - self._moment.at_ms / 1000 < _SAME_MOMENT_S for event in around)

    def _combine(
        self, events: list[NativeEvent], around: list[NativeEvent], older: LatestEvents | None
    ) -> AgentEventHistory:
        both = [part for part in (self._log, older) if part is not None]
        actions = sum((part.actions for part in both), Counter[str]())
        resources = sum((part.resources for part in both), Counter[str]())
        whole = (
            older.complete and not older.damaged_files if older is not None else bool(self._log and self._log.complete)
        )
        return AgentEventHistory(
            events,
            around,
            [] if self._log is None else self._log.left_out.most_common(),
            sum(part.match_count for part in both),
            None if self._log is None else self._log.records_examined,
            None if older is None else older.rows_examined,
            whole and not self._trouble,
            0 if older is None else older.damaged_files,
            self._trouble,
            self._busy,
            actions.most_common(12),
            resources.most_common(12),
            [sum(hours) for hours in zip([0] * 24, *(part.hours for part in both), strict=True)],
        )

    def _query_before_log(self) -> AgentEventQuery | None:
        """Query of the archive for the events before those of the log."""
        query = self._base_query()
        if query is None or self._log is None:
            return query
        return query._replace(before={0: self._log.start}, limit=MAX_LISTED_EVENTS - len(self._log.events))

    def _query_around_decision(self) -> AgentEventQuery | None:
        """Query of the archive for the events that led to the decision, its own included."""
        query, at = self._base_query(), datetime.fromtimestamp(self._moment.at_ms / 1000, UTC)
        if query is None:
            return None
        return query._replace(  # newest first, so that nothing behind it pushes out what led to it
            since=at - timedelta(seconds=DECISION_WINDOW_S),
            until=at + timedelta(milliseconds=1),
            limit=MAX_EVENTS_BEFORE,
            max_matches=MAX_EVENTS_BEFORE,
        )

    def _base_query(self) -> AgentEventQuery | None:
        if self._locations.archive is None:
            if self._locations.log is None:
                self._trouble = (
                    "Events are in a topic, where those of one agent can not be looked up, and no archive is kept "
                    "(archive.directory of the settings names one)."
                )
            return None
        try:
            from trustwatch.ingest.archive.latest_events import AgentEventQuery  # needs the extra `archive`
        except ImportError:
            self._trouble = "The archive can not be read here: the extra “archive” (pyarrow) is not installed."
            return None
        return AgentEventQuery(self._name.tenant, self._name.issuer, self._name.agent_id)

    def _run_query(self, query: AgentEventQuery | None) -> LatestEvents | None:
        if query is None or self._locations.archive is None:
            return None
        from trustwatch.ingest.archive.latest_events import latest_events

        try:
            result = latest_events(self._locations.archive, self._locations.topic, query)
        except BlockingIOError:
            self._trouble, self._busy = "Files of the archive are being rewritten at this moment.", True
            return None
        except (TrustwatchError, OSError) as error:
            self._trouble = f"The archive can not be read: {error}."
            return None
        if result is None and self._locations.log is None:
            self._trouble = (
                f"Nothing is archived in {self._locations.archive} so far, or the archive is on another machine."
            )
        return result

    def _displayable_events(self, result: LatestEvents) -> list[NativeEvent]:
        shown = (displayable_event(row.offset, row.raw, self._name, self._unerased) for row in result.rows)
        return [event for event in shown if event is not None]
