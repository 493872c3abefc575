"""The process of one preview: `python -m trustwatch.api.feedback.replaying`, started by `previews.PreviewProcess`.

It reads a `PreviewJob` on stdin and writes lines of JSON on stdout: `{"progress": …}` now and then, at the end
`{"result": …}` or `{"error": …}`. It has the lowest priority, so that answers and the pipeline do not wait for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec
import structlog

from ...ingest.errors import TrustwatchError
from ...scoring.feedback.labels import FeedbackLabel, feedback_labels
from ...scoring.feedback.preview import PreviewContext, PreviewJob, RecordFilter, RuleComparison, preview_result
from ...scoring.feedback.values import FeedbackRule
from ...scoring.store import AgentQuery, Store
from .. import clock
from ..serve.logs import configure_structured_logs
from ..serve.wiring import engine_settings, load_active_model, open_service_store
from ..settings import Settings, load_process_settings
from .history import PreviewHistory, open_preview_history

LOWEST_PRIORITY = 19
MAX_PREVIEW_AGENTS = 100_000
MAX_RESIDENT_AGENTS = 5_000
MAX_LABELS = 500
_PROGRESS_INTERVAL_S = 0.5

_log = structlog.get_logger(__name__)


class TooManyPreviewAgents(TrustwatchError):
    """A scope that a preview can not hold."""

    code = "too_many_agents"


def agent_keys_of_rule(store: Store, rule: FeedbackRule) -> set[int]:
    """Agents that a rule speaks of, as far as they are known now. Raises TooMany, Unavailable."""
    if rule.kind == "agent":
        return {int(rule.key)}
    keys: set[int] = set()
    query = AgentQuery(tenants=(rule.tenant,), agent_type=rule.agent_type, limit=500)
    while True:
        page = store.list_agents(query)
        keys.update(one.name.key for one in page.items)
        if len(keys) > MAX_PREVIEW_AGENTS:
            raise TooManyPreviewAgents(
                f"the peer group has more than {MAX_PREVIEW_AGENTS} agents; choose the scope `agent`"
            )
        if page.next_cursor is None:
            return keys
        query = msgspec.structs.replace(query, cursor=page.next_cursor)


def confirmed_attacks(store: Store, rule: FeedbackRule, keys: set[int], since_ms: int) -> list[FeedbackLabel]:
    """The newest confirmed attacks by these agents."""
    found = []
    for label in feedback_labels(store, (rule.tenant,), since_ms):
        if label.verdict == "true_positive" and label.agent.key in keys:
            found.append(label)
            if len(found) >= MAX_LABELS:
                break
    return found


def run_preview(settings: Settings, job: PreviewJob) -> dict[str, object]:
    """Run a job; progress goes to stdout."""
    store = open_service_store(settings)
    try:
        keys = agent_keys_of_rule(store, job.rule)
        labels = confirmed_attacks(store, job.rule, keys, job.from_ms)
        model = load_active_model(settings, store)
    finally:
        store.close()
    engine = engine_settings(settings, capacity=min(max(len(keys), 8), MAX_RESIDENT_AGENTS))
    around = PreviewContext(model, engine, settings.domains())
    history = open_preview_history(settings, job.from_ms)
    parts = _compare_parts(job, around, labels, RecordFilter(keys), history)
    unseen = (
        ""
        if any(part.events for part in parts)
        else (f"nothing that these agents did is kept in {history.source} since the beginning of the window")
    )
    return preview_result(job, parts, history.source, unseen)


def _compare_parts(
    job: PreviewJob, around: PreviewContext, labels: list[FeedbackLabel], sieve: RecordFilter, history: PreviewHistory
) -> list[RuleComparison]:
    parts: dict[int, RuleComparison] = {}
    told_at = clock.monotonic()
    for part in history.parts:
        records = [record for record in part.records if sieve.keeps(record)]
        if records:
            comparison = parts.get(part.partition)
            if comparison is None:
                comparison = parts[part.partition] = RuleComparison(job, around, labels)
            comparison.apply_records(records)
        if clock.monotonic() - told_at >= _PROGRESS_INTERVAL_S:
            told_at = clock.monotonic()
            _write_line({"progress": round(part.progress, 4)})
    for comparison in parts.values():
        comparison.finish()
    return list(parts.values())


def _write_line(what: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """Run the job that stdin holds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    arguments = parser.parse_args()
    configure_structured_logs()
    os.nice(LOWEST_PRIORITY)
    try:
        job = msgspec.json.decode(sys.stdin.buffer.read(), type=PreviewJob)
        _write_line({"result": run_preview(load_process_settings(arguments.settings), job)})
    except BrokenPipeError:
        return 1
    except TrustwatchError as error:
        _log.error("preview failed", code=error.code, error=str(error))
        _write_line({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
