"""The answering side of an update socket: keeps a process running and hands on what it reports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from ...scoring.channel import LENGTH_PREFIX, PipelineUpdate, decode_update

_log = structlog.get_logger(__name__)

FIRST_RESTART_S = 1.0
MAX_RESTART_S = 30.0
STABLE_AFTER_S = 60.0
"""A process that ran so long is started again at once; one that keeps failing, at growing intervals."""

STOP_TIMEOUT_S = 30.0
MAX_FRAME_BYTES = 64 * 1024 * 1024


class SupervisedProcess:
    """Keeps one process beside the answering one running and its updates applied.

    Args:
        module: what it runs, below `trustwatch.api.serve`.
        settings_file: passed on; None where there is none.
        apply: called with each update; one is small enough not to delay answers.
        ended: called whenever the process has ended, before it is started again.
    """

    def __init__(
        self,
        module: str,
        settings_file: Path | None,
        apply: Callable[[PipelineUpdate], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._module = module
        self._settings_file = settings_file
        self._apply = apply
        self._on_exit = ended
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._stopped = asyncio.Event()
        self.restarts = 0

    async def run(self) -> None:
        """Run the process; start it again when it dies, until `stop`."""
        pause_s = FIRST_RESTART_S
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started = loop.time()
            status = await self._run_once()
            self._on_exit()
            if self._stopping:
                return
            self.restarts += 1
            pause_s = FIRST_RESTART_S if loop.time() - started >= STABLE_AFTER_S else min(2 * pause_s, MAX_RESTART_S)
            _log.error(
                "process ended; its work waits until it is back",
                module=self._module,
                exit_status=status,
                again_in_s=pause_s,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause_s)

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", f"trustwatch.api.serve.{self._module}", "--socket", str(theirs.fileno())]
        if self._settings_file is not None:
            command += ["--settings", str(self._settings_file)]
        self._process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()])
        theirs.close()
        if self._stopping:  # told to stop while the process was being made
            self._process.terminate()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_FRAME_BYTES)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                while True:
                    (length,) = LENGTH_PREFIX.unpack(await reader.readexactly(LENGTH_PREFIX.size))
                    self._handle_frame(await reader.readexactly(length))
                    await asyncio.sleep(0)  # a commit is many frames, and reading what is there already never waits
            return await self._process.wait()
        finally:
            writer.close()

    def _handle_frame(self, frame: bytes) -> None:
        """One report; processes that say something else than updates override this."""
        self._apply(decode_update(frame))

    async def stop(self) -> None:
        """Let the process commit what it has applied and end."""
        self._stopping = True
        self._stopped.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            _log.error("process does not end; killing it", module=self._module, seconds=STOP_TIMEOUT_S)
            process.kill()
