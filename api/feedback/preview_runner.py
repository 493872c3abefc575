"""Previews: each runs in a separate process at low priority, one at a time, tenants in turn."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.timestamps import DAY_MS, MINUTE_MS
from trustwatch.scoring.learning.feedback_preview import MarkedDecision, PreviewJob
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import FeedbackPreview, FeedbackRule
from trustwatch.scoring.store.sql_store import SqlStore

from ..clock import monotonic
from ..http.ledger import FairQueue, Party
from ..http.problems import ProblemDetails, ProblemError

PREVIEW_DAYS = 7  # A preview counts what happened in the last so many days: as far as the embedded log reaches
PREVIEW_MAX_S = 600.0
"""A preview that takes longer is given up: it runs at the lowest priority, and a person waits for it."""
PREVIEWS_WAITING = 4  # Previews of a tenant that may wait in addition to the running one

PREVIEW_VALID_MS = DAY_MS
LOST_AFTER_MS = MINUTE_MS  # A preview that gave no sign of life for so long is over: the process that ran it has ended
RETRY_AFTER_S = 10
_PROGRESS_INTERVAL_S = 1.0
_MAX_LINE_BYTES = 16 * 1024 * 1024

ProgressCallback = Callable[[float], Awaitable[None]]
PreviewFunction = Callable[[PreviewJob, ProgressCallback], Awaitable[bytes]]
"""Runs a job: reports progress from 0 to 1, returns the result as JSON. Raises PreviewFailed."""

_log = structlog.get_logger(__name__)


class PreviewFailed(Exception):
    """A preview that did not finish; the message states why."""


@dataclass(eq=False, repr=False)
class PreviewRunner:
    """Starts previews and tracks their status. For one event loop; the store is called in threads."""

    store: SqlStore  # keeps them, so that every replica answers about them and adoption outlives a restart
    run: PreviewFunction
    now_ms: Callable[[], int]
    new_id: Callable[[], str]

    def __post_init__(self) -> None:
        self._queue = FairQueue(monotonic, at_once=1)
        self._tasks: dict[asyncio.Task[None], FeedbackPreview] = {}

    async def start(self, decision: Decision, rule: FeedbackRule, draft: str, author: str) -> FeedbackPreview:
        """Start a preview. Raises ProblemError (429) if too many of its tenant run or wait, Unavailable."""
        now_ms, agent, most = self.now_ms(), decision.agent, PREVIEWS_WAITING + 1
        mine = sum(row.tenant == agent.tenant for row in self._tasks.values())
        if mine >= most:  # previews of other tenants neither count nor are mentioned
            room = f"of this tenant {mine} previews run or wait, and there may be {most}"
            detail, headers = f"{room}: come again when one of them is done", {"Retry-After": str(RETRY_AFTER_S)}
            raise ProblemError(ProblemDetails(429, "too_many_previews", "Too many requests", detail, headers))
        asked = record_id(now_ms, "preview", self.new_id()), decision.decision_id, agent.tenant, author, draft
        row = FeedbackPreview(*asked, "waiting" if self._tasks else "running", 0.0, now_ms, now_ms, "", b"")
        event = decision.event_id, decision.event_time_ms
        marked = MarkedDecision(decision.decision_id, str(agent.key), *event, decision.level)
        job = PreviewJob(rule, marked, now_ms - int(PREVIEW_DAYS * DAY_MS), now_ms)
        await self._store_row(row)
        task = asyncio.create_task(self._run_to_end(row, job))
        self._tasks[task] = row
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return row

    async def find(self, preview_id: str, tenants: Collection[str] | None) -> FeedbackPreview | None:
        """One preview; one whose process has gone has failed. Raises Unavailable."""
        row = await asyncio.to_thread(self.store.feedback.get_preview, preview_id, tenants)
        here = any(one.preview_id == preview_id for one in self._tasks.values())
        if row is None or row.status in ("done", "failed") or here:
            return row
        if self.now_ms() - row.updated_ms < LOST_AFTER_MS:
            return row
        gone = "the process that ran it has ended; start another one"
        return msgspec.structs.replace(row, status="failed", error=gone)

    async def close(self) -> None:
        """End the running preview, and those that wait."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run_to_end(self, row: FeedbackPreview, job: PreviewJob) -> None:
        beating = asyncio.create_task(self._send_heartbeats(row))
        try:
            async with self._queue.ticket(Party(row.tenant, row.author)):
                beating.cancel()
                end = await self._run_now(row, job)
        except PreviewFailed as error:
            end = self._updated(row, status="failed", error=str(error))
        except Exception as error:
            _log.error("preview_failed", preview_id=row.preview_id, error=repr(error)[:500])
            end = self._updated(row, status="failed", error="a fault of ours; the log has more")
        finally:
            beating.cancel()
        with contextlib.suppress(Unavailable):
            await self._store_row(end)

    async def _run_now(self, row: FeedbackPreview, job: PreviewJob) -> FeedbackPreview:
        loop, reported_at = asyncio.get_running_loop(), float("-inf")

        async def tell(progress: float) -> None:
            nonlocal reported_at
            if loop.time() - reported_at >= _PROGRESS_INTERVAL_S:
                reported_at = loop.time()
                with contextlib.suppress(Unavailable):
                    await self._store_row(self._updated(row, status="running", progress=min(max(progress, 0.0), 1.0)))

        await tell(0.0)
        try:
            async with asyncio.timeout(PREVIEW_MAX_S):
                result = await self.run(job, tell)
        except TimeoutError:
            raise PreviewFailed(f"it took longer than {PREVIEW_MAX_S:g} s; choose a narrower scope") from None
        return self._updated(row, status="done", progress=1.0, result=result)

    async def _send_heartbeats(self, row: FeedbackPreview) -> None:
        while True:
            await asyncio.sleep(LOST_AFTER_MS / 3000)
            with contextlib.suppress(Unavailable):
                await self._store_row(self._updated(row))

    def _updated(self, row: FeedbackPreview, **changed: object) -> FeedbackPreview:
        return msgspec.structs.replace(row, **changed, updated_ms=self.now_ms())

    async def _store_row(self, row: FeedbackPreview) -> None:
        await asyncio.to_thread(self.store.feedback.save_preview, row)


@dataclass(eq=False, repr=False)
class PreviewProcess:
    """Runs jobs as `python -m trustwatch.api.feedback.worker`, which lowers its own priority."""

    settings_file: Path | None  # passed on; None if there is none

    async def __call__(self, job: PreviewJob, tell: ProgressCallback) -> bytes:
        """Run one job; cancellation ends the process."""
        command = [sys.executable, "-m", "trustwatch.api.feedback.worker"]
        if self.settings_file is not None:
            command += ["--settings", str(self.settings_file)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=_MAX_LINE_BYTES)
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
            async for line in process.stdout:
                said = msgspec.json.decode(line)
                if "result" in said:
                    return msgspec.json.encode(said["result"])
                if "error" in said:
                    raise PreviewFailed(said["error"])
                await tell(said["progress"])
            raise PreviewFailed(f"its process ended with status {await process.wait()}; the log says more")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
