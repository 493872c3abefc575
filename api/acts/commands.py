"""`trustwatch acts`: who did what, when and why."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
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
from ..cli.terminal import JsonLinesOption, parse_duration, write_json_lines, write_table


def list_acts(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    by: Annotated[str | None, typer.Option(help="who did it, in full; people of the console are console:NAME")] = None,
    kind: Annotated[
        str | None, typer.Option(help="pin, approval, release, case, feedback, erasure, model or stream")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="to which agent")] = None,
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    since: Annotated[str | None, typer.Option(help="24h, 7d, or a UTC time: from then on")] = None,
    until: Annotated[str | None, typer.Option(help="24h, 7d, or a UTC time: before then")] = None,
    limit: Annotated[int, typer.Option(help="most to list")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List what people did: to which agent, case, model or erasure, when and why; newest first."""
    times = {"since": _time_of(since, "--since"), "until": _time_of(until, "--until")}
    given = {"by": by, "kind": kind, "agent_id": agent, "tenant": tenant, "issuer": issuer, **times}
    with closing(ServiceClient(url, token)) as service:
        found = paged_items(service, "/v1/acts", limit, **given)
        if json:
            write_json_lines(found)
            return
        rows = [_table_row(act) for act in found]
    names = {"at": "when", "by": "who", "what": "what", "subject_id": "of", "agent_id": "agent", "tenant": "tenant"}
    write_table(rows, names | {"why": "why"}, prose=("why",))


def _time_of(text: str | None, option: str) -> str | None:
    """A time as the API takes it. Raises BadParameter, which names the *option*."""
    if text is None:
        return None
    if text[-1:] in tuple("smhd"):
        return (clock.utc_now() - timedelta(seconds=parse_duration(text, option))).isoformat()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be 24h, 7d, or a time such as 2026-11-28T18:04", param_hint=option) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


def _table_row(act: dict[str, Any]) -> dict[str, Any]:
    detail = f" {act['detail']}" if act["detail"] else ""
    return {**act, "what": f"{act['kind']}: {act['action']}{detail}"}
