"""Commands of privacy: `erase`, `export`, `decisions verify`."""

from __future__ import annotations

import base64
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import msgspec
import typer

from .. import clock
from ..cli.remote import DEFAULT_URL, IssuerOption, ServiceClient, TenantOption, TokenOption, UrlOption, problem_text
from ..cli.terminal import JsonOption, fail, print_message, readable, write_json, write_line

decisions_app = typer.Typer(name="decisions", no_args_is_help=True, help="Decisions: is their chain intact?")

POLL_EVERY_S = 0.5
ERASURE_TIMEOUT_S = 600.0
"""For answers that may look through everything that is kept."""
END_STATUSES = ("done", "failed")


@decisions_app.command("verify")
def verify(url: UrlOption = DEFAULT_URL, token: TokenOption = "", json: JsonOption = False) -> None:
    """Say whether the chain of decisions is intact, or where it breaks (scope trust.admin). Exit code 1: it breaks."""
    with closing(ServiceClient(url, token)) as service:
        report = service.get("/v1/decisions/verify")
    if json:
        write_json(report)
    else:
        for head in report["heads"]:
            write_line(f"partition {head['partition']}: {head['sequence']} decisions, head {head['digest']}")
        print_message(
            f"{'intact' if report['intact'] else 'BROKEN'}: {report['checked']} checked, {report['erased']} erased, "
            f"{report['redacted']} without a name, {report['before_chain']} from before the chain"
        )
        for chain_break in report["breaks"]:
            print_message(
                f"  partition {chain_break['partition']}, number {chain_break['sequence']}: {chain_break['what']}"
            )
    if not report["intact"]:
        raise typer.Exit(1)


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
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
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
        given = {name: value for name, value in body.items() if value is not None}
        erasure = service.post("/v1/privacy/erasures", given, timeout_s=ERASURE_TIMEOUT_S)
        erasure = _await_erasure(service, erasure) if wait else erasure
    if out is not None and erasure["proof"]:
        out.write_text(erasure["proof"] + "\n")
    if json:
        write_json(erasure)
    else:
        print_message(
            f"erasure {erasure['erasure_id']} is {erasure['status']}"
            + (f": {erasure['detail']}" if erasure["detail"] else "")
        )
        for target, count in sorted(erasure["counts"].items()):
            write_line(f"{target}: {readable(count)}")
        for remainder in (erasure["document"] or {}).get("remains", []):
            write_line(f"remains: {remainder['what']}; until {remainder['until']}")
    if erasure["status"] == "failed":
        raise typer.Exit(1)


def export(
    agent: Annotated[str, typer.Argument(help="agent id")],
    out: Annotated[Path, typer.Option(help="file to write, a ZIP")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    json: JsonOption = False,
) -> None:
    """Write everything that is known about one agent to a ZIP of JSON lines (scope trust.admin)."""
    given = {name: value for name, value in (("tenant", tenant), ("issuer", issuer)) if value is not None}
    path, part = f"/v1/agents/{quote(agent, safe='')}/export", out.with_name(out.name + ".part")
    with closing(ServiceClient(url, token)) as service:
        try:
            with service.client.stream("GET", path, params=given, timeout=600.0) as response:
                if not response.is_success:
                    response.read()
                    raise fail(problem_text(response))
                with part.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
        except httpx2.HTTPError as error:
            part.unlink(missing_ok=True)
            raise fail(f"{url}: the export broke off ({error})") from None
    part.replace(out)
    with zipfile.ZipFile(out) as archive:
        manifest = msgspec.json.decode(archive.read("manifest.json"))
    if json:
        write_json({"out": str(out), **manifest})
        return
    for name, entry in manifest["files"].items():
        write_line(f"{name}: {readable(entry['lines'])}")
    print_message(f"{out} has everything about {agent}")


def _await_erasure(service: ServiceClient, erasure: dict[str, Any]) -> dict[str, Any]:
    """Wait for its end, and say each step."""
    shown_status = ""
    while erasure["status"] not in END_STATUSES:
        if erasure["status"] != shown_status:
            shown_status = erasure["status"]
            print_message(shown_status)
        clock.sleep(POLL_EVERY_S)
        erasure = dict(service.get(f"/v1/privacy/erasures/{erasure['erasure_id']}"))
    return erasure


def _verify_proof(service: ServiceClient, path: Path, subject: str, *, json: bool) -> None:
    proof = path.read_text().strip()
    claim = {"proof": proof, "subject": subject}
    verify_path = f"/v1/privacy/erasures/{_erasure_id_of(proof)}/verify"
    result = service.post(verify_path, claim, timeout_s=ERASURE_TIMEOUT_S)
    if json:
        write_json(result)
    elif not result["signed"]:
        print_message("the proof was not signed by this service")
    elif not result["same_subject"]:
        print_message("the proof is about somebody else")
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


def _erasure_id_of(proof: str) -> str:
    """The erasure that a proof names; whether it is true, the service says."""
    try:
        body = proof.split(".")[1]
        return str(msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["erasure_id"])
    except (IndexError, ValueError, KeyError, TypeError, msgspec.DecodeError):
        raise fail("the file holds no proof of an erasure") from None
