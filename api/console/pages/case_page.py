"""Cases: the list, and one of them with its story and what can be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.cases import Case
from trustwatch.scoring.store.database import MAX_PAGE, Page

from ...access.service import ContainmentService
from ...cases.case_reports import CaseReport, CaseSearch, ListedCase
from ...cases.case_requests import OPEN_STATUSES
from ...cases.consequences import VERDICT_CHOICES, case_title, containment_effects
from ...cases.report import render_json, render_markdown
from ...cases.service import CaseService
from ...cases.timeline import TIMELINE_KINDS, TimelineItem
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK, SCOPE_SCORE_READ
from ...http.problems import ProblemError, invalid_value_error
from ...http.time_range import CHOICES, TimeRange, parse_time_range
from ..console_sessions import PageRequest
from ..lists import list_columns, text_filters
from ..page_dependencies import (
    BACKGROUND_HEADER,
    CaseServiceDep,
    CaseStoryDep,
    ConsoleContext,
    ConsoleDep,
    FormDep,
    PageReaderDep,
    PageReviewerDep,
    number_of_form,
)
from ..rendering import MenuEntry, url_with_query
from ..views.case_display import (
    PIN_CHOICES,
    SNOOZE_CHOICES,
    STATUS_CHOICES,
    group_alike,
    lead_reason,
    why_here,
)
from ..views.list_rows import case_row
from ..views.table_file import check_form, gather_rows, table_file

MENU_ENTRY = MenuEntry("Cases", "/console/cases", SCOPE_SCORE_READ, "/console/cases/count", key="c")
MAX_MERGE_CHOICES = 50
MAX_REVISION_DIGITS = 18
DAYS_COUNTED = 30
ANY_STATUS = "any"
"""Status of cases whatever theirs is, in addresses: links leave out what is empty, and then the open ones are meant."""
"""Days whose cases the list counts."""

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]
TimeText = Annotated[str, Query(max_length=64)]
CONFIRMATIONS = {
    "acknowledge": "You are on it, and others see that.",
    "assign": "The owner has changed.",
    "notes": "The note is kept with the case.",
    "snooze": "Saved. Until then alert targets hear of a higher level alone.",
    "contain": "The case is contained. What came of it stands in its story below.",
    "close": "The case is closed.",
    "reopen": "The case is open again.",
    "merge": "The other case is part of this one now.",
    "split": "This is the new case.",
}


COLUMNS = {
    "case": "Case",
    "status": "Status",
    "highest": "Highest",
    "reason": "Leading reason",
    "agents": "Agents",
    "owner": "Owner",
    "risen": "Last rise",
    "opened": "Opened",
}
_text_filters = text_filters("owner", "level", "agent", "tenant", "since", "until", status="unresolved")


def asked_cases(request: Request) -> dict[str, str]:
    """Filters of the list as the address says them; those that are not closed, unless something else is asked for."""
    asked = _text_filters(request)
    return asked | {"status": ""} if asked["status"] == ANY_STATUS else asked


AskedDep = Annotated[dict[str, str], Depends(asked_cases)]


def _search_of(asked: dict[str, str], now_ms: int) -> CaseSearch:
    """Raises ProblemError (422) where a time can not be read."""
    times = parse_time_range(asked["since"], asked["until"], now_ms)
    agent = AgentSelector(asked["agent"], asked["tenant"] or None) if asked["agent"] else None
    return CaseSearch(asked["status"], asked["owner"], asked["level"], agent, asked["tenant"], *times)


@router.get("/cases")
async def list_cases(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    cases: CaseServiceDep,
    asked: AskedDep,
    cursor: Cursor = "",
) -> Response:
    """Cases, last changed first."""
    return await _list_page(request, console, visit, cases, asked, cursor)


async def _list_page(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    cases: CaseService,
    asked: dict[str, str],
    cursor: str = "",
    *,
    said: str = "",
    trouble: str = "",
) -> Response:
    page = Page[ListedCase]([], None)
    try:
        search = _search_of(asked, console.runtime.now_ms())
        page = await cases.search(visit.caller, search, cursor=cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
    return console.render_page(
        request,
        "cases.html",
        visit,
        400 if trouble else 200,
        listing=list_columns(request, COLUMNS, "case"),
        filters=asked,
        choices=CHOICES,
        statuses=STATUS_CHOICES,
        page=page,
        trouble=trouble,
        said=said,
        statistics=None if BACKGROUND_HEADER in request.headers else await cases.statistics(visit.caller, DAYS_COUNTED),
        days=DAYS_COUNTED,
        may_act=SCOPE_FEEDBACK in visit.caller.scopes,
        verdicts=VERDICT_CHOICES,
        first_page=not cursor,
        title_of=case_title,
        reason_of=lead_reason,
    )


@router.get("/cases/file.{form}")
async def download_cases(
    form: str, console: ConsoleDep, visit: PageReaderDep, cases: CaseServiceDep, asked: AskedDep
) -> Response:
    """Cases that fit as a file."""
    check_form(form)
    search = _search_of(asked, console.runtime.now_ms())
    rows, complete = await gather_rows(
        lambda cursor: cases.search(visit.caller, search, MAX_PAGE, cursor), case_row, console.runtime.monotonic
    )
    return await table_file(form, "cases", rows, complete=complete)


@router.get("/cases/count")
async def count_open_cases(
    request: Request, console: ConsoleDep, visit: PageReaderDep, cases: CaseServiceDep
) -> Response:
    """Number of cases that wait for somebody: the badge in the menu."""
    counts = await cases.count_open(visit.caller)
    return console.render_page(request, "case_count.html", visit, open=counts.get("open", 0))


@router.post("/cases")
async def act_on_cases(
    request: Request, console: ConsoleDep, visit: PageReviewerDep, cases: CaseServiceDep, form: FormDep
) -> Response:
    """Acknowledge or close the cases whose boxes are ticked; those that can not be are told, the others are done."""
    action, note = form.get("action", ""), form.get("note", "").strip()
    chosen = [value.partition(" ") for name, value in form.items() if name.startswith("case-")]
    done, refused = 0, []
    for case_id, _, seen in chosen:
        try:
            if action == "acknowledge":
                await cases.acknowledge(visit.caller, case_id, note)
            else:
                revision = _revision({"revision": seen})
                await cases.close(visit.caller, case_id, form.get("verdict", ""), note, revision=revision)
            done += 1
        except TrustwatchError as error:
            refused.append(f"{case_id}: {error}")
    verb = "acknowledged" if action == "acknowledge" else "closed"
    said = f"{done} case{'' if done == 1 else 's'} {verb}." if done else ""
    trouble = (
        f"Not done: {'; '.join(refused)}." if refused else "" if chosen else "Nothing was done: no case is ticked."
    )
    asked = {name: "" for name in ("owner", "level", "agent", "tenant", "since", "until")} | {"status": "unresolved"}
    return await _list_page(request, console, visit, cases, asked, said=said, trouble=trouble)


@router.get("/cases/{case_id}")
async def show_case(
    case_id: str, request: Request, console: ConsoleDep, visit: PageReaderDep, cases: CaseServiceDep, done: Text = ""
) -> Response:
    """One case."""
    return await _case_page(request, console, visit, cases, case_id, said=CONFIRMATIONS.get(done, ""))


@router.get("/cases/{case_id}/timeline")
async def show_timeline(
    case_id: str,
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    story: CaseStoryDep,
    kind: Text = "",
    since: TimeText = "",
    until: TimeText = "",
) -> Response:
    """The story of a case, which takes longest to find; narrowed to a kind, and to a time."""
    times = parse_time_range(since, until, console.runtime.now_ms())

    def page(report: CaseReport, items: list[TimelineItem]) -> Response:
        shown = [item for item in items if _fits(item, kind, times)]
        return console.render_page(
            request,
            "case_timeline.html",
            visit,
            case=report.case,
            runs=group_alike(list(zip(_moment_ids(shown), shown, strict=True))),
            total=len(items),
            kinds=[(name, sum(item.kind == name for item in items)) for name in TIMELINE_KINDS],
            chosen={"kind": kind, "since": since, "until": until},
            agents=_agents_by_id(report),
            may_see_alerts=SCOPE_ADMIN in visit.caller.scopes,
        )

    return await story.tell(visit.caller, case_id, page)


def _agents_by_id(report: CaseReport) -> dict[str, AgentName]:
    """Agents of a case that an id alone means."""
    met = Counter(one.agent.agent_id for one in report.agents)
    return {one.agent.agent_id: one.agent for one in report.agents if met[one.agent.agent_id] == 1}


def _moment_ids(items: Sequence[TimelineItem]) -> list[str]:
    """A name for each moment, to link to: of its time and kind, so that it stays while the story grows."""
    met: Counter[str] = Counter()
    ids = []
    for item in items:
        name = f"at-{item.at_ms}-{item.kind}"
        met[name] += 1
        ids.append(name if met[name] == 1 else f"{name}-{met[name]}")
    return ids


def _fits(item: TimelineItem, kind: str, times: TimeRange) -> bool:
    if kind and item.kind != kind:
        return False
    return item.at_ms >= times.since_ms and (not times.until_ms or item.at_ms < times.until_ms)


@router.get("/cases/{case_id}/report.{form}")
async def download_report(case_id: str, form: str, visit: PageReaderDep, story: CaseStoryDep) -> Response:
    """The case as a document, `md` or `json`."""
    if form not in ("md", "json"):
        raise invalid_value_error("form", "must be md or json")
    name = "".join(char for char in case_id if char.isalnum() or char in "-_")[:80]
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    if form == "json":
        document = await story.tell(visit.caller, case_id, render_json)
        return Response(document, media_type="application/json", headers=headers)
    text = await story.tell(visit.caller, case_id, render_markdown)
    return Response(text, media_type="text/markdown; charset=utf-8", headers=headers)


@router.post("/cases/{case_id}/{action}")
async def act_on_case(
    case_id: str,
    action: str,
    request: Request,
    console: ConsoleDep,
    visit: PageReviewerDep,
    cases: CaseServiceDep,
    form: FormDep,
) -> Response:
    """Do what a form of the page says."""
    try:
        case = await _act(cases, visit, case_id, action, form)
    except ProblemError as error:
        if error.problem.status == 404:
            raise
        trouble = f"Nothing was done: {error}."
        return await _case_page(request, console, visit, cases, case_id, trouble=trouble, status=error.problem.status)
    return RedirectResponse(url_with_query(f"/console/cases/{quote(case.case_id, safe='')}", done=action), 303)


async def _act(cases: CaseService, visit: PageRequest, case_id: str, action: str, form: Mapping[str, str]) -> Case:
    caller, note = visit.caller, form.get("note", "").strip()
    match action:
        case "acknowledge":
            return await cases.acknowledge(caller, case_id, note)
        case "assign":
            return await cases.assign(caller, case_id, form.get("owner", ""), note)
        case "notes":
            return await cases.note(caller, case_id, note)
        case "snooze":
            return await cases.snooze(caller, case_id, number_of_form(form, "for_s"), note)
        case "contain":
            valid_s, pin = number_of_form(form, "valid_s"), bool(form.get("pin"))
            return await cases.contain(caller, case_id, note, pin=pin, valid_s=valid_s, revision=_revision(form))
        case "close":
            verdict, release = form.get("verdict", ""), bool(form.get("release"))
            return await cases.close(caller, case_id, verdict, note, release=release, revision=_revision(form))
        case "reopen":
            return await cases.reopen(caller, case_id, note)
        case "merge":
            return await cases.merge(caller, form.get("other", ""), case_id, note, revision=_revision(form))
        case "split":
            agents = _agents_of_form(form, await cases.get(caller, case_id, entries=0))
            return await cases.split(caller, case_id, agents, note, revision=_revision(form))
    raise invalid_value_error("action", "is none that a case knows")


def _revision(form: Mapping[str, str]) -> int | None:
    """Revision of the case that the person saw when the page was made; None = the form does not say."""
    given = form.get("revision", "")
    return int(given[:MAX_REVISION_DIGITS]) if given.isdecimal() else None


def _agents_of_form(form: Mapping[str, str], report: CaseReport) -> list[AgentSelector]:
    """Agents whose boxes are ticked: each is called by its place in the case."""
    ticked = {name.removeprefix("agent-") for name in form if name.startswith("agent-")}
    chosen = [one.agent for one in report.agents if str(one.ordinal) in ticked]
    return [AgentSelector(name.agent_id, name.tenant, name.issuer) for name in chosen]


async def _case_page(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    cases: CaseService,
    case_id: str,
    *,
    said: str = "",
    trouble: str = "",
    status: int = 200,
) -> Response:
    report = await cases.get(visit.caller, case_id, entries=0)
    may_act = SCOPE_FEEDBACK in visit.caller.scopes
    is_open = report.case.status in OPEN_STATUSES
    others = await _others(cases, visit, report) if may_act and is_open else []
    values: dict[str, Any] = {
        "case": report.case,
        "report": report,
        "title": case_title(report.case, report.agents),
        "reason": lead_reason(report.lead),
        "effects": _effects(console, report) if may_act and is_open else [],
        "others": others,
        "may_act": may_act,
        "is_open": is_open,
        "me": visit.caller.recorded_name,
        "why_here": why_here,
        "title_of": case_title,
        "verdicts": VERDICT_CHOICES,
        "snoozes": SNOOZE_CHOICES,
        "periods": PIN_CHOICES,
    }
    return console.render_page(request, "case.html", visit, status, said=said, trouble=trouble, **values)


async def _others(cases: CaseService, visit: PageRequest, report: CaseReport) -> list[ListedCase]:
    """Other cases of the tenant that may become part of this one."""
    search = CaseSearch("unresolved", tenant=report.case.tenant)
    page = await cases.search(visit.caller, search, MAX_MERGE_CHOICES)
    return [one for one in page.items if one.case.case_id != report.case.case_id]


def _effects(console: ConsoleContext, report: CaseReport) -> list[Any]:
    told_to = console.services.get(ContainmentService).informed_actuators
    return containment_effects(report.agents, console.runtime.live_policy.book, told_to)
