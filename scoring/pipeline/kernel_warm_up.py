"""Compilation of kernels ahead of their use.

Machine code is kept on disk, so a warm-up costs a tenth of a second. The first start after an installation compiles for
half a minute. A member of a group that is silent for so long after it got partitions would hold them up.
"""

from __future__ import annotations

import msgspec
import numpy as np

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.features.feature_table import FEATURE_COUNT
from trustwatch.ingest.identities import IdentityHasher, encode_agent_names
from trustwatch.ingest.scan import claim_reader, raw_encoder
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.trained_model import TrainedModel

from ..engine.agent_paces import AgentPaces, PlaceSet
from ..engine.delegation import EdgeCollector
from ..engine.engine import Engine, EngineSettings, measured_columns
from ..engine.round_kernels import RoundInput
from ..engine.scored_batch import ScoredBatch
from ..policy.book import LivePolicy
from .processor import Processor

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


def warm_up(model: TrainedModel, encoder: ColumnEncoder, policy: LivePolicy) -> None:
    """Score a few events of agents that are forgotten at once."""
    _process_events(Engine(model, EngineSettings(capacity=2), None), encoder, policy)


def warm_up_reading() -> None:
    """Read an event in both ways in which records are read."""
    salt, event = bytes(16), msgspec.json.encode(_WARM_UP_EVENT)
    raw_encoder.RawEncoder(ColumnEncoder(salt, {})).encode([event])
    sender = claim_reader.BatchSender(0, "")
    claim_reader.ClaimReader(salt, IdentityHasher(salt)).read([event], sender, 0, aliased=False)


def _process_events(engine: Engine, encoder: ColumnEncoder, policy: LivePolicy) -> None:
    processor = Processor(engine, encoder, DuplicateWindow(1), policy, edges=EdgeCollector(), compiled_elsewhere=True)
    agents = (msgspec.json.encode({**_WARM_UP_EVENT, "agent": {"id": f"warm-{number % 3}"}}) for number in range(6))
    records = [Record(RecordKind.EVENT, number + 1, _WARM_UP_TIME_MS, raw) for number, raw in enumerate([*agents] * 2)]
    records.append(Record(RecordKind.EVENT, 99, _WARM_UP_TIME_MS, msgspec.json.encode(_WARM_UP_EVENT)))
    records.append(Record(RecordKind.TICK, 0, _WARM_UP_TIME_MS, (_WARM_UP_TIME_MS + DAY_MS).to_bytes(8, "little")))
    applied = processor.apply(RecordBatch(0, 0, records))
    scored, paces = applied.scored[0][0], AgentPaces()
    _suppress_first_row(engine, scored)
    paces.flag(paces.note(scored), 0, PlaceSet(), PlaceSet())
    engine.identities.agent_hashes(encode_agent_names(["warm"], ["up"], ["warm"]))  # as stored agents move in


def _suppress_first_row(engine: Engine, scored: ScoredBatch) -> None:
    """Measure a row without a name that has counted, which a model that knows nothing never does."""
    first, given = np.zeros(1, np.int64), RoundInput.allocate(1, FEATURE_COUNT)
    for array in given:
        array[:] = 0
    measured, evidence = measured_columns(scored), np.zeros((1, FEATURE_COUNT))
    engine.measure_suppressed(scored, measured, first, given, first, np.ones(1, np.uint32), evidence)
