"""`trustwatch feedback`: what a person says of decisions; what it would have changed is shown before it is adopted."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from itertools import takewhile
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ...ingest.features.table import NAMES
from ...scoring.feedback.rules import PROTECTED
from .. import clock
from .console import emit, errors, fail, say, table
from .remote import LOCAL, Issuer, Json, Service, Tenant, Token, Url, pages, problem

app = typer.Typer(name="feedback", no_args_is_help=True, help="What people say of decisions, and what follows from it.")

POLL_S = 0.3
_SHOWN = 10
_LOOKED_BACK = 100
_RAISED = ("medium", "high", "critical")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_VERDICTS = {"false-positive": "false_positive", "true-positive": "true_positive"}

Id = Annotated[str, typer.Argument(help="id of the feedback")]


def seconds_of(text: str) -> int:
    """Seconds of a time such as `14d`, `12h`, `30m`, `90s`. Raises BadParameter.

    >>> seconds_of("1.5h")
    5400
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter("must be a number and s, m, h or d, such as 14d", param_hint="--expires")
    return round(float(found[1]) * _UNITS[found[2]])


def verdict_of(text: str) -> str:
    """The verdict as the API spells it. Raises BadParameter."""
    verdict = _VERDICTS.get(text.replace("_", "-"))
    if verdict is None:
        raise typer.BadParameter("must be false-positive or true-positive", param_hint="--verdict")
    return verdict


@app.command("add")
def add(
    decision: Annotated[str, typer.Argument(help="id of the decision (see `trustwatch explain AGENT --json`)")],
    verdict: Annotated[str, typer.Option(help="false-positive or true-positive")],
    reason: Annotated[str, typer.Option(help="why; kept, and part of the audit event")],
    peer_group: Annotated[
        bool, typer.Option("--peer-group/--agent", help="for all agents of its type, or for this agent alone")
    ] = False,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            help="feature or code of a reason that counts as usual; again for more; default: all that "
            "the reasons of the agent's rise name"
        ),
    ] = None,
    all_features: Annotated[bool, typer.Option("--all-features", help="all but hard signals; for hours only")] = False,
    resource: Annotated[str | None, typer.Option(help="only in events that name this target or resource")] = None,
    expires: Annotated[str, typer.Option(help="how long the rule holds: 14d, 12h, …")] = "7d",
    yes: Annotated[bool, typer.Option("--yes", help="adopt without asking, once the preview has ended")] = False,
    accept_unseen: Annotated[
        bool, typer.Option("--accept-unseen", help="adopt even if there is no history to preview it on")
    ] = False,
    url: Url = LOCAL,
    token: Token = "",
    json: Json = False,
) -> None:
    """Say of a decision that it was right or wrong; a rule is shown at work on the last days before it is adopted."""
    kind, wanted = verdict_of(verdict), seconds_of(expires)
    with closing(Service(url, token)) as service:
        path = f"/v1/decisions/{quote(decision, safe='')}/feedback"
        if kind == "true_positive":
            _tell(_sent(service, path, {"verdict": kind, "reason": reason}), None, json=json)
            return
        features = None if all_features else feature or _of_reasons(service, decision)
        scope = {"kind": "peer_group" if peer_group else "agent", "features": features, "resource": resource}
        body = {
            "verdict": kind,
            "scope": scope,
            "reason": reason,
            "expires_in_s": wanted,
            "accept_unseen": accept_unseen,
        }
        seen = _preview(service, path, body)
        if not json:
            _show(seen)
        if not yes and not _agreed(json=json):
            say("nothing was adopted")
            raise typer.Exit(1)
        _tell(_sent(service, path, body | {"preview_id": seen["preview_id"]}), seen, json=json)


@app.command("list")
def list_feedback(
    url: Url = LOCAL,
    token: Token = "",
    status: Annotated[str | None, typer.Option(help="active, noted, revoked, expired, adopting or revoking")] = None,
    agent: Annotated[str | None, typer.Option(help="about decisions of this agent")] = None,
    tenant: Tenant = None,
    issuer: Issuer = None,
    limit: Annotated[int, typer.Option(help="most to list")] = 50,
    json: Json = False,
) -> None:
    """List what was said, newest first, with what each rule did."""
    with closing(Service(url, token)) as service:
        given = {"status": status, "agent_id": agent, "tenant": tenant, "issuer": issuer}
        rows = list(pages(service, "/v1/feedback", limit, **given))
    if json:
        for row in rows:
            emit(row)
        return
    table(
        [_line(row) for row in rows],
        {
            "feedback_id": "feedback",
            "verdict": "verdict",
            "status": "status",
            "about": "about",
            "features": "features",
            "events_matched": "events",
            "author": "by",
            "expires_at": "until",
            "reason": "why",
        },
    )


