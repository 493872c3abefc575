"""Cases: the list, and one of them with its story and what can be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.policy.book import SHADOW, PolicyBook
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import Case, CaseAgent
from trustwatch.scoring.store.case_assignment import tie_words
from trustwatch.scoring.store.database import MAX_PAGE, Page

from ...access.service import ContainmentService
from ...cases.case_reports import OPEN_STATUSES, CaseReport, CaseSearch, ListedCase
from ...cases.report import render_json
from ...cases.service import CaseService
from ...cases.timeline import TIMELINE_KINDS, CaseStory, TimelineItem
from ...decisions.service import CHOICES, parse_time_range
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK
from ...http.problems import ProblemError, invalid_value_error
from ...http.store_executor import BulkWork
from ..lists import list_columns, list_file, optional_time, text_filters
from ..page_dependencies import (
    BACKGROUND_HEADER,
    Cursor,
    FormDep,
    PageReaderDep,
    PageRequest,
    PageReviewerDep,
    Text,
    TimeText,
    number_of_form,
)
from ..rendering import lead_reason, url_with_query

VERDICT_CHOICES: Final = (
    ("true", "True: there was trouble", "Its windows are kept out of training."),
    ("false", "False: there was none", "Also give feedback on its decisions, so that it does not happen again."),
    ("expected", "Expected: it was planned", "A drill, a migration, a test."),
)


def _case_title(case: Case, agents: Sequence[CaseAgent]) -> str:
    named = [one.agent.agent_id for one in agents[:2]]
    more = case.agents - len(named)
    return (", ".join(named) or "no agent") + (f" and {more} more" if more > 0 else "")


def _containment_effect(one: CaseAgent, book: PolicyBook, servers: Sequence[str]) -> str:
    """Describe the effect of acting on an agent as critical; *servers* are notified of it."""
    name = one.agent
    effective = book.effective_policy(*name.identity, one.agent_type)
    policy = effective.table[RiskLevel.CRITICAL]
    if effective.mode == SHADOW:
        return "is recorded and not acted on: its tenant is in shadow mode. Stop it at its authorization server."
    tokens = "no new tokens" if not policy.allow else f"new tokens of at most {policy.max_token_lifetime_s} s"
    revoked = ", and those it has are revoked" if policy.revoke else ""
    if not servers:
        where = "at hooks and gateways; no actuator serves its issuer, so its server is not notified"
    else:
        where = f"at {', '.join(servers)}, and at hooks and gateways"
    return f"gets {tokens}{revoked}: {where}."


MAX_MERGE_CHOICES = 50
MAX_REVISION_DIGITS = 18
DAYS_COUNTED = 30  # Days whose cases the list counts
ANY_STATUS = "any"
"""Any status of cases, in URLs: links omit empty values, and an omitted status means open cases."""
STATUS_CHOICES: Final = (
    ("unresolved", "not closed"),
    *((status, status) for status in ("open", "acknowledged", "contained", "closed")),
)
PIN_CHOICES: Final = ((3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"))
SNOOZE_CHOICES: Final = (*PIN_CHOICES, (0, "end it now"))
CONFIRMATIONS: Final = {
    "acknowledge": "The case is acknowledged, and others see that.",
    "assign": "The owner has changed.",
    "notes": "The note is kept with the case.",
    "snooze": "Saved. Until then alert targets are notified only of a higher level.",
    "contain": "The case is contained. The results are in its timeline below.",
    "close": "The case is closed.",
    "reopen": "The case is open again.",
    "merge": "The other case is part of this one now.",
    "split": "This is the new case.",
}


COLUMNS: Final = {
    "case": "Case",
    "status": "Status",
    "highest": "Highest",
    "reason": "Leading reason",
    "agents": "Agents",
    "owner": "Owner",
    "risen": "Last rise",
    "opened": "Opened",
}
router = APIRouter()
_text_filters = text_filters("owner", "level", "agent", "tenant", "since", "until", status="unresolved")


def _asked_cases(request: Request) -> dict[str, str]:
    """Return the filters in the URL; by default cases that are not closed."""
    asked = _text_filters(request)
    return asked | {"status": ""} if asked["status"] == ANY_STATUS else asked


AskedDep = Annotated[dict[str, str], Depends(_asked_cases)]


def _search_of(asked: dict[str, str], now_ms: int) -> CaseSearch:
    """Raises ProblemError (422): a time is invalid."""
    times = parse_time_range(asked["since"], asked["until"], now_ms)
    agent = AgentSelector(asked["agent"], asked["tenant"] or None) if asked["agent"] else None
    return CaseSearch(asked["status"], asked["owner"], asked["level"], agent, asked["tenant"], *times)


@router.get("/cases")
async def list_cases(visit: PageReaderDep, asked: AskedDep, cursor: Cursor = "") -> Response:
    """Show the cases, last changed first."""
    return await _list_page(visit, asked, cursor)


async def _list_page(
    visit: PageRequest, asked: dict[str, str], cursor: str = "", *, said: str = "", trouble: str = ""
) -> Response:
    page, cases = Page[ListedCase]([], None), visit.get(CaseService)
    try:
        search = _search_of(asked, visit.runtime.now_ms())
        page = await cases.search(visit.caller, search, cursor=cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
    live = BACKGROUND_HEADER in visit.request.headers
    return visit.render(
        "cases.html",
        400 if trouble else 200,
        listing=list_columns(visit.request, COLUMNS, "case"),
        filters=asked,
        choices=CHOICES,
        statuses=STATUS_CHOICES,
        page=page,
        trouble=trouble,
        said=said,
        statistics=None if live else await cases.statistics(visit.caller, DAYS_COUNTED),
        days=DAYS_COUNTED,
        may_act=visit.has(SCOPE_FEEDBACK),
        verdicts=VERDICT_CHOICES,
        first_page=not cursor,
        title_of=_case_title,
    )


@router.get("/cases/file.{form}")
async def download_cases(form: str, visit: PageReaderDep, asked: AskedDep) -> Response:
    cases, search = visit.get(CaseService), _search_of(asked, visit.runtime.now_ms())
    return await list_file(
        form,
        "cases",
        lambda cursor: cases.search(visit.caller, search, MAX_PAGE, cursor),
        _case_row,
        visit.runtime.monotonic,
        visit.get(BulkWork),
        visit.caller,
    )


def _case_row(listed: ListedCase) -> dict[str, Any]:
    case = listed.case
    return {
        "case_id": case.case_id,
        "tenant": case.tenant,
        "status": case.status,
        "verdict": case.verdict or None,
        "highest_level": RiskLevel(case.level).label,
        "leading_reason": lead_reason(listed.lead),
        "agents_count": case.agents,
        "first_agents": [one.agent.agent_id for one in listed.agents],
        "owner": case.owner or None,
        "opened_at": optional_time(case.opened_ms),
        "last_risen_at": optional_time(case.risen_ms),
        "acknowledged_at": optional_time(case.acknowledged_ms),
        "contained_at": optional_time(case.contained_ms),
        "closed_at": optional_time(case.closed_ms),
    }


@router.get("/cases/count")
async def count_open_cases(visit: PageReaderDep) -> Response:
    """Show the number of open cases, for the badge in the menu."""
    counts = await visit.get(CaseService).count_open(visit.caller)
    return visit.render("case_count.html", open=counts.get("open", 0))


@router.post("/cases")
async def act_on_cases(visit: PageReviewerDep, form: FormDep) -> Response:
    """Acknowledge or close the selected cases, and report those that failed."""
    action, note, cases = form.get("action", ""), form.get("note", "").strip(), visit.get(CaseService)
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
        f"Not done: {'; '.join(refused)}." if refused else "" if chosen else "Nothing was done: no case is selected."
    )
    asked = {name: "" for name in ("owner", "level", "agent", "tenant", "since", "until")} | {"status": "unresolved"}
    return await _list_page(visit, asked, said=said, trouble=trouble)


@router.get("/cases/{case_id}")
async def show_case(case_id: str, visit: PageReaderDep, done: Text = "") -> Response:
    return await _case_page(visit, case_id, said=CONFIRMATIONS.get(done, ""))


@router.get("/cases/{case_id}/timeline")
async def show_timeline(
    case_id: str, visit: PageReaderDep, kind: Text = "", since: TimeText = "", until: TimeText = ""
) -> Response:
    """Show the timeline of a case, which takes longest to load, filtered by kind and time."""
    times = parse_time_range(since, until, visit.runtime.now_ms())

    def page(report: CaseReport, items: list[TimelineItem]) -> Response:
        shown = [item for item in items if kind in ("", item.kind) and item.at_ms >= times.since_ms]
        shown = [item for item in shown if not times.until_ms or item.at_ms < times.until_ms]
        met = Counter(one.agent.agent_id for one in report.agents)
        return visit.render(
            "case_timeline.html",
            case=report.case,
            runs=_timeline_runs(shown),
            total=len(items),
            kinds=[(name, sum(item.kind == name for item in items)) for name in TIMELINE_KINDS],
            chosen={"kind": kind, "since": since, "until": until},
            agents={one.agent.agent_id: one.agent for one in report.agents if met[one.agent.agent_id] == 1},
            may_see_alerts=visit.has(SCOPE_ADMIN),
        )

    return await visit.get(CaseStory).tell(visit.caller, case_id, page)


def _timeline_runs(items: Sequence[TimelineItem]) -> list[list[tuple[str, TimelineItem]]]:
    """Return the moments with their anchors, in order. Consecutive events of an agent with the same context are one
    entry.

    An anchor is made of time and kind, so that it stays while the timeline grows.
    """
    met: Counter[str] = Counter()
    moments = []
    for item in items:
        anchor = f"at-{item.at_ms}-{item.kind}"
        met[anchor] += 1
        moments.append((anchor if met[anchor] == 1 else f"{anchor}-{met[anchor]}", item))

    def context_of(moment: tuple[str, TimelineItem]) -> object:
        anchor, item = moment
        return (item.kind, item.agent_id, item.indicators) if item.kind in ("event", "token") else anchor

    return [list(run) for _, run in groupby(moments, context_of)]


@router.get("/cases/{case_id}/report.json")
async def download_report(case_id: str, visit: PageReaderDep) -> Response:
    name = "".join(char for char in case_id if char.isalnum() or char in "-_")[:80]
    document = await visit.get(CaseStory).tell(visit.caller, case_id, render_json)
    headers = {"Content-Disposition": f'attachment; filename="{name}.json"'}
    return Response(document, media_type="application/json", headers=headers)


@router.post("/cases/{case_id}/{action}")
async def act_on_case(case_id: str, action: str, visit: PageReviewerDep, form: FormDep) -> Response:
    try:
        case = await _act(visit, case_id, action, form)
    except ProblemError as error:
        if error.problem.status == 404:
            raise
        return await _case_page(visit, case_id, trouble=f"Nothing was done: {error}.", status=error.problem.status)
    return RedirectResponse(url_with_query(f"/console/cases/{quote(case.case_id, safe='')}", done=action), 303)


async def _act(visit: PageRequest, case_id: str, action: str, form: Mapping[str, str]) -> Case:
    cases, caller, note = visit.get(CaseService), visit.caller, form.get("note", "").strip()
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
            report = await cases.get(caller, case_id, entries=0)
            names = [one.agent for one in report.agents if f"agent-{one.ordinal}" in form]
            agents = [AgentSelector(name.agent_id, name.tenant, name.issuer) for name in names]
            return await cases.split(caller, case_id, agents, note, revision=_revision(form))
    raise invalid_value_error("action", "is not an action of cases")


def _revision(form: Mapping[str, str]) -> int | None:
    """Return the revision of the case that the page showed, or None if it is not in the form."""
    given = form.get("revision", "")
    return int(given[:MAX_REVISION_DIGITS]) if given.isdecimal() else None


async def _case_page(
    visit: PageRequest, case_id: str, *, said: str = "", trouble: str = "", status: int = 200
) -> Response:
    cases, containment = visit.get(CaseService), visit.get(ContainmentService)
    report = await cases.get(visit.caller, case_id, entries=0)
    may_act, is_open = visit.has(SCOPE_FEEDBACK), report.case.status in OPEN_STATUSES
    effects, others = [], []
    if may_act and is_open:
        book = visit.runtime.live_policy.book
        servers_of = containment.informed_actuators
        effects = [(one.agent, _containment_effect(one, book, servers_of(one.agent))) for one in report.agents]
        search = CaseSearch("unresolved", tenant=report.case.tenant)
        found = (await cases.search(visit.caller, search, MAX_MERGE_CHOICES)).items
        others = [one for one in found if one.case.case_id != report.case.case_id]
    return visit.render(
        "case.html",
        status,
        said=said,
        trouble=trouble,
        case=report.case,
        report=report,
        title=_case_title(report.case, report.agents),
        effects=effects,
        others=others,
        may_act=may_act,
        is_open=is_open,
        me=visit.caller.recorded_name,
        tie_words=tie_words,
        title_of=_case_title,
        verdicts=VERDICT_CHOICES,
        snoozes=SNOOZE_CHOICES,
        periods=PIN_CHOICES,
    )
