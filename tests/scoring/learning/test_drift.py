"""Drift: found where behaviour has shifted, and not found where it has not, however many events there are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.detector import DetectorSettings
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.learning import drift
from trustwatch.scoring.learning.drift import (
    EVIDENCE_BINS,
    DistributionSketch,
    PeerGroupMonitor,
    drift_alert_row,
    population_stability_index,
    sketch_from_json,
    with_drift_start,
)
from trustwatch.scoring.learning.promotion import DriftSettings
from trustwatch.scoring.learning.shadow import ShadowRun
from trustwatch.scoring.learning.training import TrainedVersion, train_and_save
from trustwatch.scoring.records.models import PeerGroupDay
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
BOUNDS = DriftSettings(reference_days=2)
SALT = b"salt of drift"


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days of the simulation are judged, small as they are."""
    monkeypatch.setattr(drift, "MIN_GROUP_EVENTS", 300)


class ModelAndLaterDays(NamedTuple):
    """A model of a week, and the raw events of the days behind it."""

    made: TrainedVersion
    later: list[bytes]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ModelAndLaterDays:
    """A simulated enterprise: seven days are learned, six more are to come (a Monday to half a Saturday)."""
    plan = SimulationSettings(
        start=MONDAY, duration=timedelta(days=12, hours=12), seed=11, agents=30, events_per_agent_day=60.0
    )
    end = (MONDAY + timedelta(days=7)).timestamp() * 1000
    past, later = [], []
    for event in simulate(plan):
        (past if event.at_ms < end else later).append(event.event)
    columns = ColumnEncoder(SALT).encode([decode_event(raw) for raw in past])
    place = tmp_path_factory.mktemp("drift") / "model"
    made = train_and_save(
        place,
        columns,
        SALT,
        "week",
        DetectorSettings(trees=30, folds=3, seed=1),
        EngineSettings(),
        0,
    )
    return ModelAndLaterDays(made, later)


def watched(world: ModelAndLaterDays, events: list[bytes], known: Iterable[PeerGroupDay] = ()) -> list[PeerGroupDay]:
    """Every day as a keeper would note it in the end."""
    run = ShadowRun(world.made.model, EngineSettings(capacity=500))
    watch = PeerGroupMonitor(run.model, BOUNDS, known)
    records = [Record(RecordKind.EVENT, raw_id_hash(raw), 0, raw) for raw in events]
    last: dict[tuple[int, str, str], PeerGroupDay] = {}
    for at in range(0, len(records), 500):
        for scored, _ in run.apply(RecordBatch(0, at, records[at : at + 500])):
            watch.observe(scored, run.processor.engine.agents)
        for day in watch.drain_changed_days():
            last[day.day, day.tenant, day.agent_type] = day
    return list(last.values())


def judged(days: list[PeerGroupDay]) -> list[PeerGroupDay]:
    """Days that were judged."""
    return [day for day in days if day.drift.get("judged")]


def shifted(world: ModelAndLaterDays, since: datetime) -> list[bytes]:
    """From then on everybody's answers are much larger, and a quarter of all is refused."""
    found = []
    for number, raw in enumerate(world.later):
        event = json.loads(raw)
        if datetime.fromisoformat(event["time"]) >= since:
            event["bytes_out"] = 50 * event.get("bytes_out", 100) + 500_000
            event["outcome"] = "denied" if number % 4 == 0 else event["outcome"]
        found.append(json.dumps(event).encode())
    return found


def test_the_same_behaviour_is_no_drift(world: ModelAndLaterDays) -> None:
    """Two days are the reference, three more of the same enterprise are judged: nothing has drifted."""
    days = watched(world, world.later)
    fleet = [day for day in days if day.tenant == "*"]

    assert [bool(day.drift.get("judged")) for day in fleet] == [False, False, True, True, True, False]
    assert [(day.day, day.tenant, day.agent_type, day.drift) for day in judged(days) if day.drift["drifted"]] == []
    assert all(day.agent_days <= 30 and sum(day.p_values) <= day.events for day in fleet)


def test_a_shift_of_behaviour_is_drift(world: ModelAndLaterDays) -> None:
    """On the day on which it begins, and not before it."""
    since = MONDAY + timedelta(days=10)
    fleet = {day.day: day for day in judged(watched(world, shifted(world, since))) if day.tenant == "*"}
    first = int(since.timestamp() * 1000) // DAY_MS

    assert sorted(fleet) == [first - 1, first, first + 1]
    assert fleet[first - 1].drift["drifted"] == []
    for day in (first, first + 1):
        assert "scores" in fleet[day].drift["drifted"]
        assert len(fleet[day].drift["drifted"]) > 1


