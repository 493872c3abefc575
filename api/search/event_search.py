"""Events that fit a query: the embedded log first, then the archive; both looks are bounded and say how far they went.

Events of a subject are not shown from the moment its erasure is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from trustwatch.ingest.errors import CorruptLog, MalformedEvent, TrustwatchError
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.features.event_words import credential_of
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.log_segments import segment_bases
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.records.erasures import Erasure

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
    from trustwatch.ingest.archive.event_search import ArchiveSearch
    from trustwatch.ingest.archive.latest_events import LoggedEvent

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


LOG_WINDOW = 4_000
"""Records of the log that are looked at in one go, from its end on."""


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
    """Texts of an event by field, of its names alone: each stands in the record, but for a network."""
    origin, resource, login = origin_of(event), event.resource, event.credential
    principal = event.principal and event.principal.id
    pair = (credential_of(event),) if login is not None and login.method and login.thumbprint else ()
    target = (resource.target or (resource.id if resource.external else None)) if resource else None
    parties = tuple(dict.fromkeys((event.agent.id, *filter(None, (event.peer, *(event.delegation or ()))))))
    return {
        "agent": (event.agent.id,),
        "party": parties,
        "principal": (principal,) if principal else (),
        "tenant": (event.tenant or "",),
        "event": (event.id or "",),
        "action": (event.action,),
        "resource": tuple(name for name in (resource.id, resource.type) if name) if resource else (),
        "outcome": (event.outcome,),
        "target": (target,) if target else (),
        "network": (origin.network,),
        "address": (origin.address,),
        "software": (origin.software,),
        "credential": (origin.credential, *pair),
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
    written = [*(text for field, named in texts.items() if field != "network" for text in named), *others]

    def fits(term: SearchTerm) -> bool:
        if term.field != ANY_FIELD:
            return term.matches_any(texts[term.field])
        return term.matches_any(written) or bool(term.network and term.network in texts["network"])

    return all(map(fits, query.terms))


def search_stored_events(
    locations: EventLocations,
    query: SearchQuery,
    tenants: Collection[str] | None,
    erasures: Sequence[Erasure],
    limit: int,
    expired: Callable[[], bool],
) -> EventSearchResult:
    """Events that fit, of both places. Blocks.

    Args:
        locations: where to look.
        query: what has to hold.
        tenants: whose events may be seen; None = everybody's.
        erasures: those that are asked for and not done.
        limit: events that are returned.
        expired: tells when the look has to end.

    Raises:
        OSError: the log can not be read.
    """
    concerned = [one for one in erasures if one.subject and (tenants is None or one.tenant in tenants)]
    check = _EventCheck(query, tenants, _make_tenant_filters(concerned, by_offset=locations.log is not None))
    logged = None if locations.log is None else _search_log(locations.log, check, limit, expired)
    found = [] if logged is None else logged.events
    newest = sorted(found, key=lambda one: (one.event.time, one.offset), reverse=True)[:limit]
    looked_at = None if logged is None else logged.end - logged.start
    if locations.archive is None or (logged is not None and (logged.start == 0 or len(found) > limit)):
        whole = logged is not None and logged.whole and len(found) <= limit
        trouble = _NO_PLACE if locations.archive is None and locations.log is None else ""
        return EventSearchResult(newest, looked_at, None, complete=whole, trouble=trouble)
    before = {} if logged is None else {0: logged.start}
    asked = _archive_search(query, tenants, before, limit - len(newest))
    older = _search_archive(locations.archive, locations.topic, asked, check, expired)
    return older._replace(events=[*newest, *older.events], logged=looked_at)


class _LogMatches(NamedTuple):
    """Events of the log that fit, oldest first, of the records from *start* up to *end*.

    *whole*: the log begins there.
    """

    events: list[FoundEvent]
    whole: bool
    start: int
    end: int


def _search_log(directory: Path, check: _EventCheck, limit: int, expired: Callable[[], bool]) -> _LogMatches | None:
    """Look back from the end, some records at a time, until more than *limit* fit or a bound is reached."""
    bases = segment_bases(directory) if directory.is_dir() else []
    if not bases:
        return None
    found: list[FoundEvent] = []
    with LogReader(directory) as reader:
        end = start = reader.end_offset(0)
        floor = max(bases[0], end - MAX_RECORDS_READ)
        try:
            while start > floor and len(found) <= limit and not (start < end and expired()):
                first = max(floor, start - LOG_WINDOW)
                found = [*_logged_events(reader, first, start, check), *found]
                start = first
        except CorruptLog:  # segments are removed while we read; what was found is true
            return _LogMatches(found, False, start, end)
    return _LogMatches(found, start <= bases[0], start, end)


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
        self._parts = [tuple(part.encode() for part in parts) for parts in _literals(fields)]
        self._lower_parts = [tuple(part.lower().encode() for part in parts) for parts in _literals(words)]

    def may_fit(self, payload: bytes) -> bool:
        """False if a record can not fit, by its bytes alone."""
        if _has_each(payload, self._parts) and (not self._lower_parts or _has_each(payload.lower(), self._lower_parts)):
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


def _literals(terms: Sequence[SearchTerm]) -> list[tuple[str, ...]]:
    """Of each term what has to stand in the bytes of a record that fits, one of several."""
    return [term.literals for term in terms if term.literals and term.field != "level"]


def _has_each(payload: bytes, parts: Sequence[tuple[bytes, ...]]) -> bool:
    """True if of each tuple one text is there."""
    return all(any(part in payload for part in either) for either in parts)


def _make_tenant_filters(erasures: Sequence[Erasure], *, by_offset: bool) -> dict[str, ErasureFilter]:
    tenants = {erasure.tenant for erasure in erasures}
    return {
        tenant: make_erasure_filter([one for one in erasures if one.tenant == tenant], by_offset=by_offset)
        for tenant in tenants
    }


def _logged_events(reader: LogReader, start: int, end: int, check: _EventCheck) -> Iterator[FoundEvent]:
    """Events of the log that fit, from *start* on and before *end*, oldest first. Raises CorruptLog."""
    reader.seek(0, start)
    at = start
    while at < end and (batch := reader.poll(LOG_READ_BATCH, 0.0)) is not None:
        base, at = at, batch.next_offset
        for offset, record in enumerate(batch.records, base):
            if offset >= end:  # batches are those of the log
                return
            if record.kind == RecordKind.EVENT and check.may_fit(record.payload):
                event = check.fitting_event(offset, record.payload)
                if event is not None:
                    yield FoundEvent(event, 0, offset)


def _search_archive(
    directory: Path, topic: str, asked: ArchiveSearch | None, check: _EventCheck, expired: Callable[[], bool]
) -> EventSearchResult:
    nothing = EventSearchResult((), None, None, complete=False)
    if asked is None:
        trouble = "The archive can not be read here: the extra “archive” (pyarrow) is not installed."
        return nothing._replace(trouble=trouble)
    from trustwatch.ingest.archive.event_search import search_events

    fitting: dict[tuple[int, int], NativeEvent] = {}

    def accepts(row: LoggedEvent) -> bool:
        event = check.fitting_event(row.offset, row.raw)
        if event is not None:
            fitting[row.partition, row.offset] = event
        return event is not None

    try:
        found = search_events(directory, topic, asked, accepts, expired)
    except BlockingIOError:
        return nothing._replace(trouble="Files of the archive are being rewritten at this moment; search again.")
    except (TrustwatchError, OSError) as error:
        return nothing._replace(trouble=f"The archive can not be read: {error}.")
    if found is None:
        return nothing._replace(trouble=f"Nothing is archived in {directory} so far, or it is on another machine.")
    events = [FoundEvent(fitting[row.partition, row.offset], row.partition, row.offset) for row in found.rows]
    complete = found.complete and not found.damaged_files
    return EventSearchResult(events, None, found.rows_examined, complete, found.damaged_files)


def _archive_search(
    query: SearchQuery, tenants: Collection[str] | None, before: Mapping[int, int], limit: int
) -> ArchiveSearch | None:
    """The question to the archive; None = what reads it is not installed."""
    try:
        from trustwatch.ingest.archive.event_search import ArchiveSearch  # needs the extra `archive`
    except ImportError:
        return None
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