@app.command("show")
def show(feedback: Id, url: Url = LOCAL, token: Token = "", json: Json = False) -> None:
    """Show one, with every step of its life."""
    with closing(Service(url, token)) as service:
        found = service.get(f"/v1/feedback/{quote(feedback, safe='')}")
    if json:
        emit(found)
        return
    line = _line(found)
    write = sys.stdout.write
    write(f"{found['feedback_id']}  {found['verdict']}  {found['status']}\n")
    write(f"about {line['about']}, decision {found['decision_id']} ({found['level']})\n")
    if found["verdict"] == "false_positive":
        write(f"usual: {line['features']}; until {found['expires_at']}; {found['events_matched']} events so far\n")
    for step in found["steps"]:
        write(f"  {step['at']}  {step['action']} by {step['by']}: {step['why']}\n")


@app.command("revoke")
def revoke(
    feedback: Id,
    reason: Annotated[str, typer.Option(help="why; kept with it")],
    url: Url = LOCAL,
    token: Token = "",
    json: Json = False,
) -> None:
    """End a rule, or take a label back, at once (scope trust.feedback)."""
    with closing(Service(url, token)) as service:
        path = f"/v1/feedback/{quote(feedback, safe='')}"
        response = service.request("DELETE", path, params={"reason": reason})
    if not response.is_success:
        raise fail(problem(response))
    _tell(response.json(), None, json=json)


def _of_reasons(service: Service, decision: str) -> list[str]:
    """Features that the reasons of a decision name, and those of the ones before it by which the agent rose."""
    marked = service.get(f"/v1/decisions/{quote(decision, safe='')}")
    given = {name: marked[name] for name in ("agent_id", "tenant", "issuer")}
    before = service.get("/v1/decisions", **given, limit=_LOOKED_BACK)["items"]
    older = [one for one in before if one["decided_at"] < marked["decided_at"]]
    rise = [marked, *takewhile(lambda one: one["level"] in _RAISED, older)]
    named = [reason["feature"] for one in rise for reason in one["reasons"]]
    wanted = [name for name in dict.fromkeys(named) if name in NAMES and name not in PROTECTED]
    if not wanted:
        raise fail("the reasons of this decision name no feature: give some with --feature, or --all-features")
    return wanted


def _sent(service: Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = service.request("POST", path, json=body)
    if not response.is_success:
        raise fail(problem(response))
    return dict(response.json())


def _preview(service: Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Start a preview and wait until it has ended, with a progress bar."""
    started = _sent(service, f"{path}/preview", body)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("replaying the last days", total=1.0)
        while True:
            found: dict[str, Any] = service.get(f"/v1/feedback/previews/{started['preview_id']}")
            progress.update(task, completed=found["progress"])
            if found["status"] == "failed":
                raise fail(f"the preview failed: {found['error']}")
            if found["status"] == "done":
                return found
            clock.sleep(POLL_S)


def _show(seen: dict[str, Any]) -> None:
    """What a preview found."""
    window = seen["window"]
    if seen["unseen"]:
        say(f"no preview: {seen['unseen']}")
    say(
        f"{window['events']} events from {window['from']} to {window['to']} ({window['source']}), "
        f"{seen['events_matched']} of them matched, of {seen['agents_affected']} agents"
    )
    say(f"alerts: {seen['alerts_before']} as it was, {seen['alerts_after']} with the rule")
    for row in seen["still_odd"]:
        say(f"  still odd: {row['feature']}, in {row['events']} events that the rule touches")
    for title, name in (("removed", "alerts_removed"), ("DETECTIONS LOST", "detections_lost")):
        rows, count = seen[name], seen[f"{name}_count"]
        for row in rows[:_SHOWN]:
            step = " (a step of the same rise)" if row.get("same_rise") else ""
            mark = " (the decision you speak of)" if row["marked"] else step
            confirmed = " (confirmed attack)" if row.get("why") == "confirmed" else ""
            why = f": {row['reasons'][0]}" if row["reasons"] else ""
            levels = f"{row['level']} would be {row['level_with_rule']}"
            say(f"  {title}  {row['time']}  {row['agent_id']}  {levels}{mark}{confirmed}{why}")
        if count > _SHOWN:
            say(f"  and {count - _SHOWN} more {title}")


def _agreed(*, json: bool) -> bool:
    """Ask on a terminal; elsewhere nobody can answer."""
    if json or not sys.stdin.isatty():
        raise fail("nobody is here to ask: add --yes to adopt it")
    return typer.confirm("adopt it?", err=True)


def _line(row: dict[str, Any]) -> dict[str, Any]:
    scope = row["scope"]
    who = scope["agent_id"] if scope["kind"] == "agent" else f"all {scope['agent_type']} of {scope['tenant']}"
    where = f" on {scope['resource']}" if scope["resource"] is not None else ""
    named = scope["features"]
    plain = row["verdict"] == "true_positive"
    features = "" if plain else "all" if named is None else " ".join(named)
    return {**row, "about": who + where, "features": features, "expires_at": row["expires_at"] or ""}


def _tell(made: dict[str, Any], seen: dict[str, Any] | None, *, json: bool) -> None:
    if json:
        emit(made if seen is None else {"feedback": made, "preview": seen})
        return
    until = f" until {made['expires_at']}" if made["status"] in ("active", "adopting") else ""
    say(f"feedback {made['feedback_id']} is {made['status']}{until}")