def test_a_keeper_that_was_restarted_goes_on(world: ModelAndLaterDays) -> None:
    """The reference is what was noted before: a shift during the pause is found on the first day."""
    days = watched(world, world.later)
    noted = [day for day in days if "reference" in day.drift]
    since = MONDAY + timedelta(days=9)
    later = [raw for raw in shifted(world, since) if datetime.fromisoformat(json.loads(raw)["time"]) >= since]
    again = [day for day in judged(watched(world, later, noted)) if day.tenant == "*"]

    assert len(again) == 3
    assert all("scores" in day.drift["drifted"] for day in again)


def test_the_index_does_not_grow_with_the_sample() -> None:
    """Drawn from what is expected it stays near zero, for a hundred events and for a million; drawn otherwise not."""
    dice = np.random.default_rng(3)
    even = np.full((40, 10), 1_000)
    for n in (300, 3_000, 1_000_000):
        assert population_stability_index(dice.multinomial(n, [0.1] * 10, size=40), even, n, 10_000).max() < 0.1
    tilted = np.linspace(0.5, 1.5, 10) / 10
    small, large = (
        population_stability_index(dice.multinomial(n, tilted, size=40), even, n, 10_000) for n in (3_000, 300_000)
    )
    assert 0.05 < small.mean() < 0.2
    assert large.mean() == pytest.approx(small.mean(), abs=0.03)


def test_few_independent_pieces_prove_nothing() -> None:
    """Ten agents whose days are alike are ten observations, however many events they make."""
    even = np.full((1, 10), 1_000)
    odd = np.zeros((1, 10), np.int64)
    odd[0, :4] = 250
    assert population_stability_index(odd, even, 1_000, 1_000)[0] > 0.5
    assert (
        population_stability_index(odd, even, 10, 1_000)[0]
        < population_stability_index(odd, even, 1_000, 1_000)[0] - 1.0
    )


def test_a_sketch_comes_back_from_the_store() -> None:
    """And one of another number of features is none."""
    sketch = DistributionSketch(np.arange(10).reshape(2, EVIDENCE_BINS), np.arange(10), 7)
    found = sketch_from_json(msgspec.json.decode(msgspec.json.encode(sketch.as_json())), 2)
    assert found is not None
    assert found.features.tolist() == sketch.features.tolist()
    assert (found.p_values.tolist(), found.blocks) == (list(range(10)), 7)
    assert sketch_from_json(sketch.as_json(), 3) is None
    assert sketch_from_json({}, 2) is None


def drifted(day: int, version: str = "v", what: list[str] | None = None) -> PeerGroupDay:
    """A judged day."""
    said = {"judged": True, "scores": 0.5, "features": {"pace": 0.4}, "drifted": ["scores"] if what is None else what}
    return PeerGroupDay(version, day, "acme", "Payer", 900, 10, (0, 0, 0), (), said)


def test_a_drift_is_told_once_and_again_after_a_week() -> None:
    """The key of the alert is that of the drift: the store takes it once. One that ends and comes back is another."""
    keys, before = [], None
    quiet = {105, 106}
    for number in range(100, 116):
        day = with_drift_start(drifted(number, what=[] if number in quiet else None), before)
        before = day
        if day.drift["drifted"]:
            keys.append((number, drift_alert_row(day, 0, "https://tw.example").key))

    told = [number for number, group in itertools.groupby(keys, key=lambda one: one[1]) for number in [next(group)[0]]]
    assert told == [100, 107, 114]


def test_an_alert_says_what_has_drifted() -> None:
    """As a CloudEvent like all others, for the tenant alone."""
    row = drift_alert_row(with_drift_start(drifted(20_000), None), 1_764_000_000_000, "https://tw.example")
    event = msgspec.json.decode(row.payload)
    assert (row.kind, row.tenant, row.level) == ("alert", "acme", 2)
    assert event["type"] == "io.trustwatch.alert.model-drift.v1"
    assert event["subject"] == "acme/Payer"
    assert event["data"]["day"] == event["data"]["since"] == "2024-10-04"
    assert event["data"]["drifted"] == ["scores"]


def test_a_group_has_the_name_of_its_events(world: ModelAndLaterDays) -> None:
    """Also if their agent is of another type by the end of the batch."""
    first = json.loads(world.later[0])
    events = []
    for number, kind in enumerate(("First", "Second", "First", "Third")):
        event = {**first, "id": f"changes-{number}", "agent": {**first["agent"], "id": "changing", "type": kind}}
        events.append(json.dumps(event).encode())

    counted = {day.agent_type: day.events for day in watched(world, events)}

    assert counted == {"*": 4, "First": 2, "Second": 1, "Third": 1}
