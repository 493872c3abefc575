"""The simulated enterprise: deterministic, ordered, valid, and with the habits it is described to have."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.simulator.attack_scenarios import SCENARIOS
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.labelled_events import CLEAN_LABEL, SimulatedEvent, write_jsonl
from trustwatch.simulator.population import Attack, SimulationSettings

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = SimulationSettings(
    start=MONDAY, duration=timedelta(days=7), seed=7, agents=52, events_per_agent_day=80, churn=3.0
)


@pytest.fixture(scope="module")
def week() -> list[SimulatedEvent]:
    return list(simulate(SETTINGS))


@pytest.fixture(scope="module")
def decoded(week: list[SimulatedEvent]) -> list[NativeEvent]:
    return [decode_event(event) for event, _, _ in week]


def written(settings: SimulationSettings) -> tuple[bytes, bytes]:
    out, labels = io.BytesIO(), io.BytesIO()
    write_jsonl(simulate(settings), out, labels)
    return out.getvalue(), labels.getvalue()


def small(**changes: Any) -> SimulationSettings:
    values: dict[str, Any] = {"start": MONDAY, "duration": timedelta(hours=30), "agents": 26, "seed": 3}
    return SimulationSettings(**(values | changes))


def test_equal_settings_give_identical_bytes() -> None:
    """Two runs of the same settings agree in every byte of events and labels; another seed does not."""
    settings = small(attacks=tuple(Attack(name) for name in SCENARIOS))

    events, labels = written(settings)

    assert (events, labels) == written(settings)
    assert events != written(small(seed=4))[0]


def test_attacks_do_not_change_what_others_do() -> None:
    """Laying attacks over the enterprise leaves every clean event as it was, byte for byte."""
    attacks = tuple(Attack(name) for name in SCENARIOS if SCENARIOS[name].quiet_before is None)
    calm = [event for event, _, _ in simulate(small())]

    attacked = [event for event, label, _ in simulate(small(attacks=attacks)) if label.scenario == CLEAN_LABEL]

    assert attacked == calm


def test_events_come_in_order_of_event_time(week: list[SimulatedEvent], decoded: list[NativeEvent]) -> None:
    times = [at_ms for _, _, at_ms in week]

    assert times == sorted(times)
    assert SETTINGS.start_ms <= times[0]
    assert times[-1] < SETTINGS.end_ms
    assert [int(event.time.timestamp() * 1000 + 0.5) for event in decoded] == times


def test_events_use_members_of_the_schema_alone(week: list[SimulatedEvent]) -> None:
    """No event has a member that the native schema does not know, at any level that the schema describes."""
    known = set(NativeEvent.__struct_fields__)
    parts = {"agent", "principal", "resource", "scopes", "client", "credential"}
    for event, _, _ in islice(week, 0, None, 50):
        record = json.loads(event)
        assert set(record) <= known
        typed = decode_event(event)
        for part in parts & set(record):
            assert set(record[part]) <= set(getattr(typed, part).__struct_fields__)


def test_ids_are_unique_and_shared_with_nothing_else(decoded: list[NativeEvent]) -> None:
    """Event ids are distinct, and no session or trace is named like an event."""
    ids = {event.id for event in decoded}

    assert len(ids) == len(decoded)
    assert not {f"evt-{(event.session or '')[5:]}" for event in decoded} & ids
    assert not {f"evt-{(event.trace_id or '')[:16]}" for event in decoded} & ids


def test_labels_belong_to_their_events(week: list[SimulatedEvent], decoded: list[NativeEvent]) -> None:
    for (_, label, _), event in zip(week, decoded, strict=True):
        assert (label.id, label.agent_id, label.tenant, label.session) == (
            event.id,
            event.agent.id,
            event.tenant,
            event.session,
        )
        assert (label.event_label, label.session_label, label.scenario) == (0, 0, CLEAN_LABEL)


def test_work_is_handed_down_by_token_exchange(decoded: list[NativeEvent]) -> None:
    """Chains are two and three deep, start with the actor, and each callee began with a token exchange."""
    depths = Counter(len(event.delegation or ()) for event in decoded)
    first: dict[str, NativeEvent] = {}
    for event in decoded:
        first.setdefault(str(event.session), event)

    assert depths[2] > 0
    assert depths[3] > 0
    for event in decoded:
        if event.delegation:
            assert event.delegation[0] == event.agent.id
    assert {event.type for event in first.values() if len(event.delegation or ()) > 1} == {"token.exchange"}


def test_actions_stay_within_declared_capabilities(decoded: list[NativeEvent]) -> None:
    for event in decoded:
        if event.type in ("tool.call", "api.call", "a2a.message", "approval", "admin"):
            assert event.action in (event.agent.capabilities or ())


def test_no_event_holds_a_secret(week: list[SimulatedEvent]) -> None:
    """Nothing looks like a token, a key or a password; token ids are fingerprints."""
    secret = re.compile(rb"eyJ[\w-]+\.|Bearer |BEGIN [A-Z ]*KEY|password|api[_-]?key", re.IGNORECASE)
    for event, _, _ in week:
        assert not secret.search(event)
        assert re.search(rb'"token_id":"sha256:[0-9a-f]{64}"', event)


def test_events_are_made_as_they_are_asked_for() -> None:
    """Ten years of 50 agents start at once: nothing is generated ahead beyond a slice."""
    decade = SimulationSettings(start=MONDAY, duration=timedelta(days=3650), agents=50, churn=0.1)

    first = list(islice(simulate(decade), 100))

    assert len(first) == 100
    assert first[-1].at_ms < decade.start_ms + 86_400_000


BAD_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("start", {"start": datetime(2026, 3, 2)}),  # noqa: DTZ001 - the mistake under test
    ("duration", {"duration": timedelta(0)}),
    ("seed", {"seed": -1}),
    ("agents", {"agents": 0}),
    ("tenants", {"tenants": ("a", "a")}),
    ("tenants", {"tenants": ('x"y',)}),
    ("attacks_per_day", {"attacks_per_day": float("nan")}),
    ("events_per_agent_day", {"events_per_agent_day": 0}),
    ("churn", {"churn": -1}),
]


@pytest.mark.parametrize(("name", "change"), BAD_SETTINGS)
def test_wrong_settings_are_named(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name):
        small(**change)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Attack("heist"), "unknown scenario 'heist'"),
        (Attack("burst", timedelta(days=9)), "outside the duration"),
        (Attack("burst", agent="nobody"), "agent 'nobody'"),
    ],
)
def test_wrong_attacks_are_refused_before_the_first_event(attack: Attack, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(small(attacks=(attack,)))
