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
from ...scoring.feedback.labels import Label, labels_of
from ...scoring.feedback.preview import Comparison, PreviewJob, Sieve, Surroundings, told
from ...scoring.feedback.values import Rule
from ...scoring.store import AgentQuery, Store
from .. import clock
from ..serve.logs import configure_logs
from ..serve.wiring import engine_settings, model_in_force, opened_store
from ..settings import Settings, process_settings
from .history import History, history_of

LOWEST = 19
MOST_AGENTS = 100_000
MOST_RESIDENT = 5_000
MOST_LABELS = 500
_TELL_EVERY_S = 0.5

_log = structlog.get_logger(__name__)


class TooMany(TrustwatchError):
    """A scope that a preview can not hold."""

    code = "too_many_agents"


def keys_of(store: Store, rule: Rule) -> set[int]:
    """Agents that a rule speaks of, as far as they are known now. Raises TooMany, Unavailable."""
    if rule.kind == "agent":
        return {int(rule.key)}
    keys: set[int] = set()
    query = AgentQuery(tenants=(rule.tenant,), agent_type=rule.agent_type, limit=500)
    while True:
        page = store.list_agents(query)
        keys.update(one.name.key for one in page.items)
        if len(keys) > MOST_AGENTS:
            raise TooMany(f"the peer group has more than {MOST_AGENTS} agents; choose the scope `agent`")
        if page.next_cursor is None:
            return keys
        query = msgspec.structs.replace(query, cursor=page.next_cursor)


def labels_for(store: Store, rule: Rule, keys: set[int], since_ms: int) -> list[Label]:
    """The newest confirmed attacks by these agents."""
    found = []
    for label in labels_of(store, (rule.tenant,), since_ms):
        if label.verdict == "true_positive" and label.agent.key in keys:
            found.append(label)
            if len(found) >= MOST_LABELS:
                break
    return found


def preview(settings: Settings, job: PreviewJob) -> dict[str, object]:
    """Run a job; progress goes to stdout."""
    store = opened_store(settings)
    try:
        keys = keys_of(store, job.rule)
        labels = labels_for(store, job.rule, keys, job.from_ms)
        model = model_in_force(settings, store)
    finally:
        store.close()
    engine = engine_settings(settings, capacity=min(max(len(keys), 8), MOST_RESIDENT))
    around = Surroundings(model, engine, settings.domains())
    history = history_of(settings, job.from_ms)
    parts = _compare(job, around, labels, Sieve(keys), history)
    unseen = (
        ""
        if any(part.events for part in parts)
        else (f"nothing that these agents did is kept in {history.source} since the beginning of the window")
    )
    return told(job, parts, history.source, unseen)


def _compare(
    job: PreviewJob, around: Surroundings, labels: list[Label], sieve: Sieve, history: History
) -> list[Comparison]:
    parts: dict[int, Comparison] = {}
    told_at = clock.monotonic()
    for part in history.parts:
        records = [record for record in part.records if sieve.wanted(record)]
        if records:
            comparison = parts.get(part.partition)
            if comparison is None:
                comparison = parts[part.partition] = Comparison(job, around, labels)
            comparison.feed(records)
        if clock.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = clock.monotonic()
            _say({"progress": round(part.progress, 4)})
    for comparison in parts.values():
        comparison.finish()
    return list(parts.values())


def _say(what: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """Run the job that stdin holds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    arguments = parser.parse_args()
    configure_logs()
    os.nice(LOWEST)
    try:
        job = msgspec.json.decode(sys.stdin.buffer.read(), type=PreviewJob)
        _say({"result": preview(process_settings(arguments.settings), job)})
    except BrokenPipeError:
        return 1
    except TrustwatchError as error:
        _log.error("preview failed", code=error.code, error=str(error))
        _say({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
