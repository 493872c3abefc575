"""`trustwatch alerts test`: a test alert through the outbox, and what became of it."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

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
        for _ in range(max(1, round(wait / POLL_EVERY_S))):
            rows = []
            for sent_test in sent:
                found = service.call("list_deliveries", {"key": sent_test["key"]}).json()["items"]
                rows.append(found[0] if found else NOT_STARTED | sent_test)
            if all(row["status"] not in ("waiting", "pending") for row in rows):
                break
            clock.sleep(POLL_EVERY_S)
    if json:
        write_json_lines(rows)
    else:
        write_table(rows, {name: heading(name) for name in _COLUMNS}, prose=("subject", "why"))
    undelivered = [row["target"] for row in rows if row["status"] != "delivered"]
    if undelivered:
        print_message(f"not delivered to {', '.join(undelivered)}")
        raise typer.Exit(1)
