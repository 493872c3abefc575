"""Commands by which a person steers containment: `approvals`, `pin`, `unpin`, `blast-radius`."""

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
    risk_rank,
)
from ..cli.terminal import (
    JsonLinesOption,
    JsonOption,
    print_message,
    write_json,
    write_json_lines,
    write_line,
    write_table,
)

approvals_app = typer.Typer(
    name="approvals", no_args_is_help=True, help="Approvals: what waits for a person, and the answers."
)

ApprovalArgument = Annotated[str, typer.Argument(help="id of the approval")]
WhyOption = Annotated[str, typer.Option(help="why; kept, and part of the audit event")]
AgentArgument = Annotated[str, typer.Argument(help="agent id")]
HoursOption = Annotated[float, typer.Option(help="how long it holds, hours", min=1 / 60, max=720)]


@approvals_app.command("list")
def list_approvals(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    status: Annotated[
        str | None, typer.Option(help="pending, approved, approved_once, used, rejected, ended or expired")
    ] = "pending",
    tenant: TenantOption = None,
    limit: Annotated[int, typer.Option(help="most approvals to list")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List approvals, newest first; by default those that wait for a person."""
    with closing(ServiceClient(url, token)) as service:
        approvals = paged_items(service, "/v1/approvals", limit, status=status, tenant=tenant)
        if json:
            write_json_lines(approvals)
            return
        rows = list(approvals)
    shown = [{**row, "scopes": " ".join(row["scopes"])} for row in rows]
    write_table(
        shown,
        {
            "intervention_id": "approval",
            "status": "status",
            "agent_id": "agent",
            "tenant": "tenant",
            "level": "level",
            "scopes": "scopes",
            "asked_why": "because",
            "asked_by": "by way of",
            "expires_at": "until",
        },
        prose=("scopes", "asked_why"),
    )


@approvals_app.command("approve")
def approve(
    approval: ApprovalArgument,
    why: WhyOption,
    hours: HoursOption = 1.0,
    trust_path: Annotated[
        bool,
        typer.Option(
            help="let its network, credential and delegation chain count as known in the agent's other calls, too"
        ),
    ] = False,
    one_use: Annotated[bool, typer.Option(help="end it with the first permit that rests on it")] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Let the scopes pass for a while, for this agent alone (scope trust.feedback)."""
    body = {"why": why, "valid_s": hours * 3600, "trust_path": trust_path, "one_use": one_use}
    _send_intervention(ServiceClient(url, token), f"/v1/approvals/{quote(approval, safe='')}/approve", body, json=json)


@approvals_app.command("reject")
def reject(
    approval: ApprovalArgument,
    why: WhyOption,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Refuse; the next request that needs a person asks anew (scope trust.feedback)."""
    _send_intervention(
        ServiceClient(url, token), f"/v1/approvals/{quote(approval, safe='')}/reject", {"why": why}, json=json
    )


@approvals_app.command("withdraw")
def withdraw(
    approval: ApprovalArgument,
    why: WhyOption,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """End an approval before its time (scope trust.feedback)."""
    _send_intervention(
        ServiceClient(url, token), f"/v1/approvals/{quote(approval, safe='')}/withdraw", {"why": why}, json=json
    )


def pin(
    agent: AgentArgument,
    level: Annotated[str, typer.Argument(help="low, medium, high or critical")],
    why: WhyOption,
    hours: HoursOption = 1.0,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    json: JsonOption = False,
) -> None:
    """Fix the level that policy acts on, whatever is measured (scope trust.feedback)."""
    body = {"level": level, "why": why, "valid_s": hours * 3600}
    path = f"/v1/agents/{quote(agent, safe='')}/pin"
    _send_intervention(ServiceClient(url, token), path, body, json=json, tenant=tenant, issuer=issuer)


def unpin(
    agent: AgentArgument,
    why: WhyOption,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    json: JsonOption = False,
) -> None:
    """End a pin: the measured level is acted on again (scope trust.feedback)."""
    path = f"/v1/agents/{quote(agent, safe='')}/unpin"
    _send_intervention(ServiceClient(url, token), path, {"why": why}, json=json, tenant=tenant, issuer=issuer)


def blast_radius(
    agent: AgentArgument,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    days: Annotated[float, typer.Option(help="seen within this many days", min=0.04, max=3650)] = 7.0,
    json: JsonOption = False,
) -> None:
    """Show the agents that an agent delegated to or called, directly or through others; the riskiest first."""
    path = f"/v1/agents/{quote(agent, safe='')}/blast-radius"
    with closing(ServiceClient(url, token)) as service:
        report = service.get(path, tenant=tenant, issuer=issuer, days=days)
    if json:
        write_json(report)
        return
    write_line(f"{report['agent_id']}  {report['risk_level']}")
    write_table(
        sorted(report["agents"], key=lambda agent: (risk_rank(agent["risk_level"]), agent["depth"])),
        {
            "depth": "steps",
            "agent_id": "agent",
            "kind": "by",
            "via": "from",
            "risk_level": "level",
            "last_seen_at": "last seen",
        },
    )
    for principal in report["principals"]:
        write_line(f"acted for {principal['principal_id']}, last {principal['last_seen_at']}")
    if not report["complete"]:
        print_message("more agents were found than shown")


def _send_intervention(
    service: ServiceClient,
    path: str,
    body: dict[str, Any],
    *,
    json: bool,
    tenant: str | None = None,
    issuer: str | None = None,
) -> None:
    """Send a person's order and say what holds from now on."""
    with closing(service):
        result = service.post(path, body, tenant=tenant, issuer=issuer)
    if json:
        write_json(result)
        return
    what = f"level {result['level']}" if result["kind"] == "pin" else "scopes " + " ".join(result["scopes"])
    until = f" until {result['expires_at']}" if result["status"] in ("active", "approved", "approved_once") else ""
    print_message(f"{result['kind']} of {result['agent_id']} ({what}) is {result['status']}{until}")
