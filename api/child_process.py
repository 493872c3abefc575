"""Child processes of the service, and their supervision.

A child process ends on SIGTERM, when the service does not read its reports any more, or with a status that states its
error; then the service starts it again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import structlog

from trustwatch.ingest.errors import Fenced, TrustwatchError
from trustwatch.scoring.pipeline.ipc import LENGTH_PREFIX, PipelineUpdate, PipelineUpdateSender, decode_update

from . import clock
from .file_access import restrict_new_files
from .settings.effective import SettingsChange, change_of_settings
from .settings.loading import load_process_settings
from .settings.root import Settings
from .structured_logs import configure_structured_logs

_log = structlog.get_logger(__name__)

FENCED_EXIT_STATUS = 3
LOWEST_PRIORITY = 19
"""Niceness of processes for which neither answers nor the pipeline wait."""


class StopRequested(Exception):
    """The process was asked to end while it waited for an unavailable service.

    What was not committed is read again at the next start.
    """


class ChildRuntime:
    """One process of the service."""

    def __init__(self, settings: Settings, connection: socket.socket) -> None:
        self.settings = settings
        self.sender = PipelineUpdateSender(connection)
        self._connection = connection
        self.stop_requested = False
        """True if this process was asked to end; False if only the service has ended."""
        self.on_reload: Callable[[SettingsChange], None] = lambda _: None
        """Applies changed settings that may change while the process runs; settings of logs are always applied."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called by the signal handler when the process must end, possibly during a long wait."""

    def handle_stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        """End after the current work."""
        self.stop_requested = True
        self.on_stop()

    def handle_reload_signal(self, settings_file: Path | None, _number: int, _frame: FrameType | None) -> None:
        """Reload the settings; the service has checked them before it sent the signal."""
        try:
            change = change_of_settings(self.settings, load_process_settings(settings_file))
            configure_structured_logs(change.settings.logs.level, change.settings.logs.format)
            self.on_reload(change)
        except Exception as error:  # the file changed again: the active settings stay
            _log.error("settings were not reloaded; the active ones stay", error=str(error))
        else:
            self.settings = change.settings

    @property
    def should_stop(self) -> bool:
        """True if this process was asked to end, or the service has ended: its end of the socket is closed."""
        if self.stop_requested:
            return True
        readable, _, _ = select.select([self._connection], [], [], 0)
        return bool(readable) and self._connection.recv(1, socket.MSG_PEEK) == b""

    def raise_if_stopping(self) -> None:
        if self.should_stop:
            raise StopRequested

    def sleep(self, seconds: float) -> None:
        """Wait for an unavailable service. Raises StopRequested once the process was asked to end."""
        self.raise_if_stopping()
        clock.sleep(seconds)

    def send(self, body: bytes) -> None:
        """Report to the service. Raises OSError if the service does not read."""
        self._connection.sendall(LENGTH_PREFIX.pack(len(body)) + body)

    def close(self) -> None:
        self._connection.close()


def run_child(work: Callable[[ChildRuntime], None]) -> int:
    """Run *work* in this process; return the exit status for the service's log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    configure_structured_logs()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the settings are read
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service stops us with SIGTERM
    child: ChildRuntime | None = None
    try:
        restrict_new_files()
        settings = load_process_settings(arguments.settings)
        configure_structured_logs(settings.logs.level, settings.logs.format)
        child = ChildRuntime(settings, socket.socket(fileno=arguments.socket))
        signal.signal(signal.SIGHUP, partial(child.handle_reload_signal, arguments.settings))
        signal.signal(signal.SIGTERM, child.handle_stop_signal)
        work(child)
    except (BrokenPipeError, ConnectionResetError, StopRequested):
        return 0
    except Fenced as error:
        _log.error("another worker took the partition", error=str(error))
        return FENCED_EXIT_STATUS
    except TrustwatchError as error:
        _log.error("process stopped", code=error.code, error=str(error))
        return 1
    finally:
        if child is not None:
            child.close()
    return 0


# The service's end of an update socket.

FIRST_RESTART_S = 1.0
MAX_RESTART_S = 30.0
STABLE_AFTER_S = 60.0
"""A process that ran so long is restarted at once; one that keeps failing, at growing intervals."""

STOP_TIMEOUT_S = 30.0
MAX_FRAME_BYTES = 64 * 1024 * 1024


class SupervisedProcess:
    """Keeps one child process running and applies its updates."""

    def __init__(
        self,
        module: str,
        settings_file: Path | None,
        apply: Callable[[PipelineUpdate], None],
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self._module = module
        self._settings_file = settings_file
        self._apply = apply
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Run the process, and restart it when it dies, until `stop`."""
        pause_s = FIRST_RESTART_S
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started = loop.time()
            status = await self._run_once()
            self._on_exit()
            if self._stopping:
                return
            pause_s = FIRST_RESTART_S if loop.time() - started >= STABLE_AFTER_S else min(2 * pause_s, MAX_RESTART_S)
            problem = "process ended; its work waits until it is restarted"
            _log.error(problem, module=self._module, exit_status=status, again_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause_s)

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", self._module, "--socket", str(theirs.fileno())]
        if self._settings_file is not None:
            command += ["--settings", str(self._settings_file)]
        self._process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()])
        theirs.close()
        if self._stopping:  # stopped while the process was being created
            self._process.terminate()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_FRAME_BYTES)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                while True:
                    (length,) = LENGTH_PREFIX.unpack(await reader.readexactly(LENGTH_PREFIX.size))
                    self._handle_frame(await reader.readexactly(length))
                    await asyncio.sleep(0)  # a commit is many frames, and reading buffered ones never yields
            return await self._process.wait()
        finally:
            writer.close()

    def _handle_frame(self, frame: bytes) -> None:
        """Apply one report; processes that do not send updates override this."""
        self._apply(decode_update(frame))

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

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
