"""`trustwatch cases`: rises of risk that belong together, the story of each, and what people do with them."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ..cli.remote import (
    DEFAULT_URL,
    IssuerOption,
    ServiceClient,
    TenantOption,
    TokenOption,
    UrlOption,
    paged_items,
)
from ..cli.terminal import (
    JsonLinesOption,
    JsonOption,
    parse_duration,
    print_message,
    write_json,
    write_json_lines,
    write_line,
    write_table,
)

cases_app = typer.Typer(
    name="cases",
    no_args_is_help=True,
    help="Cases: rises of risk that belong together, and what people do with them.",
)

CaseArgument = Annotated[str, typer.Argument(help="id of the case")]
NoteOption = Annotated[str, typer.Option(help="kept with the case")]
WhyOption = Annotated[str, typer.Option("--note", help="why; kept with the case")]


@cases_app.command("list")
def list_cases(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    status: Annotated[
        str, typer.Option(help="open, acknowledged, contained, closed, unresolved (all but closed) or all")
    ] = "unresolved",
    owner: Annotated[str | None, typer.Option(help="whose")] = None,
    level: Annotated[str | None, typer.Option(help="that reached at least medium, high or critical")] = None,
    agent: Annotated[str | None, typer.Option(help="that this agent is in")] = None,
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    limit: Annotated[int, typer.Option(help="most to list")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List cases, last changed first."""
    asked_status = None if status == "all" else status
    filters = {
        "status": asked_status,
        "owner": owner,
        "level": level,
        "agent_id": agent,
        "tenant": tenant,
        "issuer": issuer,
    }
    with closing(ServiceClient(url, token)) as service:
        cases = paged_items(service, "/v1/cases", limit, **filters)
        if json:
            write_json_lines(cases)
            return
        rows = [_table_row(case) for case in cases]
    write_table(
        rows,
        {
            "case_id": "case",
            "status": "status",
            "highest_level": "highest",
            "who": "agents",
            "owner": "owner",
            "last_risen_at": "last rise",
            "reason": "leading reason",
        },
        prose=("who", "reason"),
    )


@cases_app.command("show")
def show(case: CaseArgument, url: UrlOption = DEFAULT_URL, token: TokenOption = "", json: JsonOption = False) -> None:
    """Show a case: its agents, what ties them, and all that happened."""
    with closing(ServiceClient(url, token)) as service:
        found = service.get(_path(case))
        timeline = service.get(_path(case, "timeline"))["items"]
    if json:
        write_json({**found, "timeline": timeline})
        return
    verdict = f" as {found['verdict']}" if found["verdict"] else ""
    owner = found["owner"] or "nobody"
    write_line(f"{found['case_id']}  {found['status']}{verdict}  highest {found['highest_level']}  owner: {owner}")
    if found["snoozed_until"]:
        write_line(f"snoozed until {found['snoozed_until']}")
    for reason in found["reasons"]:
        write_line(f"  because {reason['text']}")
    for agent in found["agents"]:
        tie = "" if agent["tie"] == "first" else f"  ({agent['tie']} {agent['tied_by']})"
        write_line(f"agent {agent['agent_id']}  now {agent['level']}, highest {agent['highest_level']}{tie}")
    for item in timeline:
        who = f"{item['agent_id']}: " if item["agent_id"] else ""
        write_line(f"  {item['at']}  {item['kind']:<9}  {who}{item['text']}")


@cases_app.command("report")
def report(case: CaseArgument, url: UrlOption = DEFAULT_URL, token: TokenOption = "") -> None:
    """Write a case with its story as Markdown, for a ticket."""
    with closing(ServiceClient(url, token)) as service:
        text = service.get_text(_path(case, "report"))
    for line in text.splitlines():
        write_line(line)


