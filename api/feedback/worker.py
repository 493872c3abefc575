"""The process of one preview, over the history from log, archive or topic."""

from __future__ import annotations

import argparse
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from trustwatch.ingest.archive.archive_files import read_position
from trustwatch.ingest.errors import CorruptLog, MalformedEvent, TrustwatchError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.segment_import import first_offset
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import MINUTE_MS
from trustwatch.ingest.topics.topic_history import topic_parts
from trustwatch.scoring.learning.feedback_preview import (
    PreviewContext,
    PreviewJob,
    RecordFilter,
    RuleComparison,
    feedback_labels,
    preview_result,
)
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.records.feedback import FeedbackRule
from trustwatch.scoring.store.agent_store import AgentQuery
from trustwatch.scoring.store.database import iterate_pages
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..brokers import open_reader
from ..child_process import LOWEST_PRIORITY
from ..composition import (
    engine_settings,
    load_active_model,
    load_erased_filter,
    open_service_identities,
    open_service_store,
)
from ..file_access import restrict_new_files
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from ..structured_logs import configure_structured_logs

RECORDS_PER_PART = 2_000
TICK_INTERVAL_MS = MINUTE_MS
WARM_UP_DAYS = 7  # Days of an archive that are read before the window, so that levels are then what they had become
_POLL_S = 5.0


class HistoryPart(NamedTuple):
    """Consecutive records of one partition, and the share of the whole history that precedes them, 0 to 1."""

    partition: int
    records: list[Record]
    progress: float


def open_preview_history(settings: Settings, from_ms: int) -> tuple[str, Iterator[HistoryPart]]:
    """Return `log`, `archive and log` or `kafka`, and all records stored there.

    They begin before *from_ms* if possible: the earlier ones warm up. Raises TrustwatchError.
    """
    if settings.distributed:
        return "kafka", _topic_parts(settings)
    directory = settings.data_dir / "log"
    first, oldest_ms = first_offset(directory), 0
    archived = None if settings.archive.directory is None else read_position(settings.archive.directory)
    if archived is None:
        return "log", _log_parts(directory, first)
    with LogReader(directory) as reader:
        if reader.end_offset(ONLY_PARTITION) > first:
            reader.seek(ONLY_PARTITION, first)
            batch = reader.poll(1, 0.0)
            oldest_ms = 0 if batch is None else batch.records[0].received_ms
    if oldest_ms <= from_ms:
        return "log", _log_parts(directory, first)
    return "archive and log", _archive_and_log_parts(settings, max(first, archived), from_ms)


def _log_parts(directory: Path, first: int, begun: float = 0.0) -> Iterator[HistoryPart]:
    with LogReader(directory) as reader:
        end = reader.end_offset(ONLY_PARTITION)
        if end > first:
            reader.seek(ONLY_PARTITION, first)
        at = first
        while at < end:
            batch = reader.poll(min(RECORDS_PER_PART, end - at), 0.0)
            if batch is None:
                raise CorruptLog(f"{directory}: ends at offset {at}, although {end} were there")
            at = batch.next_offset
            yield HistoryPart(ONLY_PARTITION, batch.records, begun + (1.0 - begun) * (at - first) / (end - first))


