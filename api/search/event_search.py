"""Events that fit a query: the embedded log first, then the archive; both looks are bounded and say how far they went.

Events of a subject are not shown from the moment its erasure is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ...ingest.errors import CorruptLog, MalformedEvent, TrustwatchError
from ...ingest.events import NativeEvent, decode_event
from ...ingest.features.event_words import credential_of, target_of
from ...ingest.log.log_reader import LogReader
from ...ingest.log.log_segments import segment_bases
from ...ingest.source import RecordKind
from ...scoring.records.erasures import Erasure
from ..agents.recent_events import (
    JSON_ESCAPE,
    LOG_READ_BATCH,
    MAX_RECORDS_READ,
    ErasureFilter,
    EventLocations,
    make_erasure_filter,
)
from ..events.event_origin import origin_of
from .query import ANY_FIELD, SearchQuery, SearchTerm

if TYPE_CHECKING:
    from ...ingest.archive.event_search import ArchiveSearch
    from ...ingest.archive.latest_events import LoggedEvent

_COLUMNS: Final[Mapping[str, str]] = {
    "agent": "agent_id",
    "principal": "principal_id",
    "tenant": "tenant_name",
    "event": "id",
    "action": "action",
    "outcome": "outcome",
    "address": "client_ip",
    "session": "session",
}
"""Columns of the archive that hold just what a field does."""


class FoundEvent(NamedTuple):
    """An event that fits, and the record that holds it."""

    event: NativeEvent
    partition: int
    offset: int


class EventSearchResult(NamedTuple):
    """Events that fit.

    Attributes:
        events: newest first.
        logged: records of the log that were looked at; None = there is no log here.
        archived: rows of the archive that were looked at; None = none were.
        complete: whether no older event that fits is left anywhere.
        damaged: files of the archive that can not be read.
        trouble: why the archive was not looked at; "" = it was, or was not needed.
    """

    events: Sequence[FoundEvent]
    logged: int | None
    archived: int | None
    complete: bool
    damaged: int = 0
    trouble: str = ""


def texts_of_event(event: NativeEvent) -> dict[str, tuple[str, ...]]:
    """What an event has of each field."""
    origin, resource = origin_of(event), event.resource
    principal = event.principal and event.principal.id
    credential = (origin.credential, credential_of(event)) if event.credential is not None else ()
    return {
        "agent": (event.agent.id,),
        "principal": (principal,) if principal else (),
        "tenant": (event.tenant or "",),
        "event": (event.id or "",),
        "action": (event.action,),
        "resource": tuple(name for name in (resource.id, resource.type) if name) if resource else (),
        "outcome": (event.outcome,),
        "target": (target_of(event),) if resource and (resource.external or resource.target) else (),
        "network": (origin.network,),
        "address": (origin.address,),
        "software": (origin.software,),
        "credential": credential,
        "key": (origin.key,),
        "instance": (origin.instance,),
        "session": (origin.session,),
    }


def event_fits(event: NativeEvent, query: SearchQuery) -> bool:
    """True if all of *query* holds for an event."""
    if not query.times.contains(int(event.time.timestamp() * 1000)):
        return False
    texts = texts_of_event(event)
    others = (event.error or "", event.peer or "", event.task or "", *(event.delegation or ()))
    everything = [*(text for named in texts.values() for text in named), *others]
    return all(term.matches_any(everything if term.field == ANY_FIELD else texts[term.field]) for term in query.terms)


def search_stored_events(
    locations: EventLocations,
    query: SearchQuery,
    tenants: Collection[str] | None,
    erasures: Sequence[Erasure],
    limit: int,
) -> EventSearchResult:
    """Events that fit, of both places. Blocks.

    Args:
        locations: where to look.
        query: what has to hold.
        tenants: whose events may be seen; None = everybody's.
        erasures: those that are asked for and not done.
        limit: events that are returned.

    Raises:
        OSError: the log can not be read.
    """
    concerned = [one for one in erasures if one.subject and (tenants is None or one.tenant in tenants)]
    check = _EventCheck(query, tenants, _make_tenant_filters(concerned, by_offset=locations.log is not None))
    start, found, looked_at, whole = 0, deque[FoundEvent](maxlen=limit + 1), None, False
    if locations.log is not None and (bases := segment_bases(locations.log) if locations.log.is_dir() else []):
        with LogReader(locations.log) as reader:
            end = reader.end_offset(0)
            start = max(bases[0], end - MAX_RECORDS_READ)
            found.extend(_logged_events(reader, start, end, check))
        looked_at, whole = end - start, start == 0
    newest = sorted(found, key=lambda one: (one.event.time, one.offset), reverse=True)[:limit]
    if len(found) > limit:
        return EventSearchResult(newest, looked_at, None, complete=False)
    if locations.archive is None:
        trouble = "" if locations.log is not None else _NO_PLACE
        return EventSearchResult(newest, looked_at, None, complete=whole, trouble=trouble)
    before = {0: start} if locations.log is not None else {}
    older = _archived_events(locations.archive, locations.topic, query, tenants, check, before, limit - len(newest))
    return EventSearchResult(
        [*newest, *older.events],
        looked_at,
        older.archived,
        older.complete or whole,
        older.damaged,
        "" if whole else older.trouble,
    )


_NO_PLACE: Final = (
    "Events are in a topic, where nothing can be looked up, and no archive is kept (archive.directory of the settings "
    "names one)."
)


class _EventCheck:
    """Decides on records: whether one may be seen, and fits."""

    def __init__(
        self, query: SearchQuery, tenants: Collection[str] | None, unerased: Mapping[str, ErasureFilter]
    ) -> None:
        self._query, self._tenants, self._unerased = query, tenants, unerased
        fields = [term for term in query.terms if term.field != ANY_FIELD]
        words = [term for term in query.terms if term.field == ANY_FIELD]
        self._parts = [part.encode() for part in _literals(fields)]
        self._lower_parts = [part.lower().encode() for part in _literals(words)]

    def may_fit(self, payload: bytes) -> bool:
        """False if a record can not fit, by its bytes alone."""
        if all(part in payload for part in self._parts):
            if not self._lower_parts:
                return True
            lowered = payload.lower()
            if all(part in lowered for part in self._lower_parts):
                return True
        return JSON_ESCAPE in payload

    def fitting_event(self, offset: int, payload: bytes) -> NativeEvent | None:
        """The event of a record, as it may be shown; None where it may not, or does not fit."""
        try:
            event = decode_event(payload)
            if self._tenants is not None and (event.tenant or "") not in self._tenants:
                return None
            unerased = self._unerased.get(event.tenant or "")
            if unerased is not None:
                left = unerased(offset, payload)
                if left is None:
                    return None
                event = event if left is payload else decode_event(left)
            return event if event_fits(event, self._query) else None
        except MalformedEvent:
            return None


def _literals(terms: Sequence[SearchTerm]) -> list[str]:
    """What has to stand in the bytes of a record that fits."""
    return [term.literal for term in terms if term.literal and term.field != "level"]


def _make_tenant_filters(erasures: Sequence[Erasure], *, by_offset: bool) -> dict[str, ErasureFilter]:
    tenants = {erasure.tenant for erasure in erasures}
    return {
        tenant: make_erasure_filter([one for one in erasures if one.tenant == tenant], by_offset=by_offset)
        for tenant in tenants
    }


def _logged_events(reader: LogReader, start: int, end: int, check: _EventCheck) -> Iterator[FoundEvent]:
    """Events of the log that fit, oldest first."""
    try:
        reader.seek(0, start)
        at = start
        while at < end and (batch := reader.poll(LOG_READ_BATCH, 0.0)) is not None:
            base, at = at, batch.next_offset
            for offset, record in enumerate(batch.records, base):
                if record.kind == RecordKind.EVENT and check.may_fit(record.payload):
                    event = check.fitting_event(offset, record.payload)
                    if event is not None:
                        yield FoundEvent(event, 0, offset)
    except CorruptLog:
        return  # segments are removed while we read; what was found is true


def _archived_events(
    directory: Path,
    topic: str,
    query: SearchQuery,
    tenants: Collection[str] | None,
    check: _EventCheck,
    before: Mapping[int, int],
    limit: int,
) -> EventSearchResult:
    nothing = EventSearchResult((), None, None, complete=False)
    try:
        from ...ingest.archive.event_search import search_events  # needs the extra `archive`
    except ImportError:
        return nothing._replace(
            trouble="The archive can not be read here: the extra “archive” (pyarrow) is not installed."
        )
    fitting: dict[tuple[int, int], NativeEvent] = {}

    def accepts(row: LoggedEvent) -> bool:
        event = check.fitting_event(row.offset, row.raw)
        if event is not None:
            fitting[row.partition, row.offset] = event
        return event is not None

    try:
        found = search_events(directory, topic, _archive_search(query, tenants, before, limit), accepts)
    except BlockingIOError:
        return nothing._replace(trouble="Files of the archive are being rewritten at this moment; search again.")
    except (TrustwatchError, OSError) as error:
        return nothing._replace(trouble=f"The archive can not be read: {error}.")
    if found is None:
        return nothing._replace(trouble=f"Nothing is archived in {directory} so far, or it is on another machine.")
    events = [FoundEvent(fitting[row.partition, row.offset], row.partition, row.offset) for row in found.rows]
    return EventSearchResult(
        events, None, found.rows_examined, found.complete and not found.damaged_files, found.damaged_files
    )


def _archive_search(
    query: SearchQuery, tenants: Collection[str] | None, before: Mapping[int, int], limit: int
) -> ArchiveSearch:
    from ...ingest.archive.event_search import ArchiveSearch

    equal = {_COLUMNS[term.field]: term.value for term in query.terms if term.exact and term.field in _COLUMNS}
    others = [term for term in query.terms if not (term.exact and term.field in _COLUMNS)]
    since, until = query.times
    return ArchiveSearch(
        tenants,
        equal,
        tuple(_literals(others)),
        None if not since else datetime.fromtimestamp(since / 1000, UTC),
        None if not until else datetime.fromtimestamp(until / 1000, UTC),
        before,
        limit,
    )
