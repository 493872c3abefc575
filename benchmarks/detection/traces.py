"""The real traces beside the project, as the benchmark sees them: history, test, truth, and our own scores."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.learning.walkforward import train_walk_forward
from trustwatch.scoring.pipeline.replay import HistoryReplay, ReplayedEvent

from .metrics import MeasuredFigures, measure

TRACE_SETS = ("agentdojo", "ats", "cloudtrail", "agentdyn")
SALT = b"salt of the traces"
BY_EVENT = frozenset({"cloudtrail"})
"""Sets judged per event; the others per session, whose score is its largest event score."""
LEAST_TASKS = 10
"""Users' tasks that a set must have before intervals are drawn over them."""
ROOT = Path(__file__).resolve().parents[2]


class JudgedUnits(NamedTuple):
    """What is judged: truth bool (n,), session of each unit (n,), and the unit of each kept event."""

    bad: NDArray[np.bool_]
    block: NDArray[np.int64]
    kept: NDArray[np.int64]  # (m,) rows of the test part that are judged
    unit: NDArray[np.int64]  # (m,) their unit


@dataclass(frozen=True)
class Trace:
    """One set. `train` and `test` are raw lines; labels are one per test event, in order."""

    name: str
    train: list[bytes]
    test: list[bytes]
    labels: list[dict[str, Any]]

    @cached_property
    def train_events(self) -> list[dict[str, Any]]:
        """History as plain JSON, for rivals."""
        return [json.loads(line) for line in self.train]

    @cached_property
    def test_events(self) -> list[dict[str, Any]]:
        """Test events as plain JSON, for rivals."""
        return [json.loads(line) for line in self.test]

    @property
    def by_event(self) -> bool:
        """Whether single events are judged."""
        return self.name in BY_EVENT

    @cached_property
    def units(self) -> JudgedUnits:
        """Sessions in which an injection was shown and resisted are neither good nor bad, and left out."""
        kept = [row for row, label in enumerate(self.labels) if label["class"] != "resisted"]
        number: dict[str, int] = {}
        block = [number.setdefault(self.labels[row]["session"], len(number)) for row in kept]
        if self.by_event:
            bad = [bool(self.labels[row]["event_label"]) for row in kept]
            return JudgedUnits(np.array(bad), np.array(block), np.array(kept), np.arange(len(kept)))
        bad = [False] * len(number)
        for row, session in zip(kept, block, strict=True):
            bad[session] |= bool(self.labels[row]["session_label"])
        return JudgedUnits(np.array(bad), np.arange(len(number)), np.array(kept), np.array(block))

    @cached_property
    def groups(self) -> list[str]:
        """What the units are drawn by for intervals: the user's task of each, or its session where tasks are few."""
        units, tasks = self.units, [str(event.get("task")) for event in self.test_events]
        sessions = [label["session"] for label in self.labels]
        names = tasks if len({tasks[row] for row in units.kept.tolist()}) >= LEAST_TASKS else sessions
        group = [""] * len(units.bad)
        for row, unit in zip(units.kept.tolist(), units.unit.tolist(), strict=True):
            group[unit] = names[row]
        return group

    def unit_scores(self, event_scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of the units from scores of all test events (n,): the largest of each."""
        units = self.units
        lifted = np.full(len(units.bad), -np.inf)
        np.maximum.at(lifted, units.unit, event_scores[units.kept])
        return lifted

    def judge(self, event_scores: NDArray[np.float64], draws: int) -> MeasuredFigures:
        """Figures of scores of all test events (n,)."""
        units = self.units
        return measure(units.bad, self.unit_scores(event_scores), units.block, draws)


def data_folder() -> Path:
    """Where the traces are: $TRUSTWATCH_SHARED/data, by default beside the project."""
    return Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared") / "data"


def missing() -> str:
    """Why the traces cannot be read; "" if they can."""
    gone = [name for name in TRACE_SETS if not (data_folder() / name / "train.jsonl.gz").is_file()]
    if not gone:
        return ""
    return f"no traces of {', '.join(gone)} in {data_folder()}: set TRUSTWATCH_SHARED to the folder that holds data/"


def read(name: str) -> Trace:
    """One set from disk."""
    folder = data_folder() / name
    train, test, labels = (
        gzip.decompress((folder / f"{part}.jsonl.gz").read_bytes()).splitlines()
        for part in ("train", "test", "test.labels")
    )
    trace = Trace(name, train, test, [json.loads(line) for line in labels])
    if [label["id"] for label in trace.labels] != [event["id"] for event in trace.test_events]:
        raise SystemExit(f"{folder}: test.labels are not in the order of test")
    return trace


def train(
    lines: Sequence[bytes], name: str, salt: bytes = SALT, settings: DetectorSettings | None = None
) -> TrainedModel:
    """A model as `trustwatch train` makes it."""
    columns = ColumnEncoder(salt).encode([decode_history_event(line)[0] for line in lines])
    return train_walk_forward(columns, salt, name, settings).model


def replay(model: TrainedModel, lines: Sequence[bytes], learn: bool) -> list[ReplayedEvent]:
    """Scores as `trustwatch replay` gives them, in order, with reasons of odd events."""
    source = FileSource(io.BytesIO(b"\n".join(lines) + b"\n"))
    return list(HistoryReplay(model, EngineSettings(learn=learn)).replayed_events(source, _refuse))


def anomaly(lines: Iterator[ReplayedEvent] | Sequence[ReplayedEvent]) -> NDArray[np.float64]:
    """Anomaly scores of replayed events (n,)."""
    return np.array([line.anomaly_score for line in lines])


def _refuse(offset: int, path: str, reason: str) -> None:
    raise SystemExit(f"record {offset} is no event: {reason} at {path}")
