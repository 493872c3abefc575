"""`trustwatch models`: versions, their figures in shadow, drift, alert budget; orders to train, promote, roll back."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any
from urllib.parse import quote

import typer

from trustwatch.ingest.printable_text import number_text

from ..cli.remote import DEFAULT_URL, ServiceClient, TenantOption, TokenOption, UrlOption, paged_items
from ..cli.terminal import (
    JsonLinesOption,
    JsonOption,
    print_message,
    readable,
    write_json,
    write_json_lines,
    write_line,
    write_table,
)

models_app = typer.Typer(
    name="models", no_args_is_help=True, help="Models: versions, shadow, promotion, drift, budget."
)

WhyOption = Annotated[str, typer.Option(help="why; kept in the history")]
DaysOption = Annotated[int, typer.Option(help="days up to today")]


@models_app.command("list")
def list_models(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    limit: Annotated[int, typer.Option(help="most versions")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List versions, newest first."""
    with closing(ServiceClient(url, token)) as service:
        found = paged_items(service, "/v1/models", limit)
        if json:
            write_json_lines(found)
            return
        rows = list(found)
        learning = service.get("/v1/models?limit=1").get("learning")  # a service of before says nothing of it
    if learning:
        print_message(learning)
    shown = [
        {
            **row,
            "in_force": "*" if row["in_force"] else "",
            "events": row["trained"].get("events", ""),
            "agent_days": row["figures"].get("agent_days", ""),
        }
        for row in rows
    ]
    write_table(
        shown,
        {
            "in_force": "",
            "version": "version",
            "status": "status",
            "created_at": "trained",
            "events": "events",
            "agent_days": "agent-days in shadow",
        },
    )


@models_app.command()
def show(
    version: Annotated[str, typer.Argument(help="name of the version")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Show one version: training, shadow against the champion, whether it may be promoted, history."""
    with closing(ServiceClient(url, token)) as service:
        detail = service.get(f"/v1/models/{quote(version, safe='')}")
    if json:
        write_json(detail)
        return
    force = ", in force" if detail["in_force"] else ""
    write_line(f"{detail['version']}  {detail['status']}{force}  (digest {detail['digest'][:12]})")
    trained = (
        f", {name} {readable(value)}" for name, value in detail["trained"].items() if isinstance(value, int | str)
    )
    write_line(f"learned from {detail['window']['from_at']} to {detail['window']['to_at']}{''.join(trained)}")
    _print_figures(detail["figures"])
    if detail["judgement"] is not None:
        for text in detail["judgement"]["gains"]:
            write_line(f"  for it: {text}")
        for text in detail["judgement"]["reasons"]:
            write_line(f"  against it: {text}")
    for line in detail["history"]:
        write_line(f"  {line['at']}  {line['act']} by {line['by']}: {line['why']}")


def _print_figures(figures: dict[str, Any]) -> None:
    if not figures:
        return
    write_line(f"in shadow over {readable(figures['events'])} events, {readable(figures['agent_days'])} agent-days:")
    for name in ("champion", "challenger"):
        group_figures = figures[name]
        rates = ", ".join(f"{level} {number_text(rate)}" for level, rate in group_figures["per_1000"].items())
        delay = "" if group_figures["delay_s"] is None else f", after {group_figures['delay_s']:.0f} s"
        write_line(
            f"  {name} {group_figures['version']}: alerts per 1,000 agent-days {rates}; "
            f"detects {group_figures['detected']} of {figures['labels']['attacks']} labelled{delay}"
        )


@models_app.command()
def train(url: UrlOption = DEFAULT_URL, token: TokenOption = "", why: WhyOption = "", json: JsonOption = False) -> None:
    """Ask the keeper to train a new version now (scope trust.admin)."""
    done = "a training is ordered; `trustwatch models list` shows the version when it is done"
    _give_order(url, token, "/v1/models/train", {"why": why}, done, json=json)


@models_app.command()
def promote(
    version: Annotated[str, typer.Argument(help="name of the version")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    why: WhyOption = "",
    force: Annotated[bool, typer.Option("--force", help="overrule the figures; needs --why")] = False,
    json: JsonOption = False,
) -> None:
    """Put a version in force (scope trust.admin)."""
    path, body = f"/v1/models/{quote(version, safe='')}/promote", {"why": why, "force": force}
    done = "{version} comes into force with the next records; `trustwatch models list` marks it then"
    _give_order(url, token, path, body, done, json=json)


@models_app.command()
def rollback(
    url: UrlOption = DEFAULT_URL, token: TokenOption = "", why: WhyOption = "", json: JsonOption = False
) -> None:
    """Go back to the version that was in force before (scope trust.admin)."""
    done = "{version} comes back into force with the next records"
    _give_order(url, token, "/v1/models/rollback", {"why": why}, done, json=json)


def _give_order(url: str, token: str, path: str, body: dict[str, Any], done: str, *, json: bool) -> None:
    """Send an order, and say what follows: *done*, filled in from the answer."""
    with closing(ServiceClient(url, token)) as service:
        answer = service.post(path, body)
    if json:
        write_json(answer)
    else:
        print_message(done.format(**answer))


@models_app.command()
def drift(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    days: DaysOption = 30,
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """Show drift of features and scores by day and peer group."""
    with closing(ServiceClient(url, token)) as service:
        page = service.get("/v1/models/drift", days=days, tenant=tenant)
    if json:
        write_json(page)
        return
    shown = [
        {
            **row,
            "scores": "" if row["scores"] is None else f"{row['scores']:.3f}",
            "most": ", ".join(f"{name} {value:.2f}" for name, value in list(row["features"].items())[:3]),
            "drifted": ", ".join(row["drifted"]) or ("" if row["judged"] else "(not judged)"),
        }
        for row in page["items"]
    ]
    write_table(
        shown,
        {
            "day": "day",
            "tenant": "tenant",
            "agent_type": "type",
            "events": "events",
            "scores": "scores",
            "most": "features, largest first",
            "drifted": "drifted",
        },
        prose=("most", "drifted"),
    )


@models_app.command()
def budget(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    days: DaysOption = 30,
    level: Annotated[str, typer.Option(help="medium, high or critical")] = "medium",
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """Show the false-alert budget as a control chart: expected and observed alerts by day and peer group."""
    with closing(ServiceClient(url, token)) as service:
        page = service.get("/v1/models/budget", days=days, level=level, tenant=tenant)
    if json:
        write_json(page)
        return
    shown = [
        {
            **row,
            "expected": f"{row['expected']:.2f}",
            "agent_days": f"{readable(row['agent_days'])}{'~' if row['estimated'] else ''}",
            "flag": "beyond" if row["beyond"] else "run beyond" if row["run_beyond"] else "",
        }
        for row in page["items"]
    ]
    write_table(
        shown,
        {
            "day": "day",
            "tenant": "tenant",
            "agent_type": "type",
            "agent_days": "agent-days",
            "expected": "expected",
            "observed": "observed",
            "limit": "limit",
            "false_positive": "false",
            "true_positive": "true",
            "flag": "",
        },
    )
