"""A process that compiles kernels ahead of their use: `python -m trustwatch.api.service.kernel_compiler MODEL`.

The service starts one if machine code is missing. It ends when everything is compiled, or with the service.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import structlog

from trustwatch.ingest.compilation import KERNEL_DIRECTORY, KernelPart, is_kept
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.pipeline.kernel_warm_up import Report, compile_part

from ..file_access import restrict_new_files
from ..structured_logs import configure_structured_logs

COMPILING = "kernels are being compiled: the first start on this machine takes a minute, on a busy machine several"
"""Why a service is not ready to score yet."""

AHEAD = (KernelPart.SCORING, KernelPart.READING)  # the most urgent first

_log = structlog.get_logger(__name__)


def compile_ahead(model_dir: Path, report: Report | None = None) -> None:
    """Compile all kernels of the service that are not kept. Raises ModelError if the model cannot be read."""
    for part in AHEAD:
        if not is_kept(part):
            compile_part(part, lambda: load_trained_model(model_dir), report)


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
