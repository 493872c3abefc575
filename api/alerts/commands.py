"""`trustwatch alerts test`: a test alert through the outbox, and what became of it."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer

from .. import clock
from ..cli.service_commands import DEFAULT_URL, ServiceClient, TokenOption, UrlOption
from ..cli.terminal import JsonLinesOption, heading, print_message, write_json_lines, write_table

POLL_EVERY_S = 0.5
NOT_STARTED = {"status": "waiting", "attempts": 0, "why": "no worker has taken it up yet"}
_COLUMNS = ("created_at", "target", "level", "subject", "status", "attempts", "why")


def test(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    target: Annotated[str | None, typer.Option(help="name of the target; default: all")] = None,
    wait: Annotated[float, typer.Option(help="wait so long for the end of the deliveries, s")] = 30.0,
    json: JsonLinesOption = False,
) -> None:
    """Send a test alert through the outbox, as any alert, and show its deliveries (scope trust.admin).

    Ends with status 1 unless every target has taken it.
    """
    with closing(ServiceClient(url, token)) as service:
        sent = service.call("send_test_alert", {"target": target}).json()["items"]
        rows = _await_deliveries(service, sent, wait)
    if json:
        write_json_lines(rows)
    else:
        write_table(rows, {name: heading(name) for name in _COLUMNS}, prose=("subject", "why"))
    missed = [row["target"] for row in rows if row["status"] != "delivered"]
    if missed:
        print_message(f"not delivered to {', '.join(missed)}")
        raise typer.Exit(1)


def _await_deliveries(service: ServiceClient, sent: list[dict[str, Any]], wait_s: float) -> list[dict[str, Any]]:
    """Return the deliveries of the tests, once none is waiting or *wait_s* have passed."""
    for _ in range(max(1, round(wait_s / POLL_EVERY_S))):
        rows = [_find_delivery(service, test) for test in sent]
        if all(row["status"] not in ("waiting", "pending") for row in rows):
            break
        clock.sleep(POLL_EVERY_S)
    return rows


def _find_delivery(service: ServiceClient, test: dict[str, Any]) -> dict[str, Any]:
    deliveries = service.call("list_deliveries", {"key": test["key"]}).json()["items"]
    return dict(deliveries[0]) if deliveries else NOT_STARTED | test
