"""`trustwatch alerts`: list deliveries, and send test alerts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Annotated, Any

import typer

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
from ..cli.terminal import JsonLinesOption, print_message, write_json_lines, write_table

alerts_app = typer.Typer(
    name="alerts", no_args_is_help=True, help="Alerts: their deliveries, and a test of the targets."
)

POLL_EVERY_S = 0.5
NOT_STARTED = {"status": "waiting", "attempts": 0, "why": "no worker has taken it up yet"}

TargetOption = Annotated[str | None, typer.Option(help="name of the target; default: all")]


@alerts_app.command("list")
def list_deliveries(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    target: TargetOption = None,
    status: Annotated[str | None, typer.Option(help="pending, delivered, failed, suppressed or dead")] = None,
    agent: Annotated[str | None, typer.Option(help="alerts about this agent id")] = None,
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    limit: Annotated[int, typer.Option(help="most deliveries to list")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List deliveries, newest first: state, attempts, and why one was held back or not delivered."""
    filters = {"target": target, "status": status, "agent_id": agent, "tenant": tenant, "issuer": issuer}
    with closing(ServiceClient(url, token)) as service:
        _print_deliveries(paged_items(service, "/v1/deliveries", limit, **filters), json=json)


@alerts_app.command()
def test(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    target: TargetOption = None,
    wait: Annotated[float, typer.Option(help="wait so long for the end of the deliveries, s")] = 30.0,
    json: JsonLinesOption = False,
) -> None:
    """Send a test alert through the outbox, as any alert, and show its deliveries (scope trust.admin).

    Ends with status 1 unless every target has taken it.
    """
    with closing(ServiceClient(url, token)) as service:
        rows = _await_deliveries(service, service.post("/v1/alerts/test", {"target": target})["items"], wait)
    _print_deliveries(rows, json=json)
    missed = [row["target"] for row in rows if row["status"] != "delivered"]
    if missed:
        print_message(f"not delivered to {', '.join(missed)}")
        raise typer.Exit(1)


def _await_deliveries(service: ServiceClient, sent: list[dict[str, Any]], wait_s: float) -> list[dict[str, Any]]:
    """Deliveries of the tests, once none waits any more or *wait_s* have passed."""
    for _ in range(max(1, round(wait_s / POLL_EVERY_S))):
        rows = [_find_delivery(service, test) for test in sent]
        if all(row["status"] not in ("waiting", "pending") for row in rows):
            break
        clock.sleep(POLL_EVERY_S)
    return rows


def _find_delivery(service: ServiceClient, test: dict[str, Any]) -> dict[str, Any]:
    deliveries = service.get("/v1/deliveries", key=test["key"])["items"]
    return dict(deliveries[0]) if deliveries else NOT_STARTED | test


def _print_deliveries(rows: Iterable[dict[str, Any]], *, json: bool) -> None:
    if json:
        write_json_lines(rows)
        return
    write_table(
        list(rows),
        {
            "created_at": "at",
            "target": "target",
            "level": "level",
            "subject": "about",
            "status": "status",
            "attempts": "tries",
            "why": "why",
        },
        prose=("subject", "why"),
    )
