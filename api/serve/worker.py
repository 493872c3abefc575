"""The pipeline process: `python -m trustwatch.api.serve.worker`, started by the service with one end of a local socket.

A process of its own keeps answers at their speed while events are scored. It ends when told to (SIGTERM), when nobody
reads its updates any more, or when another worker has taken its partition.
"""

from __future__ import annotations

import argparse
import gc
import select
import signal
import socket
from pathlib import Path
from types import FrameType

import structlog

from ...ingest.columns import ColumnEncoder
from ...ingest.dedup import DuplicateWindow
from ...ingest.errors import Fenced, TrustwatchError
from ...ingest.log import LogReader
from ...models.persist import load
from ...scoring.channel import UpdateSender
from ...scoring.pipeline import Committed, Pipeline
from ...scoring.processor import Processor
from ...scoring.residence import Residence
from ...scoring.store import Store, open_store, sqlite_url
from .. import clock
from ..settings import Settings, process_settings
from .logs import configure_logs
from .wiring import context, engine_settings, pipeline_settings, policy_table

_log = structlog.get_logger(__name__)

ALIVE_EVERY_S = 0.5
FENCED_STATUS = 3


class Worker:
    """One pipeline with its surroundings.

    Args:
        settings: of the service.
        connection: end of the update socket.
    """

    def __init__(self, settings: Settings, connection: socket.socket) -> None:
        self._connection = connection
        self._sender = UpdateSender(connection)
        self._stopping = False
        self._told_at = 0.0
        self.store: Store = open_store(sqlite_url(settings.data_dir / "trustwatch.db"), settings.dead_letters.max_rows)
        self.source = LogReader(settings.data_dir / "log")
        model = load(settings.model_dir)
        processor = Processor(
            Residence(model, engine_settings(settings), self.store), ColumnEncoder(model.salt, settings.domains()),
            DuplicateWindow(), context(settings),
        )  # fmt: skip
        self.pipeline = Pipeline(
            self.source, processor, self.store, policy_table(settings), pipeline_settings(settings), clock.monotonic,
            clock.sleep, self._committed,
        )  # fmt: skip

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """End after the batch at hand, with everything committed."""
        self._stopping = True

    def run(self) -> None:
        """Work until told to stop or nobody listens."""
        self.pipeline.start()
        gc.freeze()
        while not self._stopping and not self._abandoned():
            self.pipeline.step()
            self._say_alive()
        self.pipeline.finish()

    def _committed(self, done: Committed) -> None:
        stages = self.pipeline.stages
        self._sender.committed(done, dict(stages.counts), dict(stages.seconds))
        self._told_at = clock.monotonic()

    def _say_alive(self) -> None:
        if clock.monotonic() - self._told_at >= ALIVE_EVERY_S:
            stages = self.pipeline.stages
            behind = self.source.end_offset(0) - self.pipeline.position.offset
            self._sender.alive(self.pipeline.position.offset, behind, dict(stages.counts), dict(stages.seconds))
            self._told_at = clock.monotonic()

    def _abandoned(self) -> bool:
        """Whether the service has gone: its end of the socket is closed."""
        readable, _, _ = select.select([self._connection], [], [], 0)
        return bool(readable) and self._connection.recv(1, socket.MSG_PEEK) == b""

    def close(self) -> None:
        """Release files and connections."""
        self.source.close()
        self.store.close()
        self._connection.close()


def main() -> int:
    """Run a worker on the inherited socket; the exit status names what ended it, for the service's log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    configure_logs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service tells us when to stop
    worker: Worker | None = None
    try:
        worker = Worker(process_settings(arguments.settings), socket.socket(fileno=arguments.socket))
        signal.signal(signal.SIGTERM, worker.stop)
        worker.run()
    except (BrokenPipeError, ConnectionResetError):
        return 0
    except Fenced as error:
        _log.error("another worker took the partition", error=str(error))
        return FENCED_STATUS
    except TrustwatchError as error:
        _log.error("pipeline stopped", code=error.code, error=str(error))
        return 1
    finally:
        if worker is not None:
            worker.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
