"""Lists: filters, columns and order from the URL (which a bookmark keeps), files of rows, and escalations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from fastapi import Request
from starlette.responses import Response

from trustwatch.ingest.timestamps import HOUR_MS, format_rfc3339
from trustwatch.scoring.records.decisions import Decision

from ..csv_rows import rows_as_csv
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import invalid_value_error
from ..http.store_executor import BulkWork

T = TypeVar("T")
MAX_STEP_INTERVAL_MS: Final = HOUR_MS  # Longest time between two steps of one climb


class LevelStep(NamedTuple):
    """A change of an agent's level. *agent* is any value that identifies it; *at_ms* is UTC."""

    agent: object
    before: int
    after: int
    at_ms: int


class Escalation(NamedTuple, Generic[T]):
    """One entry of a list: a single item, or the steps of one climb, newest first."""

    steps: Sequence[T]
    newest: T
    oldest: T


def group_escalations(items: Sequence[T], step_of: Callable[[T], LevelStep | None]) -> list[Escalation[T]]:
    """Group the steps of each climb in *items* (newest first), at the position of the newest.

    A climb is rises of one agent, each from the level at which the one before it ended and within
    `MAX_STEP_INTERVAL_MS` of it; what other agents do meanwhile does not end it, a fall of the agent itself does. Of a
    climb that began before the oldest item, the steps in *items* count. An item for which *step_of* returns None stays
    alone.
    """
    entries: list[list[T]] = []
    rising: dict[object, tuple[LevelStep, list[T]]] = {}
    for item in items:
        step, entry = step_of(item), list[T]()
        if step is not None:
            later, climb = rising.get(step.agent, (step, entry))
            continues = step.before < step.after == later.before < later.after
            if continues and later.at_ms - step.at_ms <= MAX_STEP_INTERVAL_MS:
                entry = climb
            rising[step.agent] = step, entry
        if not entry:
            entries.append(entry)
        entry.append(item)
    return [Escalation(steps, steps[0], steps[-1]) for steps in entries]


def level_step_of(decision: Decision) -> LevelStep:
    """Return the level step of a decision."""
    return LevelStep(decision.agent.key, decision.previous_level, decision.level, decision.event_time_ms)


MAX_FILTER_LENGTH: Final = 2048


class ListColumns(NamedTuple):
    """The columns of a list."""

    headings: Mapping[str, str]  # by the name of the column, in order
    leading: str  # the column that is always shown: it leads to what a row is about
    shown: Sequence[str]  # names of those that the address asks for (`column`, repeated; none = all)
    order: str  # the column that orders the rows (`sort`), with `-` if descending; "" = as they come

    def links(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of links to other pages of the list: its filters, columns and order."""
        columns = self.shown if len(self.shown) < len(self.headings) else ()
        return {**filters, "column": columns, "sort": self.order}


def list_columns(request: Request, headings: Mapping[str, str], leading: str) -> ListColumns:
    """Return the columns and order that *request* selects."""
    asked = headings.keys() & set(request.query_params.getlist("column"))
    shown = [name for name in headings if not asked or name in asked or name == leading]
    order = request.query_params.get("sort", "")
    return ListColumns(headings, leading, shown, order if order.removeprefix("-") in headings else "")


def text_filters(*names: str, **defaults: str) -> Callable[[Request], dict[str, str]]:
    """Dependency: the filters of a list from its URL; "" = not given."""

    def asked(request: Request) -> dict[str, str]:
        given = {name: request.query_params.get(name, defaults.get(name, "")).strip() for name in (*defaults, *names)}
        for name, value in given.items():
            if len(value) > MAX_FILTER_LENGTH:
                raise invalid_value_error(name, f"has more than {MAX_FILTER_LENGTH} characters")
        return given

    return asked


# Lists as files, CSV or JSON: the newest rows that fit, and whether these are all.

MAX_ROWS, MAX_PAGES_READ = 10_000, 400  # Rows of one file, and pages that are read for it
GATHERING_S = 5.0  # Seconds after which no more pages are read for a file
FORMS: Final = ("csv", "json")


async def list_file(
    form: str,
    name: str,
    page_at: Callable[[str | None], Awaitable[Any]],
    row_of: Callable[[Any], dict[str, Any]],
    monotonic: Callable[[], float],
    work: BulkWork,
    caller: AuthenticatedCaller,
) -> Response:
    """Build a file of the first `MAX_ROWS` rows of a list for download; its name states if there are more.

    Raises ProblemError (422), Overloaded.
    """
    if form not in FORMS:
        raise invalid_value_error("form", "must be csv or json")
    rows: list[dict[str, Any]] = []
    end, cursor = monotonic() + GATHERING_S, None
    for _ in range(MAX_PAGES_READ):
        page = await page_at(cursor)
        rows += map(row_of, page.items)
        cursor = page.next_cursor
        if cursor is None or len(rows) >= MAX_ROWS or monotonic() > end:
            break
    complete, rows = cursor is None and len(rows) <= MAX_ROWS, rows[:MAX_ROWS]
    shown = name if complete else f"{name}-first-{len(rows)}"
    headers = {"Content-Disposition": f'attachment; filename="{shown}.{form}"'}
    if form == "json":
        body = msgspec.json.encode({"complete": complete, name: rows})
        return Response(body, media_type="application/json", headers=headers)
    table = await work.run(caller, rows_as_csv, rows)  # 10,000 rows take a quarter of a second
    return Response(table, media_type="text/csv; charset=utf-8", headers=headers)


def optional_time(at_ms: int) -> str | None:
    """Return a time in the format of rows, or None if there was none."""
    return format_rfc3339(at_ms) if at_ms else None
