"""`trustwatch feedback`: what a person says of decisions; what it would have changed is shown before it is adopted."""

from __future__ import annotations

import sys
from contextlib import closing
from itertools import takewhile
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .. import clock
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
    fail,
    parse_duration,
    print_message,
    readable,
    stderr_console,
    write_json,
    write_json_lines,
    write_line,
    write_table,
)

feedback_app = typer.Typer(
    name="feedback",
    no_args_is_help=True,
    help="Feedback on decisions: false and true positives, and the rules that follow.",
)

POLL_EVERY_S = 0.3
_MAX_SHOWN_ROWS = 10
_MAX_EARLIER_DECISIONS = 100
_VERDICTS = {"false-positive": "false_positive", "true-positive": "true_positive"}

FeedbackArgument = Annotated[str, typer.Argument(help="id of the feedback")]


def parse_verdict(text: str) -> str:
    """The verdict as the API spells it. Raises BadParameter."""
    verdict = _VERDICTS.get(text.replace("_", "-"))
    if verdict is None:
        raise typer.BadParameter("must be false-positive or true-positive", param_hint="--verdict")
    return verdict


@feedback_app.command("add")
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
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Say that a decision was right or wrong. Before a rule is adopted, a preview shows what it would have changed."""
    kind, expires_in_s = parse_verdict(verdict), parse_duration(expires, "--expires")
    with closing(ServiceClient(url, token)) as service:
        path = f"/v1/decisions/{quote(decision, safe='')}/feedback"
        if kind == "true_positive":
            _print_feedback(service.post(path, {"verdict": kind, "reason": reason}), None, json=json)
            return
        features = None if all_features else feature or _features_of_reasons(service, decision)
        scope = {"kind": "peer_group" if peer_group else "agent", "features": features, "resource": resource}
        body = {
            "verdict": kind,
            "scope": scope,
            "reason": reason,
            "expires_in_s": expires_in_s,
            "accept_unseen": accept_unseen,
        }
        seen = _run_preview(service, path, body)
        if not json:
            _print_preview(seen)
        if not yes and not _confirm_adoption(json=json):
            print_message("nothing was adopted")
            raise typer.Exit(1)
        _print_feedback(service.post(path, body | {"preview_id": seen["preview_id"]}), seen, json=json)


@feedback_app.command("list")
def list_feedback(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    status: Annotated[str | None, typer.Option(help="active, noted, revoked, expired, adopting or revoking")] = None,
    agent: Annotated[str | None, typer.Option(help="about decisions of this agent")] = None,
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    limit: Annotated[int, typer.Option(help="most to list")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List feedback, newest first, with the events that each rule matched."""
    with closing(ServiceClient(url, token)) as service:
        given = {"status": status, "agent_id": agent, "tenant": tenant, "issuer": issuer}
        feedback = paged_items(service, "/v1/feedback", limit, **given)
        if json:
            write_json_lines(feedback)
            return
        rows = list(feedback)
    write_table(
        [_table_row(row) for row in rows],
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
        prose=("about", "features", "reason"),
    )


@feedback_app.command("show")
def show(
    feedback: FeedbackArgument, url: UrlOption = DEFAULT_URL, token: TokenOption = "", json: JsonOption = False
) -> None:
    """Show one feedback, with every step of its life."""
    with closing(ServiceClient(url, token)) as service:
        entry = service.get(f"/v1/feedback/{quote(feedback, safe='')}")
    if json:
        write_json(entry)
        return
    line = _table_row(entry)
    write_line(f"{entry['feedback_id']}  {entry['verdict']}  {entry['status']}")
    write_line(f"about {line['about']}, decision {entry['decision_id']} ({entry['level']})")
    if entry["verdict"] == "false_positive":
        write_line(f"usual: {line['features']}; until {entry['expires_at']}; {entry['events_matched']} events so far")
    for step in entry["steps"]:
        write_line(f"  {step['at']}  {step['action']} by {step['by']}: {step['why']}")