@cases_app.command("acknowledge")
def acknowledge(
    case: CaseArgument,
    note: NoteOption = "",
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Say that you look at it; you own it, unless somebody does (scope trust.feedback)."""
    _act(case, "acknowledge", {"note": note}, url, token, json=json)


@cases_app.command("assign")
def assign(
    case: CaseArgument,
    owner: Annotated[str, typer.Option(help="who is to work on it; empty takes it from all")],
    note: NoteOption = "",
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Say who is to work on it (scope trust.feedback)."""
    _act(case, "assign", {"owner": owner, "note": note}, url, token, json=json)


@cases_app.command("note")
def add_note(
    case: CaseArgument,
    note: Annotated[str, typer.Argument(help="kept with the case")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Add a note, also to a case that is closed (scope trust.feedback)."""
    _act(case, "notes", {"note": note}, url, token, json=json)


@cases_app.command("snooze")
def snooze(
    case: CaseArgument,
    note: WhyOption,
    for_: Annotated[str, typer.Option("--for", help="how long: 30m, 4h, 2d; 0s ends it")] = "4h",
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Tell alert targets of it only if it rises, for a while (scope trust.feedback)."""
    _act(case, "snooze", {"for_s": parse_duration(for_, "--for"), "note": note}, url, token, json=json)


@cases_app.command("contain")
def contain(
    case: CaseArgument,
    note: WhyOption,
    pin: Annotated[bool, typer.Option("--pin/--no-pin", help="act on every agent of it as critical")] = True,
    for_: Annotated[str, typer.Option("--for", help="how long the pins hold: 30m, 4h, 2d")] = "1h",
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Act on every agent of it as critical, and mark it as contained (scope trust.feedback)."""
    body = {"note": note, "pin": pin, "valid_s": parse_duration(for_, "--for")}
    _act(case, "contain", body, url, token, json=json)


@cases_app.command("close")
def close(
    case: CaseArgument,
    verdict: Annotated[str, typer.Option(help="true (trouble), false (none) or expected (it was planned)")],
    note: WhyOption,
    release: Annotated[bool, typer.Option("--release", help="drop the evidence against its agents")] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Say what it was (scope trust.feedback)."""
    _act(case, "close", {"verdict": verdict, "note": note, "release": release}, url, token, json=json)


@cases_app.command("reopen")
def reopen(
    case: CaseArgument,
    note: WhyOption,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Look at a closed case again (scope trust.feedback)."""
    _act(case, "reopen", {"note": note}, url, token, json=json)


@cases_app.command("merge")
def merge(
    case: CaseArgument,
    into: Annotated[str, typer.Option(help="id of the case that takes all of this one")],
    note: NoteOption = "",
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Move all of a case into another of the same tenant (scope trust.feedback)."""
    _act(case, "merge", {"into": into, "note": note}, url, token, json=json)


@cases_app.command("split")
def split(
    case: CaseArgument,
    agent: Annotated[list[str], typer.Option(help="agent that leaves it; again for more")],
    note: WhyOption,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Make a case of its own of some agents (scope trust.feedback)."""
    body = {"agents": [{"agent_id": agent_id} for agent_id in agent], "note": note}
    _act(case, "split", body, url, token, json=json)


def _path(case: str, *more: str) -> str:
    return "/".join(("/v1/cases", quote(case, safe=""), *more))


def _act(case: str, action: str, body: dict[str, Any], url: str, token: str, *, json: bool) -> None:
    with closing(ServiceClient(url, token)) as service:
        after = service.post(_path(case, action), body)
    if json:
        write_json(after)
        return
    verdict = f" as {after['verdict']}" if after["verdict"] else ""
    print_message(f"case {after['case_id']} is {after['status']}{verdict}, owner: {after['owner'] or 'nobody'}")


def _table_row(case: dict[str, Any]) -> dict[str, Any]:
    named = [agent["agent_id"] for agent in case["agents"]]
    more = case["agents_count"] - len(named)
    who = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    return {**case, "who": who, "owner": case["owner"] or "", "reason": case["reason"] or ""}
