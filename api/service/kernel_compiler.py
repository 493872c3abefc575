"""A process that compiles kernels ahead of their use: `python -m trustwatch.api.service.kernel_compiler MODEL`.

The service starts one if machine code is missing. It ends when everything is compiled, or with the service.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import structlog

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import KERNEL_DIRECTORY, ROOM_BYTES, KernelPart, is_kept, mark_kept
from trustwatch.ingest.durable_files import lock_file
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.pipeline.kernel_warm_up import warm_up, warm_up_reading
from trustwatch.scoring.policy.book import LivePolicy

from ..composition import live_policy
from ..file_access import restrict_new_files
from ..settings.root import Settings
from ..structured_logs import configure_structured_logs

COMPILING = "kernels are being compiled: the first start on this machine takes a minute, on a busy machine several"
"""Why a service is not ready to score yet."""

AHEAD = (KernelPart.SCORING, KernelPart.READING)  # the most urgent first

PROGRESS_EVERY_S = 5.0

ToScore = tuple[TrainedModel, ColumnEncoder, LivePolicy]
Report = Callable[..., object]
"""Receives progress as a log does: a text, and values by name."""

_log = structlog.get_logger(__name__)


def compile_part(part: KernelPart, load: Callable[[], ToScore], report: Report | None = None) -> None:
    """Call every kernel of a part, so that it is compiled, or loaded if its machine code is kept.

    One process of a host compiles at a time and reports its progress, by default to the log; the others wait and load
    what it has compiled. `load` is called for SCORING only.
    """
    report = report or _log.info
    with _turn_to_compile(part, report), nullcontext() if is_kept(part) else _reported_progress(part, report):
        if part is KernelPart.READING:
            warm_up_reading()
        else:
            warm_up(*load())
        mark_kept(part)


@contextmanager
def _turn_to_compile(part: KernelPart, report: Report) -> Iterator[None]:
    """Wait until no other process compiles, or one has compiled the part. The lock of a process that dies is free."""
    if KERNEL_DIRECTORY is None:
        report(
            "machine code cannot be kept: each process compiles at each start",
            advice=f"set NUMBA_CACHE_DIR to a directory that can be written to and has {ROOM_BYTES >> 20} MiB free",
        )
        yield
        return
    with (KERNEL_DIRECTORY / "lock").open("ab") as file:
        if not is_kept(part) and not lock_file(file, wait=False):
            report("waiting for the process that compiles kernels", part=part.value)
            while not is_kept(part) and not lock_file(file, wait=False):
                time.sleep(0.1)  # not for the lock: its holder may continue with another part
        yield


@contextmanager
def _reported_progress(part: KernelPart, report: Report) -> Iterator[None]:
    started, done = time.monotonic(), threading.Event()

    def report_regularly() -> None:
        while not done.wait(PROGRESS_EVERY_S):
            kernels = sum(1 for _ in KERNEL_DIRECTORY.rglob("*.nbc")) if KERNEL_DIRECTORY else 0
            report("compiling kernels", part=part.value, kernels=kernels, seconds=round(time.monotonic() - started))

    report("compiling kernels: once for each version on this machine", part=part.value)
    threading.Thread(target=report_regularly, daemon=True).start()
    try:
        yield
    finally:
        done.set()
    report("kernels are compiled", part=part.value, seconds=round(time.monotonic() - started, 1))


def compile_ahead(model_dir: Path, parts: Iterable[KernelPart] = AHEAD, report: Report | None = None) -> None:
    """Compile parts of the service's kernels that are not kept. Raises ModelError if the model cannot be read."""

    def load() -> ToScore:
        model = load_trained_model(model_dir)
        return model, ColumnEncoder(model.salt, {}), live_policy(Settings())

    for part in parts:
        if not is_kept(part):
            compile_part(part, load, report)


def _command(model_dir: Path) -> list[str]:
    return [sys.executable, "-m", "trustwatch.api.service.kernel_compiler", str(model_dir)]


async def compile_beside_service(model_dir: Path, quiet: asyncio.Event) -> None:
    """Compile what is not kept in another process, which ends with the service."""
    if KERNEL_DIRECTORY is None or all(map(is_kept, AHEAD)):
        return
    process = await asyncio.create_subprocess_exec(*_command(model_dir))
    ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(quiet.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        process.terminate()
    elif ended.result():
        _log.error(
            "kernels were not compiled: records are read the slower way, and calls may be judged by the level alone",
            exit_status=ended.result(),
            advice="run `trustwatch compile`, which shows why",
        )
    await ended


def main() -> int:
    """Compile; the exit status is 1 if it failed."""
    configure_structured_logs()
    restrict_new_files()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service ends this process
    try:
        compile_ahead(Path(sys.argv[1]))
    except TrustwatchError as error:
        _log.error("kernels were not compiled", code=error.code, error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
