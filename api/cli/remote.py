"""Commands that talk to a running service: `ingest`, `agents`, `explain`, `release`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from ...ingest.file_source import FileSource
from .. import clock
from .history_input import MAX_SHOWN_PROBLEMS, input_files
from .terminal import byte_progress, fail, print_message, write_json, write_line, write_table

INGEST_BATCH_RECORDS = 500
INGEST_ATTEMPTS = 30

UrlOption = Annotated[str, typer.Option(envvar="TRUSTWATCH_URL", help="where the service listens")]
TokenOption = Annotated[str, typer.Option(envvar="TRUSTWATCH_TOKEN", help="bearer token (see `trustwatch token`)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
TenantOption = Annotated[str | None, typer.Option(help="tenant of the agent, where it is not the only one")]
IssuerOption = Annotated[str | None, typer.Option(help="issuer of the agent, where its id is not unique")]

DEFAULT_URL = "http://127.0.0.1:8420"


class ServiceClient:
    """A running service.

    Args:
        url: where it listens.
        token: bearer token.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=url, headers=headers, timeout=60.0)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request; every failure ends the command with a message."""
        try:
            response = self.client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise fail(f"{self.client.base_url} does not answer ({error}); is the service running?") from None
        return response

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON of a successful GET."""
        given = {name: value for name, value in parameters.items() if value is not None}
        response = self.request("GET", path, params=given)
        if not response.is_success:
            raise fail(problem_text(response))
        return response.json()


def problem_text(response: httpx.Response) -> str:
    """What a problem document says, in one line."""
    try:
        body = response.json()
        return f"{response.status_code} {body.get('title', '')}: {body.get('detail', '')}"
    except ValueError:
        return f"{response.status_code} {response.text[:200]}"


def ingest(
    files: Annotated[list[Path], typer.Argument(help="JSONL files of events, plain or gzip; - is stdin")],
    record_format: Annotated[
        str | None, typer.Option("--format", help="format of the lines (envoy, keycloak, …); default: as the caller's")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Send events to a running service."""
    service = ServiceClient(url, token)
    counts = Counter(accepted=0, duplicate=0, rejected=0, skipped=0)
    source = FileSource(input_files(files))
    with byte_progress("sending", source.total_bytes) as progress:
        source = FileSource(input_files(files), progress=progress)
        sent = 0
        while (batch := source.poll(INGEST_BATCH_RECORDS, 0.0)) is not None:
            body = b"\n".join(record.payload for record in batch.records)
            _add_counts(counts, _send_batch(service, body, record_format), sent)
            sent += len(batch.records)
    if json:
        write_json(dict(counts))
    else:
        skipped = f", skipped {counts['skipped']}" if counts["skipped"] else ""
        print_message(
            f"accepted {counts['accepted']}, duplicate {counts['duplicate']}, rejected {counts['rejected']}{skipped}"
        )
    if counts["rejected"]:
        raise typer.Exit(1)


def _send_batch(service: ServiceClient, body: bytes, record_format: str | None) -> dict[str, Any]:
    """Send one batch; wait where the service asks to."""
    for _ in range(INGEST_ATTEMPTS):
        response = service.request(
            "POST",
            "/v1/events",
            content=body,
            headers={"content-type": "application/x-ndjson"},
            params={} if record_format is None else {"format": record_format},
        )
        if response.status_code not in (429, 503):
            break
        clock.sleep(min(float(response.headers.get("retry-after", 1)), 30.0))
    answer = response.json() if "json" in response.headers.get("content-type", "") else {}
    if "rejected" not in answer:
        raise fail(problem_text(response))
    return dict(answer)


def _add_counts(counts: Counter[str], answer: dict[str, Any], sent: int) -> None:
    for name in counts:
        counts[name] += answer[name]
    told = counts["rejected"] - answer["rejected"]
    for rejection in answer["rejections"][: max(0, MAX_SHOWN_PROBLEMS - told)]:
        # Records that were skipped have no place in the answer, so lines can not be numbered behind them.
        record = "a record" if answer["skipped"] else f"record {sent + rejection['index'] + 1}"
        print_message(f"{record}: {rejection['reason']} - at `{rejection['path']}`")


def agents(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    level: Annotated[str | None, typer.Option(help="unknown, low, medium, high or critical")] = None,
    tenant: TenantOption = None,
    prefix: Annotated[str | None, typer.Option(help="beginning of the agent id")] = None,
    limit: Annotated[int, typer.Option(help="most agents to list")] = 50,
    json: JsonOption = False,
) -> None:
    """List agents with their risk."""
    service = ServiceClient(url, token)
    rows = []
    for row in paged_items(service, "/v1/agents", limit, level=level, tenant=tenant, prefix=prefix):
        rows.append(row)
    if json:
        for row in rows:
            write_json(row)
        return
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


def paged_items(service: ServiceClient, path: str, limit: int, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Items of a paged list, at most *limit*."""
    cursor = None
    while limit > 0:
        page = service.get(path, limit=min(limit, 500), cursor=cursor, **parameters)
        yield from page["items"]
        limit -= len(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def explain(
    agent: Annotated[str, typer.Argument(help="agent id")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    tenant: TenantOption = None,
    issuer: IssuerOption = None,
    json: JsonOption = False,
) -> None:
    """Say why an agent has the risk it has, and how it got there."""
    service = ServiceClient(url, token)
    answer = service.get(f"/v1/agents/{quote(agent, safe='')}/risk", tenant=tenant, issuer=issuer)
    history = service.get("/v1/decisions", agent_id=agent, tenant=tenant, issuer=issuer, limit=10)["items"]
    if json:
        write_json({"risk": answer, "decisions": history})
        return
    write_line(f"{answer['agent_id']}  ({answer['tenant']}, {answer['issuer'] or 'no issuer'})")
    write_line(
        f"risk {answer['risk_level']} {answer['risk_score']:.2f}, confidence {answer['confidence']:.2f}, "
        f"as of {answer['evaluated_at']}{' (stale)' if answer['stale'] else ''}"
    )
    for reason in answer["reasons"]:
        write_line(f"  - {reason['text']}  [{reason['contribution']:.0%}]")
    if answer["counterfactual"]:
        write_line(f"  would be {answer['counterfactual']}")
    policy = answer["token_policy"]
    demands = "".join(f", {text}" for text in ("step-up", "revoke") if policy[text.replace("-", "_")])
    write_line(
        f"tokens: {'allowed' if policy['allow'] else 'denied'}, at most {policy['max_token_lifetime_s']} s"
        f"{demands} ({answer['mode']})"
    )
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
) -> None:
    """Vouch for an agent: its evidence so far is dropped (scope trust.feedback)."""
    service = ServiceClient(url, token)
    parameters = {name: value for name, value in (("tenant", tenant), ("issuer", issuer)) if value is not None}
    response = service.request(
        "POST", f"/v1/agents/{quote(agent, safe='')}/release", params=parameters, json={"note": note}
    )
    if not response.is_success:
        raise fail(problem_text(response))
    print_message(f"{agent} is being released; `trustwatch explain` shows when it is")
