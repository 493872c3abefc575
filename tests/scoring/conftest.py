"""A small world with a trained model, for the tests of the scoring core."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.agent_state_cache import AgentLoader
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.pipeline.processor import Processor
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

SALT = b"a salt of tests!"
START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
SETTINGS = DetectorSettings(trees=20, folds=3)
ACTIONS = ("read", "list", "write", "export", "login")


def stamp(at_ms: int) -> str:
    """RFC 3339 of UTC milliseconds."""
    from datetime import UTC, datetime

    whole = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def event(number: int, agent: int | str, at_ms: int, **more: Any) -> dict[str, Any]:
    """A plain event of an agent; *more* replaces members (`agent_…` those of the agent)."""
    name = agent if isinstance(agent, str) else f"agent-{agent}"
    kind = "Payer" if isinstance(agent, int) and agent % 2 else "Reader"
    who = {"id": name, "issuer": "https://as.example", "type": kind}
    who.update({key.removeprefix("agent_"): more.pop(key) for key in list(more) if key.startswith("agent_")})
    return {
        "id": f"e-{number}",
        "time": stamp(at_ms),
        "type": "tool.call",
        "tenant": "acme",
        "agent": who,
        "action": "read",
        "outcome": "success",
        "resource": {"target": f"host-{name}"},
        "credential": {"method": "private_key_jwt", "thumbprint": f"key-{name}"},
        "client": {"asn": 64500},
        **more,
    }


def stream(seed: int, count: int, agents: int = 12, start_ms: int = START_MS, odd: float = 0.0) -> list[dict[str, Any]]:
    """Events of several agents in time order; a share *odd* of them does strange things."""
    dice = random.Random(seed)
    at_ms, events = start_ms, []
    for number in range(count):
        at_ms += dice.randrange(1_000, 240_000)
        agent = dice.randrange(agents)
        action = ACTIONS[min(int(dice.expovariate(0.9)), len(ACTIONS) - 1)]
        made = event(
            number,
            agent,
            at_ms,
            action=action,
            session=f"s-{agent}-{at_ms // 7_200_000}",
            resource={"target": f"host-{agent}-{dice.randrange(5)}"},
            bytes_out=dice.randrange(100, 2_000),
        )
        made["id"] = f"e-{seed}-{number}"
        if dice.random() < odd:
            strange = dice.randrange(6)
            made["action"] = f"attack-{dice.randrange(50)}"
            made["resource"] = {"target": f"evil-{dice.randrange(1000)}", "external": True}
            if strange == 1:
                made["agent"]["self_asserted"] = True
                made["agent"]["type"] = "Admin"
            if strange == 2:
                made["outcome"], made["error"] = "denied", "ext_authz_denied"
            if strange == 3:
                made["time"] = stamp(at_ms - 86_400_000)
            if strange == 4:
                made["agent"]["type"] = "Payer" if made["agent"]["type"] == "Reader" else "Reader"
            if strange == 5:
                made["credential"] = {"method": "none", "thumbprint": "stolen"}
        events.append(made)
    return events


class Kit:
    """What tests build from the model."""

    def __init__(self, model: TrainedModel) -> None:
        self.model = model

    def columns(self, events: Sequence[dict[str, Any]]) -> EventColumns:
        """Events as columns."""
        return ColumnEncoder(self.model.salt).encode([decode_event(json.dumps(e).encode()) for e in events])

    def records(self, events: Sequence[dict[str, Any]], received_ms: int | None = None) -> list[Record]:
        """Events as records, received when they happened."""
        return [self.record(e, received_ms) for e in events]

    @staticmethod
    def record(made: dict[str, Any], received_ms: int | None = None) -> Record:
        """One event as a record."""
        raw = json.dumps(made).encode()
        at = int(decode_event(raw).time.timestamp() * 1000) if received_ms is None else received_ms
        return Record(RecordKind.EVENT, raw_id_hash(raw), at, raw)

    @staticmethod
    def tick(at_ms: int) -> Record:
        """Time advances."""
        return Record(RecordKind.TICK, 0, at_ms, at_ms.to_bytes(8, "little"))

    def processor(
        self,
        store: AgentLoader | None = None,
        capacity: int = 1000,
        identities: IdentityHasher | None = None,
        **more: Any,
    ) -> Processor:
        """A processor of its own."""
        engine = Engine(self.model, EngineSettings(capacity=capacity, **more), store, identities=identities)
        policy = LivePolicy(PolicyBook(modes={"acme": "enforce"}))
        encoder = ColumnEncoder(self.model.salt, identities=engine.identities)
        return Processor(engine, encoder, DuplicateWindow(4096), policy)

    @staticmethod
    def batches(records: Sequence[Record], sizes: Iterator[int]) -> Iterator[RecordBatch]:
        """Records cut as *sizes* say."""
        at = 0
        while at < len(records):
            part = list(records[at : at + next(sizes)])
            yield RecordBatch(0, at, part)
            at += len(part)


@pytest.fixture(scope="session")
def model() -> TrainedModel:
    """A model of two peer groups."""
    columns = ColumnEncoder(SALT).encode([decode_event(json.dumps(e).encode()) for e in stream(1, 2_000)])
    return train_model(columns, SALT, "test-1", SETTINGS)


@pytest.fixture(scope="session")
def kit(model: TrainedModel) -> Kit:
    """Builders around the model."""
    return Kit(model)


@pytest.fixture(scope="session")
def make() -> Any:
    """The event factories: `make.event`, `make.stream`, `make.stamp`, `make.START_MS`."""
    from types import SimpleNamespace

    return SimpleNamespace(event=event, stream=stream, stamp=stamp, START_MS=START_MS, SALT=SALT, SETTINGS=SETTINGS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty store."""
    with closing(open_store(sqlite_url(tmp_path / "store.db"))) as opened:
        yield opened
