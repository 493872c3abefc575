"""A process that compiles kernels: `python -m trustwatch.api.service.kernel_compiler --model DIR PART…`.

The service starts one where code is not kept yet, `trustwatch compile` two. It ends when its parts are done.
"""

from __future__ import annotations

import argparse
import signal
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

_log = structlog.get_logger(__name__)


def compile_to_score(model: TrainedModel, encoder: ColumnEncoder, policy: LivePolicy) -> None:
    """Compile, or load, all that scores events, and log what takes long. What others have compiled is loaded."""
    started = clock.monotonic()
    missing = [part.value for part in NEEDED_TO_SCORE if not is_part_kept(part)]
    if missing:
        _log.info("compiling kernels: the first start on this machine takes longer", parts=missing)
    warm_up(model, encoder, policy)
    if missing:
        _log.info("kernels are compiled", parts=missing, seconds=round(clock.monotonic() - started, 1))


def compile_parts(parts: Sequence[KernelPart], model_dir: Path) -> None:
    """Compile parts, one after the other. Raises ModelError where a part needs a model and there is none."""
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
    """Compile what the command line names; the exit status is 1 where it could not be done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("parts", nargs="+", type=KernelPart)
    arguments = parser.parse_args()
    configure_structured_logs()
    restrict_new_files()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; whoever started this ends it
    try:
        compile_parts(arguments.parts, arguments.model)
    except TrustwatchError as error:
        _log.error("kernels were not compiled", code=error.code, error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
