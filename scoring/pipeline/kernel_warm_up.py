"""Compilation of kernels ahead of their use.

Machine code is kept on disk, so a warm-up costs a tenth of a second. The first start after an installation compiles for
half a minute. A member of a group that is silent for so long after it got partitions would hold them up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import msgspec
import numpy as np
import structlog

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import (
    KERNEL_DIRECTORY,
    ROOM_BYTES,
    KernelPart,
    is_kept,
    mark_kept,
    remove_unused_kernels,
)
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.durable_files import lock_file
from trustwatch.ingest.features.feature_table import FEATURE_COUNT
from trustwatch.ingest.identities import IdentityHasher, encode_agent_names
from trustwatch.ingest.scan import claim_reader, raw_encoder
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.trained_model import TrainedModel

from ..engine.agent_paces import AgentPaces
from ..engine.delegation import EdgeCollector
from ..engine.engine import Engine, EngineSettings, measured_columns
from ..engine.round_kernels import RoundInput
from ..policy.book import LivePolicy, PolicyBook
from .processor import Processor

Report = Callable[..., object]
"""Receives progress as a log does: a text, and values by name."""

PROGRESS_EVERY_S = 5.0

_log = structlog.get_logger(__name__)

_WARM_UP_TIME_MS = 1_764_547_200_000
_WARM_UP_EVENT = {
    "time": "2025-12-01T00:00:00Z",
    "type": "tool.call",
    "action": "warm",
    "outcome": "success",
    "tenant": "warm",
    "agent": {"id": "warm", "issuer": "https://warm.example", "type": "warm", "capabilities": ["warm"]},
    "delegation": ["warm", "up"],
    "resource": {"id": "warm@warm.example"},
    "client": {"ip": "192.0.2.1"},
    "scopes": {"requested": ["warm"], "granted": ["warm"]},
    "session": "warm",
}


def compile_part(part: KernelPart, load: Callable[[], TrainedModel], report: Report | None = None) -> None:
    """Call every kernel of a part, so that it is compiled, or loaded if its machine code is kept.

    One process of a host compiles at a time and reports its progress, by default to the log; the others wait and load
    what it has compiled. `load` is called for SCORING only.
    """
    report = report or _log.info
    with _turn_to_compile(part, report), nullcontext() if is_kept(part) else _reported_progress(part, report):
        if part is KernelPart.READING:
            warm_up_reading()
        else:
            warm_up(load())
        mark_kept(part)
    remove_unused_kernels()


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
    KERNEL_DIRECTORY.mkdir(parents=True, exist_ok=True)  # see `remove_unused_kernels`
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


def warm_up_reading() -> None:
    """Read an event in both ways in which records are read."""
    salt, event = bytes(16), msgspec.json.encode(_WARM_UP_EVENT)
    raw_encoder.RawEncoder(ColumnEncoder(salt, {})).encode([event])
    sender = claim_reader.BatchSender(0, "")
    claim_reader.ClaimReader(salt, IdentityHasher(salt)).read([event], sender, 0, aliased=False)


def warm_up(model: TrainedModel) -> None:
    """Score a few events of agents that are forgotten at once."""
    engine = Engine(model, EngineSettings(capacity=2), None)
    encoder, policy = ColumnEncoder(model.salt, {}), LivePolicy(PolicyBook())
    processor = Processor(engine, encoder, DuplicateWindow(1), policy, edges=EdgeCollector(), compiled_elsewhere=True)
    agents = (msgspec.json.encode({**_WARM_UP_EVENT, "agent": {"id": f"warm-{number % 3}"}}) for number in range(6))
    records = [Record(RecordKind.EVENT, number + 1, _WARM_UP_TIME_MS, raw) for number, raw in enumerate([*agents] * 2)]
    records.append(Record(RecordKind.EVENT, 99, _WARM_UP_TIME_MS, msgspec.json.encode(_WARM_UP_EVENT)))
    records.append(Record(RecordKind.TICK, 0, _WARM_UP_TIME_MS, (_WARM_UP_TIME_MS + DAY_MS).to_bytes(8, "little")))
    applied = processor.apply(RecordBatch(0, 0, records))
    scored = applied.scored[0][0]
    # Measure a row without a name that has counted, which a model that knows nothing never does.
    first, given = np.zeros(1, np.int64), RoundInput.allocate(1, FEATURE_COUNT)
    for array in given:
        array[:] = 0
    measured, evidence = measured_columns(scored), np.zeros((1, FEATURE_COUNT))
    engine.measure_suppressed(scored, measured, first, given, first, np.ones(1, np.uint32), evidence)
    AgentPaces().note(scored)
    engine.identities.agent_hashes(encode_agent_names(["warm"], ["up"], ["warm"]))  # as stored agents move in
