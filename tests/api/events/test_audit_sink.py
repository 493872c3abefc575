"""Audit events of our own: whatever happens to some, the others are written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.events.audit_sink import AuditSink
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit


def event(number: int, filling: str = "") -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "time": "2025-11-24T16:00:00Z",
        "source": "urn:trustwatch:test",
        "type": "token.request",
        "tenant": "acme",
        "agent": {"id": "bot"},
        "action": "client_credentials",
        "outcome": "success",
        "attributes": {"filling": filling},
    }


def sink(folder: Path) -> AuditSink:
    log = GroupCommit(EventLog(folder / "log"))
    return AuditSink(log, Admission(AgentRegistry(())), lambda: 1_764_000_000_000, lambda: "id")


def written(folder: Path, events: list[dict[str, Any]], break_at: int = -1) -> AuditSink:
    async def run() -> AuditSink:
        made = sink(folder)
        commit = made.log.commit
        calls = 0

        async def faulty(records: Any) -> int:
            nonlocal calls
            calls += 1
            if calls == break_at:
                raise ValueError("a fault of ours")
            return await commit(records)

        made.log.commit = faulty  # type: ignore[method-assign]
        task = asyncio.create_task(made.run())
        for one in events:
            made.enqueue(one)
        assert await made.flush(20.0)
        assert not task.done()
        task.cancel()
        await made.log.close()
        made.log.log.close()  # type: ignore[attr-defined]
        return made

    return asyncio.run(run())


def test_more_than_one_commit_holds_is_written_in_several(tmp_path: Path) -> None:
    """500 large events at a time would be more than the log takes."""
    made = written(tmp_path, [event(number, "x" * 120_000) for number in range(500)])

    assert (made.written, made.dropped) == (500, 0)


def test_a_fault_loses_what_it_met_and_no_more(tmp_path: Path) -> None:
    made = written(tmp_path, [event(number) for number in range(1200)], break_at=2)

    assert (made.written, made.dropped) == (700, 500)