def _archive_and_log_parts(settings: Settings, behind: int, from_ms: int) -> Iterator[HistoryPart]:
    """The archive, then what of the log is not in it yet. An archive has events alone, so time passes with them."""
    from trustwatch.ingest.archive.archive_reader import raw_lines  # needs the extra `archive`

    assert settings.archive.directory is not None
    records: list[Record] = []
    tick_at, count = 0, 0
    since = datetime.fromtimestamp(from_ms // 1000, UTC) - timedelta(days=WARM_UP_DAYS)
    for raw in raw_lines(settings.archive.directory, since, up_to={0: behind}):
        try:
            now_ms = int(decode_event(raw).time.astimezone(UTC).timestamp() * 1000)  # as if it arrived when it happened
        except MalformedEvent:
            continue
        records.append(Record(RecordKind.EVENT, raw_id_hash(raw), now_ms, raw))
        count += 1
        if now_ms >= tick_at:
            records.append(Record(RecordKind.TICK, 0, now_ms, now_ms.to_bytes(8, "little")))
            tick_at = now_ms + TICK_INTERVAL_MS
        if len(records) >= RECORDS_PER_PART:
            yield HistoryPart(ONLY_PARTITION, records, 0.9 * count / max(behind, count))
            records = []
    if records:
        yield HistoryPart(ONLY_PARTITION, records, 0.9)
    yield from _log_parts(settings.data_dir / "log", behind, 0.9)


def _topic_parts(settings: Settings) -> Iterator[HistoryPart]:
    brokers = settings.brokers
    topic, identities = brokers.topic_names.events, open_service_identities(settings)
    erased, reader = load_erased_filter(settings, topic), open_reader(brokers, [topic])
    try:
        ends, firsts = reader.end_offsets(), reader.first_offsets()
        total = max(1, sum(end - firsts[topic_partition] for topic_partition, end in ends.items()))
        count = 0
        for part in topic_parts(reader, topic, erased, identities, poll_s=_POLL_S, max_records=RECORDS_PER_PART):
            if part is None:
                continue
            kept = bisect_left(part.offsets, ends[topic, part.partition])
            count += kept
            if kept:
                yield HistoryPart(part.partition, part.records[:kept], min(1.0, count / total))
    finally:
        reader.close()


# The process reads a `PreviewJob` on stdin and writes lines of JSON on stdout: `{"progress": …}` now and then, at
# the end `{"result": …}` or `{"error": …}`. It has the lowest priority, so that answers and the
# pipeline do not wait for it.

MAX_PREVIEW_AGENTS = 100_000
MAX_RESIDENT_AGENTS = 5_000
MAX_LABELS = 500
_PROGRESS_INTERVAL_S = 0.5

_log = structlog.get_logger(__name__)


class TooManyPreviewAgents(TrustwatchError):
    """A scope that a preview cannot hold."""

    code = "too_many_agents"


def agent_keys_of_rule(store: SqlStore, rule: FeedbackRule) -> set[int]:
    """Agents that a rule speaks of, as far as they are known now. Raises TooManyPreviewAgents, Unavailable."""
    if rule.kind == "agent":
        name = rule.agent_identity or store.agents.find_unkeyed(int(rule.key))
        return set() if name is None else {store.identities.agent_key(*name)}
    keys: set[int] = set()
    query = AgentQuery(tenants=(rule.tenant,), agent_type=rule.agent_type, limit=500)
    for agent in iterate_pages(lambda cursor: store.agents.page(msgspec.structs.replace(query, cursor=cursor))):
        keys.add(agent.name.key)
        if len(keys) > MAX_PREVIEW_AGENTS:
            raise TooManyPreviewAgents(
                f"the peer group has more than {MAX_PREVIEW_AGENTS} agents; choose the scope `agent`"
            )
    return keys


def run_preview(settings: Settings, job: PreviewJob) -> dict[str, object]:
    """Run a job; progress goes to stdout."""
    store = open_service_store(settings)
    try:
        keys = agent_keys_of_rule(store, job.rule)
        given = feedback_labels(store.feedback, (job.rule.tenant,), job.from_ms)
        attacks = (label for label in given if label.verdict == "true_positive" and label.agent.key in keys)
        labels = list(islice(attacks, MAX_LABELS))  # the newest
        model, identities = load_active_model(settings, store), store.identities
    finally:
        store.close()
    engine = engine_settings(settings, capacity=min(max(len(keys), 8), MAX_RESIDENT_AGENTS))
    around = PreviewContext(model, engine, settings.domains(), identities)
    source, parts = open_preview_history(settings, job.from_ms)
    record_filter = RecordFilter(keys, identities)
    comparisons: dict[int, RuleComparison] = {}  # by partition
    reported_at = clock.monotonic()
    for part in parts:
        records = [record for record in part.records if record_filter.keeps(record)]
        if records:
            if part.partition not in comparisons:
                comparisons[part.partition] = RuleComparison(job, around, labels)
            comparisons[part.partition].apply_records(records)
        if clock.monotonic() - reported_at >= _PROGRESS_INTERVAL_S:
            reported_at = clock.monotonic()
            _write_line({"progress": round(part.progress, 4)})
    for comparison in comparisons.values():
        comparison.finish()
    unseen = ""
    if not any(comparison.events for comparison in comparisons.values()):
        unseen = f"nothing that these agents did is kept in {source} since the beginning of the window"
    return preview_result(job, list(comparisons.values()), source, unseen)


def _write_line(what: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """Run the job that stdin holds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    arguments = parser.parse_args()
    configure_structured_logs()
    restrict_new_files()
    os.nice(LOWEST_PRIORITY)
    try:
        job = msgspec.json.decode(sys.stdin.buffer.read(), type=PreviewJob)
        settings = load_process_settings(arguments.settings)
        configure_structured_logs(settings.logs.level, settings.logs.format)
        _write_line({"result": run_preview(settings, job)})
    except BrokenPipeError:
        return 1
    except TrustwatchError as error:
        _log.error("preview failed", code=error.code, error=str(error))
        _write_line({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
