"""The command that sends events."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ...ingest.file_source import FileSource
from ...scoring.delivery.retry_after import parse_retry_after
from .. import clock
from ..cli.history_input import MAX_SHOWN_PROBLEMS, input_files
from ..cli.remote import DEFAULT_URL, ServiceClient, TokenOption, UrlOption, problem_text
from ..cli.terminal import JsonOption, byte_progress, fail, print_message, write_json

INGEST_BATCH_RECORDS = 500

INGEST_ATTEMPTS = 30
DEFAULT_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
"""Pauses between attempts, s: where the service does not say how long, and at most."""


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
        pause_s = parse_retry_after(response.headers.get("retry-after"), clock.now_ms())
        clock.sleep(min(DEFAULT_PAUSE_S if pause_s is None else pause_s, MAX_PAUSE_S))
    answer = response.json() if "json" in response.headers.get("content-type", "") else {}
    if "rejected" not in answer:
        raise fail(problem_text(response))
    return dict(answer)


def _add_counts(counts: Counter[str], answer: dict[str, Any], sent: int) -> None:
    for name in counts:
        counts[name] += answer[name]
    shown = counts["rejected"] - answer["rejected"]
    for rejection in answer["rejections"][: max(0, MAX_SHOWN_PROBLEMS - shown)]:
        # Records that were skipped have no place in the answer, so lines can not be numbered behind them.
        record = "a record" if answer["skipped"] else f"record {sent + rejection['index'] + 1}"
        print_message(f"{record}: {rejection['reason']} - at `{rejection['path']}`")


def register(app: typer.Typer) -> None:
    """Add `ingest` to the command line."""
    app.command("ingest")(ingest)
