"""Commands about agents."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated
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
    print_message,
    write_json,
    write_json_lines,
    write_line,
    write_table,
)


def agents(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    level: Annotated[str | None, typer.Option(help="unknown, low, medium, high or critical")] = None,
    tenant: TenantOption = None,
    prefix: Annotated[str | None, typer.Option(help="beginning of the agent id")] = None,
    limit: Annotated[int, typer.Option(help="most agents to list")] = 50,
    json: JsonLinesOption = False,
) -> None:
    """List agents, the riskiest first."""
    with closing(ServiceClient(url, token)) as service:
        listed = paged_items(service, "/v1/agents", limit, order="risk", level=level, tenant=tenant, prefix=prefix)
        if json:
            write_json_lines(listed)
            return
        rows = list(listed)
    write_table(
        rows,
        {
            "agent_id": "agent",
            "tenant": "tenant",
            "agent_type": "type",
            "risk_level": "level",
            "risk_score": "risk",
            "confidence": "confidence",
            "last_seen_at": "last seen",
        },
    )


def explain(
    agent: Annotated[str, typer.Argument(help="agent id")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    json: JsonOption = False,
) -> None:
    """Say why an agent has the risk it has, and how it got there."""
    path = f"/v1/agents/{quote(agent, safe='')}"
    with closing(ServiceClient(url, token)) as service:
        answer = service.get(f"{path}/risk", tenant=tenant, issuer=issuer)
        baseline = service.find(f"{path}/baseline", tenant=tenant, issuer=issuer)
        history = service.get("/v1/decisions", agent_id=agent, tenant=tenant, issuer=issuer, limit=10)["items"]
    if json:
        write_json({"risk": answer, "baseline": baseline, "decisions": history})
        return
    write_line(f"{answer['agent_id']}  ({answer['tenant']}, {answer['issuer'] or 'no issuer'})")
    write_line(
        f"risk {answer['risk_level']} {answer['risk_score']:.2f}"
        f"{f' (about {concern})' if (concern := answer.get('concern')) else ''}, "
        f"confidence {answer['confidence']:.2f}, "
        f"as of {answer['evaluated_at']}{' (stale)' if answer['stale'] else ''}"
    )
    for note in baseline["notes"] if baseline else ():
        write_line(f"  {note}")
    for reason in answer["reasons"]:
        write_line(f"  - {reason['text']}  [{reason['contribution']:.0%}]")
    for indicator in answer.get("indicators", ()):
        status = indicator["status"].replace("_", " ")
        write_line(f"  {indicator['kind']} {indicator['value']}  [{status}, {indicator['at']}]")
    if answer["counterfactual"]:
        write_line(f"  would be {answer['counterfactual']}")
    policy = answer["token_policy"]
    demands = "".join(f", {text}" for text in ("step-up", "revoke") if policy[text.replace("-", "_")])
    lifetime = f"at most {policy['max_token_lifetime_s']} s" if policy["allow"] else "none"
    write_line(f"policy: new tokens {lifetime}{demands} ({answer['mode']})")
    for point in answer.get("holds_at", ()):
        write_line(f"  {point['by']} {point['name']} ({point['kind']}): {point['text']}")
    if not answer.get("holds_at"):
        write_line("  no hook, gateway or actuator serves its issuer: no server keeps to this")
    for decision in history:
        write_line(
            f"  {decision['decided_at']}  {decision['previous_level']} -> {decision['level']}  "
            f"{decision['reasons'][0]['text'] if decision['reasons'] else decision['cause']}"
        )


def release(
    agent: Annotated[str, typer.Argument(help="agent id")],
    note: Annotated[str, typer.Option(help="why; kept with the decision")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    json: JsonOption = False,
) -> None:
    """Vouch for an agent: its evidence so far is dropped (scope trust.feedback)."""
    path = f"/v1/agents/{quote(agent, safe='')}/release"
    with closing(ServiceClient(url, token)) as service:
        answer = service.post(path, {"note": note}, tenant=tenant, issuer=issuer)
    if json:
        write_json(answer)
        return
    print_message(f"{agent} is being released; `trustwatch explain` shows when it is")
