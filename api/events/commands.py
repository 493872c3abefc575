"""Commands about events in files: sending them, converting them, trying a mapping."""

from __future__ import annotations

import gzip
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.format_registry import FORMATS
from trustwatch.ingest.formats.history_decoding import native_history_record
from trustwatch.ingest.formats.record_mapping import MappingParser, RecordTrial, try_records
from trustwatch.ingest.history.conversion import MAPPING, FormattedFile
from trustwatch_client.timing import parse_retry_after

from .. import clock
from ..cli.history_input import (
    MAX_SHOWN_PROBLEMS,
    STDIN_NAME,
    FormatOption,
    HistoriesArgument,
    MappingOption,
    copied_to_file,
    history_converter,
    history_files,
    open_output,
    report_malformed,
)
from ..cli.service_commands import DEFAULT_URL, ServiceClient, TokenOption, UrlOption, problem_text
from ..cli.terminal import (
    JsonLinesOption,
    JsonOption,
    SettingsFileOption,
    fail,
    print_message,
    print_summary,
    write_json,
    write_line,
)
from ..cli.topic_input import TimeWindow
from ..settings.loading import load_process_settings
from .outgoing_records import INGEST_BATCH_RECORDS, OutgoingBatch, OutgoingRecords, RecordPlace, history_advice

INGEST_ATTEMPTS = 30
TOO_LARGE = 413
DEFAULT_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
"""Pauses between attempts, s: the default if the service specifies none, and the maximum."""

mapping_app = typer.Typer(name="mapping", no_args_is_help=True, help="Mappings of other formats to audit events.")