@feedback_app.command("revoke")
def revoke(
    feedback: FeedbackArgument,
    reason: Annotated[str, typer.Option(help="why; kept with it")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """End a rule, or take a label back, at once (scope trust.feedback)."""
    with closing(ServiceClient(url, token)) as service:
        revoked = service.delete(f"/v1/feedback/{quote(feedback, safe='')}", reason=reason)
    _print_feedback(revoked, None, json=json)


def _features_of_reasons(service: ServiceClient, decision: str) -> list[str]:
    """Features that the reasons of a decision name, and those of the ones before it by which the agent rose."""
    from trustwatch.ingest.features.feature_table import FEATURE_NAMES  # no other command of these waits for the engine
    from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
    from trustwatch.scoring.records.agents import ALERTING_LEVELS

    alerting = frozenset(level.label for level in ALERTING_LEVELS)
    marked = service.get(f"/v1/decisions/{quote(decision, safe='')}")
    given = {name: marked[name] for name in ("agent_id", "tenant", "issuer")}
    before = service.get("/v1/decisions", **given, limit=_MAX_EARLIER_DECISIONS)["items"]
    older = [candidate for candidate in before if candidate["decided_at"] < marked["decided_at"]]
    rise = [marked, *takewhile(lambda candidate: candidate["level"] in alerting, older)]
    named = [reason["feature"] for candidate in rise for reason in candidate["reasons"]]
    names = [name for name in dict.fromkeys(named) if name in FEATURE_NAMES and name not in PROTECTED_FEATURES]
    if not names:
        raise fail("the reasons of this decision name no feature: give some with --feature, or --all-features")
    return names


def _run_preview(service: ServiceClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Start a preview and wait until it has ended, with a progress bar."""
    started = service.post(f"{path}/preview", body)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr_console, transient=True, disable=not stderr_console.is_terminal) as progress:
        task = progress.add_task("replaying the last days", total=1.0)
        while True:
            preview: dict[str, Any] = service.get(f"/v1/feedback/previews/{started['preview_id']}")
            progress.update(task, completed=preview["progress"])
            if preview["status"] == "failed":
                raise fail(f"the preview failed: {preview['error']}")
            if preview["status"] == "done":
                return preview
            clock.sleep(POLL_EVERY_S)


def _print_preview(seen: dict[str, Any]) -> None:
    """Print the result of a preview."""
    window = seen["window"]
    if seen["unseen"]:
        print_message(f"no preview: {seen['unseen']}")
    print_message(
        f"{readable(window['events'])} events from {window['from']} to {window['to']} ({window['source']}), "
        f"{readable(seen['events_matched'])} of them matched, of {seen['agents_affected']} agents"
    )
    print_message(f"alerts: {seen['alerts_before']} as it was, {seen['alerts_after']} with the rule")
    for row in seen["still_odd"]:
        print_message(f"  still odd: {row['feature']}, in {row['events']} events that the rule touches")
    for title, name in (("removed", "alerts_removed"), ("DETECTIONS LOST", "detections_lost")):
        rows, count = seen[name], seen[f"{name}_count"]
        for row in rows[:_MAX_SHOWN_ROWS]:
            step = " (a step of the same rise)" if row.get("same_rise") else ""
            mark = " (the decision you speak of)" if row["marked"] else step
            confirmed = " (confirmed attack)" if row.get("why") == "confirmed" else ""
            why = f": {row['reasons'][0]}" if row["reasons"] else ""
            levels = f"{row['level']} would be {row['level_with_rule']}"
            print_message(f"  {title}  {row['time']}  {row['agent_id']}  {levels}{mark}{confirmed}{why}")
        if count > _MAX_SHOWN_ROWS:
            print_message(f"  and {count - _MAX_SHOWN_ROWS} more {title}")


def _confirm_adoption(*, json: bool) -> bool:
    """Ask on a terminal; elsewhere nobody can answer."""
    if json or not sys.stdin.isatty():
        raise fail("nobody is here to ask: add --yes to adopt it")
    return typer.confirm("adopt it?", err=True)


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    scope = row["scope"]
    who = scope["agent_id"] if scope["kind"] == "agent" else f"all {scope['agent_type']} of {scope['tenant']}"
    where = f" on {scope['resource']}" if scope["resource"] is not None else ""
    named = scope["features"]
    plain = row["verdict"] == "true_positive"
    features = "" if plain else "all" if named is None else " ".join(named)
    return {**row, "about": who + where, "features": features, "expires_at": row["expires_at"] or ""}


def _print_feedback(feedback: dict[str, Any], seen: dict[str, Any] | None, *, json: bool) -> None:
    if json:
        write_json(feedback if seen is None else {"feedback": feedback, "preview": seen})
        return
    until = f" until {feedback['expires_at']}" if feedback["status"] in ("active", "adopting") else ""
    print_message(f"feedback {feedback['feedback_id']} is {feedback['status']}{until}")
