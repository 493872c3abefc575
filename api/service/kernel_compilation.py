"""Compilation of kernels in processes of their own, where their machine code is not kept on disk yet."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from trustwatch.scoring.pipeline.kernel_warm_up import NEEDED_TO_SCORE, KernelPart, is_part_kept

COMPILING = "kernels are compiled: the first start on this machine takes a minute, beside other work several"
"""Reason of a service that is not ready for that."""

_log = structlog.get_logger(__name__)


def parts_beside_service(*, workers: bool, calls: bool) -> list[KernelPart]:
    """Parts that are not kept and that another process than the worker is to compile, the most urgent first."""
    parts = [part for part in (KernelPart.JUDGING, KernelPart.READING) if not is_part_kept(part)]
    if workers:
        return parts
    # Whoever compiles features scores whole events, so that judging is compiled, too, where only that is missing.
    features = [KernelPart.FEATURES] if calls and not is_scoring_kept() else []
    return features + [part for part in parts if part is not KernelPart.JUDGING]


def is_scoring_kept() -> bool:
    """Tell whether a worker starts at once."""
    return all(is_part_kept(part) for part in NEEDED_TO_SCORE)


def _command(parts: Sequence[KernelPart], model_dir: Path) -> list[str]:
    words = [part.value for part in parts]
    return [sys.executable, "-m", "trustwatch.api.service.kernel_compiler", "--model", str(model_dir), *words]


async def compile_beside_service(parts: Sequence[KernelPart], model_dir: Path, quiet: asyncio.Event) -> None:
    """Compile *parts* in another process, which ends with the service."""
    if not parts:
        return
    _log.info("compiling kernels beside the service", parts=[part.value for part in parts])
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
            advice="run `trustwatch compile`, which says why",
        )
    await ended


async def compile_all(model_dir: Path) -> bool:
    """Compile every part of the service's kernels in two processes; tell whether both succeeded."""
    groups = ([KernelPart.FEATURES], [KernelPart.JUDGING, KernelPart.READING])
    started = [await asyncio.create_subprocess_exec(*_command(parts, model_dir)) for parts in groups]
    return not any(await asyncio.gather(*(process.wait() for process in started)))