def ingest(
    files: Annotated[list[Path], typer.Argument(help="files or folders of events, in any format; - is stdin")],
    record_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="format of the records (aws-cloudtrail, envoy, mapping: as the caller's settings map them, …); "
            "default: detected from the records, else as the caller's",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping",
            help="YAML file with a mapping of your own, or changes to that of the format; it is applied here",
            dir_okay=False,
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Send events to a running service."""
    service = ServiceClient(url, token)
    outgoing = OutgoingRecords(history_converter(record_format, mapping))
    counts = Counter(accepted=0, duplicate=0, rejected=0, skipped=0)
    with ExitStack() as stack:
        sent = 0
        for batch in outgoing.batches(files, stack):
            if sent == 0 and (advice := history_advice(batch, clock.utc_now())):
                print_message(advice)
            for part, answer in _answers(service, batch):
                _add_counts(counts, answer, sent, part.places)
                sent += len(part.lines)
    counts["rejected"] += outgoing.converter.malformed
    counts["skipped"] += outgoing.converter.skipped
    if json:
        write_json(dict(counts))
    else:
        print_message(", ".join(f"{name} {counts[name]:,}" for name in counts if counts[name] or name != "skipped"))
    if counts["rejected"]:
        if outgoing.unknown is not None and not counts["accepted"]:
            print_message(f"they were sent in the format of the caller's settings. {outgoing.unknown}")
        raise typer.Exit(1)


def _answers(service: ServiceClient, batch: OutgoingBatch) -> Iterator[tuple[OutgoingBatch, dict[str, Any]]]:
    """Send a batch, in halves if it exceeds the service's limit, and yield the answer to each part."""
    response = _send_batch(service, b"\n".join(batch.lines), batch.record_format)
    if response.status_code == TOO_LARGE and len(batch.lines) > 1:
        half = len(batch.lines) // 2
        for part in (slice(None, half), slice(half, None)):
            places = None if batch.places is None else batch.places[part]
            yield from _answers(service, batch._replace(lines=batch.lines[part], places=places))
        return
    answer = response.json() if "json" in response.headers.get("content-type", "") else {}
    if "rejected" not in answer:
        is_mapped_there = response.status_code == TOO_LARGE and batch.record_format == MAPPING
        advice = "; with --mapping FILE it is cut before it is sent" if is_mapped_there else ""
        raise fail(problem_text(response) + advice)
    yield batch, dict(answer)


def _send_batch(service: ServiceClient, body: bytes, record_format: str | None) -> Any:
    """Send one request. Wait if the service requests it or is briefly unavailable.

    The records of a batch are sent again as they were: those that the service took before count as duplicates.
    """
    for attempt in range(INGEST_ATTEMPTS):
        response = service.request_again_later(
            "POST",
            "/v1/events",
            content=body,
            headers={"content-type": "application/x-ndjson"},
            params={} if record_format is None else {"format": record_format},
        )
        if response is not None and response.status_code not in (429, 503):
            return response
        if response is None:  # a service that starts again needs up to a minute, and hears too much then
            pause_s: float | None = DEFAULT_PAUSE_S * 2**attempt
        else:
            pause_s = parse_retry_after(response.headers.get("retry-after"), clock.now_s())
        clock.sleep(min(DEFAULT_PAUSE_S if pause_s is None else pause_s, MAX_PAUSE_S))
    if response is None:
        raise fail(f"no answer to {INGEST_ATTEMPTS} attempts; events from this batch on were not sent: send them again")
    return response


def _add_counts(counts: Counter[str], answer: dict[str, Any], sent: int, places: Sequence[RecordPlace] | None) -> None:
    for name in counts:
        counts[name] += answer[name]
    shown = counts["rejected"] - answer["rejected"]
    events = sum(answer[name] for name in ("accepted", "duplicate", "rejected"))
    for rejection in answer["rejections"][: max(0, MAX_SHOWN_PROBLEMS - shown)]:
        # Skipped records have no position in the answer, and others hold several events: then none is numbered.
        if answer["skipped"] or events != len(places or range(events)):
            record = "a record"
        elif places is None:
            record = f"record {sent + rejection['index'] + 1}"
        else:
            record = "{}, record {}".format(*places[rejection["index"]])
        print_message(f"{record}: {rejection['reason']} - at `{rejection['path']}`")


def convert(
    files: HistoriesArgument,
    out: Annotated[Path, typer.Option(help="where native events go, one a line; gzip if it ends in .gz; - is stdout")],
    record_format: FormatOption = None,
    mapping: MappingOption = None,
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Turn logs of any format into native events, in the order of time."""
    configured = load_process_settings(settings)
    converter = history_converter(record_format, mapping)
    counts = Counter(events=0, malformed=0, mended=0)
    with ExitStack() as stack:
        paths = stack.enter_context(history_files(files, configured, TimeWindow(), converter))
        target = sys.stdout.buffer if str(out) == "-" else stack.enter_context(open_output(out, paths, converter))
        packed = out.suffix == ".gz"
        writer = stack.enter_context(gzip.GzipFile("", "wb", fileobj=target, mtime=0)) if packed else target
        _write_native(FileSource(paths), writer, counts)
    counts["malformed"] += converter.malformed
    summary = {"out": str(out), **counts, "skipped": converter.skipped}
    print_summary(summary, json and str(out) != "-", "wrote {events} native events to {out}")
    if not counts["events"]:
        raise fail(f"no events in {', '.join(files)}")


def _write_native(source: FileSource, target: Any, counts: Counter[str]) -> None:
    while (batch := source.poll(INGEST_BATCH_RECORDS, 0.0)) is not None:
        for position, record in enumerate(batch.records):
            try:
                event, mended = native_history_record(record.payload)
            except MalformedEvent as error:
                counts["malformed"] += 1
                report_malformed(counts["malformed"], batch.base_offset + position, error.path, error.reason)
            else:
                target.write(event + b"\n")
                counts["events"] += 1
                counts["mended"] += mended


@mapping_app.command("try")
def try_mapping(
    mapping: Annotated[str, typer.Argument(metavar="FILE", help="YAML file of a mapping, or the name of a format")],
    lines: Annotated[Path, typer.Argument(metavar="LINES", help="a file or folder of records; - is stdin")],
    record_format: Annotated[
        str | None,
        typer.Option("--format", help="format whose mapping the file changes; default: detected from the records"),
    ] = None,
    records: Annotated[int, typer.Option(help="so many records", min=1)] = 3,
    json: JsonLinesOption = False,
) -> None:
    """Show what a mapping makes of some records, member by member, and what is missing."""
    if not Path(mapping).is_file() and (mapping not in FORMATS or record_format is not None):
        raise ConfigError(f"{mapping}: no such file, and no format of that name; formats are {', '.join(FORMATS)}")
    named = (record_format, Path(mapping)) if Path(mapping).is_file() else (mapping, None)
    converter = history_converter(*named)
    events = 0
    with ExitStack() as stack:
        path = copied_to_file(sys.stdin.buffer, stack) if str(lines) == "-" else lines
        formatted = converter.find(path, STDIN_NAME if str(lines) == "-" else None)[0]
        converter.tell_formats([formatted])
        for number, trial in enumerate(islice(mapping_trials(formatted), records), 1):
            events += trial.event is not None
            if json:
                write_json(trial_as_json(number, trial))
            else:
                for line in describe_trial(f"record {number} of {formatted.file.name}", trial):
                    write_line(line)
    if not events:
        raise fail("none of these records becomes an event")


# Results of a mapping trial, as text for its author.

MAX_SHOWN_VALUE, MAX_SHOWN_EXPRESSION = 60, 70  # Characters of a value, and of an expression


def mapping_trials(formatted: FormattedFile) -> Iterator[RecordTrial]:
    """Try the mapping of a file's format on each of its records. Raises ConfigError if the format has no mapping."""
    parser = formatted.parser
    if not isinstance(parser, MappingParser):
        raise ConfigError(f"{formatted.file.name}: records of the format `{formatted.format_name}` need no mapping")
    for record in formatted.file.records():
        if isinstance(record, MalformedEvent):
            yield RecordTrial(None, [], None, str(record))
            continue
        try:
            yield from try_records(parser, record)
        except MalformedEvent as error:
            yield RecordTrial(None, [], None, str(error))


def describe_trial(title: str, trial: RecordTrial) -> Iterator[str]:
    """Describe the result of a record in lines: each member with its expression, and unused members."""
    state = "an event" if trial.event is not None else f"{'skipped' if trial.skipped else 'refused'}: {trial.reason}"
    yield f"{title}: {state}"
    for member in trial.members:
        source = f"<- {_shortened(member.expression, MAX_SHOWN_EXPRESSION)}"
        if member.problem is not None:
            yield f"  ! {member.name:24} {member.problem}  {source}"
        elif member.value is not None:
            yield f"    {member.name:24} {_shortened(str(member.value), MAX_SHOWN_VALUE)}  {source}"
    absent = [member.name for member in trial.members if member.value is None and member.problem is None]
    for what, names in (("no value", absent), ("not read", _unread_names(trial))):
        if names:
            yield f"    {what}: {', '.join(names)}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _unread_names(trial: RecordTrial) -> list[str]:
    named = set(re.findall(r'"[^"]+"|\w+', " ".join(member.expression for member in trial.members)))
    return [name for name in trial.record or () if trial.members and not {name, f'"{name}"'} & named]


def trial_as_json(number: int, trial: RecordTrial) -> dict[str, Any]:
    """Return the result of a record as a JSON value."""
    return {
        "record": number,
        "state": "event" if trial.event is not None else "skipped" if trial.skipped else "refused",
        "reason": trial.reason,
        "members": [member._asdict() for member in trial.members],
        "unread": _unread_names(trial),
        "event": None if trial.event is None else msgspec.json.decode(trial.event),
    }
