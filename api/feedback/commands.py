"""`trustwatch feedback add`: a verdict on a decision; what it would have changed is shown before it is adopted."""

from __future__ import annotations

import sys
from contextlib import closing
from itertools import takewhile
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .. import clock
from ..cli.service_commands import DEFAULT_URL, ServiceClient, TokenOption, UrlOption
from ..cli.terminal import JsonOption, fail, parse_duration, print_message, readable, stderr_console, write_json

POLL_EVERY_S = 0.3
_MAX_SHOWN_ROWS = 10
_MAX_EARLIER_DECISIONS = 100


def add(
    decision: Annotated[str, typer.Argument(help="id of the decision (see `trustwatch explain AGENT --json`)")],
    verdict: Annotated[str, typer.Option(help="false-positive or true-positive")],
    reason: Annotated[str, typer.Option(help="reason; it is stored, and part of the audit event")],
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
    kind, expires_in_s = verdict.replace("-", "_"), parse_duration(expires, "--expires")
    if kind not in ("false_positive", "true_positive"):
        raise typer.BadParameter("must be false-positive or true-positive", param_hint="--verdict")
    with closing(ServiceClient(url, token)) as service:
        draft: dict[str, Any] = {"decision_id": decision, "verdict": kind, "reason": reason}
        if kind == "true_positive":
            _print_feedback(service.call("adopt_feedback", draft).json(), None, json=json)
            return
        features = None if all_features else feature or _features_of_reasons(service, decision)
        scope = {"kind": "peer_group" if peer_group else "agent", "features": features, "resource": resource}
        draft |= {"scope": scope, "expires_in_s": expires_in_s, "accept_unseen": accept_unseen}
        seen = _run_preview(service, draft)
        if not json:
            _print_preview(seen)
        if not yes and (json or not sys.stdin.isatty()):
            raise fail("the command does not run at a terminal: add --yes to adopt it")
        if not yes and not typer.confirm("adopt it?", err=True):
            print_message("nothing was adopted")
            raise typer.Exit(1)
        adopted = service.call("adopt_feedback", draft | {"preview_id": seen["preview_id"]}).json()
        _print_feedback(adopted, seen, json=json)


def _features_of_reasons(service: ServiceClient, decision: str) -> list[str]:
    """Features that the reasons of a decision name, and those of the ones before it by which the agent rose."""
    from trustwatch.ingest.features.feature_table import FEATURE_NAMES  # no other command of these waits for the engine
    from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
    from trustwatch.scoring.records.agents import ALERTING_LEVELS

    alerting = frozenset(level.label for level in ALERTING_LEVELS)
    marked = service.call("get_decision", {"decision_id": decision}).json()
    given = {name: marked[name] for name in ("agent_id", "tenant", "issuer")}
    before = service.call("list_decisions", given | {"limit": _MAX_EARLIER_DECISIONS}).json()["items"]
    older = [candidate for candidate in before if candidate["decided_at"] < marked["decided_at"]]
    rise = [marked, *takewhile(lambda candidate: candidate["level"] in alerting, older)]
    named = [reason["feature"] for candidate in rise for reason in candidate["reasons"]]
    names = [name for name in dict.fromkeys(named) if name in FEATURE_NAMES and name not in PROTECTED_FEATURES]
    if not names:
        raise fail("the reasons of this decision name no feature: give some with --feature, or --all-features")
    return names


def _run_preview(service: ServiceClient, draft: dict[str, Any]) -> dict[str, Any]:
    started = service.call("start_feedback_preview", draft).json()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr_console, transient=True, disable=not stderr_console.is_terminal) as progress:
        task = progress.add_task("replaying the last days", total=1.0)
        while True:
            preview: dict[str, Any] = service.call("get_feedback_preview", started).json()
            progress.update(task, completed=preview["progress"])
            if preview["status"] == "failed":
                raise fail(f"the preview failed: {preview['error']}")
            if preview["status"] == "done":
                return preview
            clock.sleep(POLL_EVERY_S)


def _print_preview(seen: dict[str, Any]) -> None:
    window = seen["window"]
    if seen["unseen"]:
        print_message(f"no preview: {seen['unseen']}")
    print_message(
        f"{readable(window['events'])} events from {window['from']} to {window['to']} ({window['source']}), "
        f"{readable(seen['events_matched'])} of them matched, of {seen['agents_affected']} agents"
    )
    print_message(f"alerts: {seen['alerts_before']} as it was, {seen['alerts_after']} with the rule")
    for row in seen["still_odd"]:
        print_message(f"  still anomalous: {row['feature']}, in {row['events']} events that the rule touches")
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


def _print_feedback(feedback: dict[str, Any], seen: dict[str, Any] | None, *, json: bool) -> None:
    if json:
        write_json(feedback if seen is None else {"feedback": feedback, "preview": seen})
        return
    until = f" until {feedback['expires_at']}" if feedback["status"] in ("active", "adopting") else ""
    print_message(f"feedback {feedback['feedback_id']} is {feedback['status']}{until}")
