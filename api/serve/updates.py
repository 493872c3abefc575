"""The answering side of the update socket: starts the pipeline process, applies what it commits to the risk view."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from ...scoring.channel import LENGTH, Update, decode_update
from ...scoring.view import RiskView
from ..http.services import PipelineStatus

_log = structlog.get_logger(__name__)

RESTART_S = 1.0
LONGEST_RESTART_S = 30.0
STEADY_S = 60.0
"""A process that ran so long is started again at once; one that keeps failing, at growing intervals."""

STOP_S = 30.0
MOST_FRAME = 64 * 1024 * 1024


class PipelineProcess:
    """Keeps one pipeline process running and its updates applied.

    Args:
        settings_file: passed on; None where there is none.
        view: receives agents.
        status: receives how far the pipeline is.
        now_ms: the clock.
        on_update: called after each update was applied.
    """

    def __init__(
        self, settings_file: Path | None, view: RiskView, status: PipelineStatus, now_ms: Callable[[], int],
        on_update: Callable[[Update], None],
    ) -> None:  # fmt: skip
        self._settings_file = settings_file
        self._view = view
        self._status = status
        self._now_ms = now_ms
        self._on_update = on_update
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._stopped = asyncio.Event()
        self.restarts = 0

    async def run(self) -> None:
        """Run the process; start it again when it dies, until `stop`."""
        pause_s = RESTART_S
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started = loop.time()
            status = await self._run_once()
            self._status.alive = False
            if self._stopping:
                return
            self.restarts += 1
            pause_s = RESTART_S if loop.time() - started >= STEADY_S else min(2 * pause_s, LONGEST_RESTART_S)
            _log.error(
                "pipeline process ended; answers turn stale until it is back", exit_status=status, again_in_s=pause_s
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause_s)

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "trustwatch.api.serve.worker", "--socket", str(theirs.fileno())]
        if self._settings_file is not None:
            command += ["--settings", str(self._settings_file)]
        self._process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()])
        theirs.close()
        if self._stopping:  # told to stop while the process was being made
            self._process.terminate()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MOST_FRAME)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                while True:
                    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                    self._apply(decode_update(await reader.readexactly(length)))
                    await asyncio.sleep(0)  # a commit is many frames, and reading what is there already never waits
            return await self._process.wait()
        finally:
            writer.close()

    def _apply(self, update: Update) -> None:
        """Take over one update; one is small enough not to delay answers."""
        self._view.apply(update.agents)
        self._status.note(update, self._now_ms())
        self._on_update(update)

    async def stop(self) -> None:
        """Let the process commit what it has applied and end."""
        self._stopping = True
        self._stopped.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            _log.error("pipeline process does not end; killing it", seconds=STOP_S)
            process.kill()
