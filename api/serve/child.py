"""What every process beside the answering one has in common: its settings, its socket to the service, and its end.

It ends when told to (SIGTERM), when nobody reads what it reports any more, or with a status that says why it could not
go on; the service starts it again.
"""

from __future__ import annotations

import argparse
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import structlog

from ...ingest.errors import Fenced, TrustwatchError
from ...scoring.channel import LENGTH_PREFIX, PipelineUpdateSender
from .. import clock
from ..settings import Settings, load_process_settings
from .logs import configure_structured_logs

_log = structlog.get_logger(__name__)

FENCED_EXIT_STATUS = 3


class StopRequested(Exception):
    """The process was told to end while it waited for a service that does not answer.

    What was not committed is read again at the next start.
    """


class ChildRuntime:
    """One process of the service.

    Args:
        settings: of the service.
        connection: end of the update socket.
    """

    def __init__(self, settings: Settings, connection: socket.socket) -> None:
        self.settings = settings
        self.sender = PipelineUpdateSender(connection)
        self._connection = connection
        self._stop_requested = False

    def handle_stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        """End after the work at hand."""
        self._stop_requested = True

    @property
    def should_stop(self) -> bool:
        """Whether it was told to end, or the service has gone: its end of the socket is closed."""
        return self._stop_requested or self._parent_is_gone()

    def _parent_is_gone(self) -> bool:
        readable, _, _ = select.select([self._connection], [], [], 0)
        return bool(readable) and self._connection.recv(1, socket.MSG_PEEK) == b""

    def sleep(self, seconds: float) -> None:
        """Wait for a service that does not answer. Raises Stopping once the process was told to end."""
        if self.should_stop:
            raise StopRequested
        clock.sleep(seconds)

    def raise_if_stopping(self) -> None:
        """Raises Stopping once the process was told to end."""
        if self.should_stop:
            raise StopRequested

    def send(self, body: bytes) -> None:
        """Report to the service. Raises OSError when nobody reads."""
        self._connection.sendall(LENGTH_PREFIX.pack(len(body)) + body)

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()


def run_child(work: Callable[[ChildRuntime], None]) -> int:
    """Run *work* in this process; the exit status names what ended it, for the service's log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    configure_structured_logs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service tells us when to stop
    child: ChildRuntime | None = None
    try:
        child = ChildRuntime(load_process_settings(arguments.settings), socket.socket(fileno=arguments.socket))
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
