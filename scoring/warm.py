"""Runs every kernel of the live path once, before a worker takes anything over.

Machine code is kept on disk, so this costs a tenth of a second, but the first start after an installation compiles for
a minute: a member of a group that falls silent for so long right after it got partitions would hold them up.
"""

from __future__ import annotations

import msgspec

from ..ingest.columns import ColumnEncoder
from ..ingest.dedup import DuplicateWindow
from ..ingest.source import Record, RecordBatch, RecordKind
from ..models.bundle import TrainedModel
from .engine import EngineSettings
from .processor import Processor, ProcessorContext
from .residence import AgentStateCache

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


def warm_up(model: TrainedModel, encoder: ColumnEncoder, context: ProcessorContext) -> None:
    """Score a few events of agents that are forgotten at once."""
    processor = Processor(
        AgentStateCache(model, EngineSettings(capacity=2), None), encoder, DuplicateWindow(1), context
    )
    agents = (msgspec.json.encode({**_WARM_UP_EVENT, "agent": {"id": f"warm-{number % 3}"}}) for number in range(6))
    records = [Record(RecordKind.EVENT, number + 1, _WARM_UP_TIME_MS, raw) for number, raw in enumerate([*agents] * 2)]
    records.append(Record(RecordKind.EVENT, 99, _WARM_UP_TIME_MS, msgspec.json.encode(_WARM_UP_EVENT)))
    records.append(Record(RecordKind.TICK, 0, _WARM_UP_TIME_MS, (_WARM_UP_TIME_MS + 86_400_000).to_bytes(8, "little")))
    processor.apply(RecordBatch(0, 0, records))
