"""The scanner and the reference path on whatever comes: the simulator's events, damaged ones, and any at all."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

from ...support.feature_histories import event
from ...support.scan_records import WHOLE, ScannerAndReference, compact, mutate, records


@pytest.fixture(scope="module")
def pair() -> ScannerAndReference:
    return ScannerAndReference()


def test_scan_equals_the_reference_on_the_simulator(pair: ScannerAndReference) -> None:
    """Every kind of event that the simulator makes; nearly all are read by the kernels."""
    made = simulate(
        SimulationSettings(
            start=datetime(2026, 3, 2, 8, tzinfo=UTC), duration=timedelta(days=2), agents=40, events_per_agent_day=100.0
        )
    )
    raws = [row.event for row in islice(made, 6000)]
    encoder = ScannerAndReference()

    for start in range(0, len(raws), 500):
        encoder.check(raws[start : start + 500])

    assert encoder.scanned > 0.95 * len(raws)


def test_scan_of_mutated_records_equals_the_reference(pair: ScannerAndReference) -> None:
    """Bytes flipped, lost, doubled, put in, moved between records: accepted means equal, all else falls back."""
    draw = random.Random(7)
    raws = [compact(WHOLE), json.dumps(WHOLE, indent=1).encode(), compact(event(client={"ip": "::1"}))]
    mutated = [mutate(draw, raws[number % 3], raws) for number in range(12_000)]

    before = pair.scanned
    for start in range(0, len(mutated), 500):
        pair.check(mutated[start : start + 500])

    assert pair.scanned - before > 500  # many mutations leave a plain event: the kernels were really at work


@settings(max_examples=300, deadline=None)
@given(st.lists(records(), min_size=1, max_size=5), st.booleans())
def test_scan_of_any_record_equals_the_reference(
    pair: ScannerAndReference, made: list[dict[str, Any]], ascii_only: bool
) -> None:
    """Properties instead of examples: whatever the members hold, in whatever order they stand."""
    pair.check([json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace") for value in made])
