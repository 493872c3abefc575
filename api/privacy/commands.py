"""`trustwatch erase`: order an erasure and wait for its proof, or verify a proof."""

from __future__ import annotations

import base64
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from .. import clock
from ..cli.service_commands import DEFAULT_URL, ServiceClient, TokenOption, UrlOption
from ..cli.terminal import JsonOption, fail, print_message, readable, write_json, write_line

POLL_EVERY_S = 0.5
ERASURE_TIMEOUT_S = 600.0  # For answers that may look through everything that is kept


def erase(
    agent: Annotated[str | None, typer.Option(help="id of the agent to erase")] = None,
    principal: Annotated[str | None, typer.Option(help="id of the principal to erase")] = None,
    reason: Annotated[str, typer.Option(help="why; part of the proof")] = "",
    out: Annotated[Path | None, typer.Option(help="file for the proof")] = None,
    check: Annotated[
        Path | None, typer.Option("--verify", help="file of a proof: look whether anything of its subject is left")
    ] = None,
    wait: Annotated[bool, typer.Option(help="wait until it is done")] = True,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: Annotated[str | None, typer.Option(help="defaults to the caller's only tenant")] = None,
    issuer: Annotated[str | None, typer.Option(help="issuer of the agent; defaults to the caller's only one")] = None,
    json: JsonOption = False,
) -> None:
    """Erase an agent or a principal everywhere, with a signed proof; or verify a proof (scope trust.admin)."""
    if (agent is None) == (principal is None):
        raise typer.BadParameter("name --agent or --principal, one of them")
    with closing(ServiceClient(url, token)) as service:
        if check is not None:
            _verify_proof(service, check, agent or principal or "", json=json)
            return
        if not reason:
            raise typer.BadParameter("--reason is missing")
        body = {"agent": agent, "principal": principal, "tenant": tenant, "issuer": issuer, "reason": reason}
        erasure = service.call("order_erasure", body, timeout_s=ERASURE_TIMEOUT_S).json()
        shown_status = ""
        while wait and erasure["status"] not in ("done", "failed"):
            if erasure["status"] != shown_status:
                shown_status = erasure["status"]
                print_message(shown_status)
            clock.sleep(POLL_EVERY_S)
            erasure = service.call("get_erasure", erasure).json()
    if out is not None and erasure["proof"]:
        out.write_text(erasure["proof"] + "\n")
    _print_erasure(erasure, json=json)
    if erasure["status"] == "failed":
        raise typer.Exit(1)


def _print_erasure(erasure: dict[str, Any], *, json: bool) -> None:
    if json:
        write_json(erasure)
        return
    detail = f": {erasure['detail']}" if erasure["detail"] else ""
    print_message(f"erasure {erasure['erasure_id']} is {erasure['status']}{detail}")
    for target, count in sorted(erasure["counts"].items()):
        write_line(f"{target}: {readable(count)}")
    for remainder in (erasure["document"] or {}).get("remains", []):
        write_line(f"remains: {remainder['what']}; until {remainder['until']}")


def _verify_proof(service: ServiceClient, path: Path, subject: str, *, json: bool) -> None:
    proof = path.read_text().strip()
    try:  # the service checks whether it is valid
        body = proof.split(".")[1]
        erasure_id = str(msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["erasure_id"])
    except (IndexError, ValueError, KeyError, TypeError, msgspec.DecodeError):
        raise fail("the file holds no proof of an erasure") from None
    claim = {"erasure_id": erasure_id, "proof": proof, "subject": subject}
    result = service.call("verify_proof", claim, timeout_s=ERASURE_TIMEOUT_S).json()
    if json:
        write_json(result)
    elif not result["signed"]:
        print_message("the proof was not signed by this service")
    elif not result["same_subject"]:
        print_message("the proof is about another subject")
    elif result["nothing_left"]:
        print_message("nothing is left" + (", of what was looked at" if result.get("not_looked_at") else ""))
    else:
        print_message(
            "still found: " + ", ".join(f"{target} {count}" for target, count in sorted(result["left"].items()))
        )
    for target in () if json else result.get("not_looked_at", ()):  # a service of an older version does not say
        write_line(f"not looked at: {target}")
    if not result["nothing_left"]:
        raise typer.Exit(1)
