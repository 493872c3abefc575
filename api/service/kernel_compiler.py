"""A process that compiles kernels: `python -m trustwatch.api.service.kernel_compiler --model DIR PART…`.

The service starts one if code is not kept yet, `trustwatch compile` two. It ends when its parts are done.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.pipeline.kernel_warm_up import (
    NEEDED_TO_SCORE,
    KernelPart,
    is_part_kept,
    warm_up,
    warm_up_judging,
    warm_up_reading,
)
from trustwatch.scoring.policy.book import LivePolicy

from .. import clock
from ..composition import live_policy
from ..file_access import restrict_new_files
from ..settings.root import Settings
from ..structured_logs import configure_structured_logs

COMPILING = "kernels are being compiled: the first start on this machine takes a minute, several on a busy machine"
"""Reason why a service is not ready."""

_log = structlog.get_logger(__name__)


def parts_beside_service(*, workers: bool, calls: bool) -> list[KernelPart]:
    """Parts that are not kept and that another process than the worker is to compile, the most urgent first."""
    parts = [part for part in (KernelPart.JUDGING, KernelPart.READING) if not is_part_kept(part)]
    if workers:
        return parts
    # A process that compiles features scores whole events, which compiles judging, too, if only that is missing.
    features = [KernelPart.FEATURES] if calls and not is_scoring_kept() else []
    return features + [part for part in parts if part is not KernelPart.JUDGING]


def is_scoring_kept() -> bool:
    """Return whether a worker starts at once."""
    return all(is_part_kept(part) for part in NEEDED_TO_SCORE)


def _command(parts: Sequence[KernelPart], model_dir: Path) -> list[str]:
    words = [part.value for part in parts]
    return [sys.executable, "-m", "trustwatch.api.service.kernel_compiler", "--model", str(model_dir), *words]


async def compile_beside_service(parts: Sequence[KernelPart], model_dir: Path, quiet: asyncio.Event) -> None:
    """Compile *parts* in another process, which ends with the service."""
    if not parts:
        return
    _log.info("compiling kernels next to the service", parts=[part.value for part in parts])
    process = await asyncio.create_subprocess_exec(*_command(parts, model_dir))
    ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(quiet.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        process.terminate()
    elif ended.result():
        _log.error(
            "kernels were not compiled: records are read the slower way, and calls may be judged by the level alone",
            exit_status=ended.result(),
            advice="run `trustwatch compile`, which states why",
        )
    await ended


async def compile_all(model_dir: Path) -> bool:
    """Compile every part of the service's kernels in two processes; return whether both succeeded."""
    groups = ([KernelPart.FEATURES], [KernelPart.JUDGING, KernelPart.READING])
    started = [await asyncio.create_subprocess_exec(*_command(parts, model_dir)) for parts in groups]
    return not any(await asyncio.gather(*(process.wait() for process in started)))


_log = structlog.get_logger(__name__)


def compile_to_score(model: TrainedModel, encoder: ColumnEncoder, policy: LivePolicy) -> None:
    """Compile, or load, all that scores events, and log what takes long. Code that others have compiled is loaded."""
    started = clock.monotonic()
    missing = [part.value for part in NEEDED_TO_SCORE if not is_part_kept(part)]
    if missing:
        _log.info("compiling kernels: the first start on this machine takes longer", parts=missing)
    warm_up(model, encoder, policy)
    if missing:
        _log.info("kernels are compiled", parts=missing, seconds=round(clock.monotonic() - started, 1))


def compile_parts(parts: Sequence[KernelPart], model_dir: Path) -> None:
    """Compile parts, one after the other. Raises ModelError if a part needs a model and there is none."""
    for part in parts:
        if part is KernelPart.READING:
            _compile_reading()
            continue
        model = load_trained_model(model_dir)
        encoder, policy = ColumnEncoder(model.salt, {}), live_policy(Settings())
        if part is KernelPart.JUDGING:
            warm_up_judging(model, encoder, policy)
        else:
            compile_to_score(model, encoder, policy)


def _compile_reading() -> None:
    started, kept = clock.monotonic(), is_part_kept(KernelPart.READING)
    warm_up_reading()
    if not kept:
        seconds = round(clock.monotonic() - started, 1)
        _log.info("kernels are compiled", parts=[KernelPart.READING.value], seconds=seconds)


def main() -> int:
    """Compile what the command line names; the exit status is 1 if that fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("parts", nargs="+", type=KernelPart)
    arguments = parser.parse_args()
    configure_structured_logs()
    restrict_new_files()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the process that started this one ends it
    try:
        compile_parts(arguments.parts, arguments.model)
    except TrustwatchError as error:
        _log.error("kernels were not compiled", code=error.code, error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
