"""Each further attack does what its name says."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from functools import cache
from typing import Any
from unittest import mock

import pytest

from benchmarks.attacks.additional_scenarios import ADDITIONAL_SCENARIOS, POISONED_HISTORY_SCENARIOS
from benchmarks.attacks.attacked_enterprise import START, TENANTS
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.simulator.attack_scenarios import SCENARIOS
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import Attack, SimulationSettings

Played = list[tuple[dict[str, Any], int, int]]
"""Events of an attack: JSON, event label, milliseconds since the start."""


@cache
def play(name: str, at: timedelta = timedelta(days=1, hours=9)) -> Played:
    settings = SimulationSettings(
        START, timedelta(days=4), 5, 52, TENANTS, attacks=(Attack(name, at),), events_per_agent_day=100.0
    )
    with mock.patch.dict(SCENARIOS, {**ADDITIONAL_SCENARIOS, **POISONED_HISTORY_SCENARIOS}):
        made = [event for event in simulate(settings) if event.label.scenario == name]
    assert made, "nothing was played"
    for event in made:
        decode_event(event.event)  # raises for what is no audit event
    return [(json.loads(e.event), e.label.event_label, e.at_ms - settings.start_ms) for e in made]


def strangers(played: Played) -> Counter[str]:
    """Targets outside that nobody has met, among malicious events."""
    targets = (made["resource"]["target"] for made, bad, _ in played if bad and "target" in made["resource"])
    return Counter(target for target in targets if "files-" in target)


@pytest.mark.parametrize("name", ADDITIONAL_SCENARIOS)
def test_every_attack_is_played_and_has_malicious_events(name: str) -> None:
    assert any(bad for _, bad, _ in play(name))


def test_a_ramp_grows() -> None:
    times = [at for _, bad, at in play("ramp_8") if bad]
    middle = (times[0] + times[-1]) / 2

    assert sum(at > middle for at in times) > 2 * sum(at <= middle for at in times)


def test_mimicry_is_one_post_to_a_stranger() -> None:
    played = play("mimicry_post")

    assert sum(bad for _, bad, _ in played) == 1
    assert len(strangers(played)) == 1


def test_slow_posts_go_to_one_stranger_or_to_a_known_target_alone() -> None:
    assert len(strangers(play("slow_posts"))) == 1
    assert not strangers(play("slow_posts_known"))


def test_a_flood_is_not_labelled_and_its_strike_is() -> None:
    played = play("flood")
    first = min(at for _, bad, at in played if bad)

    assert first - played[0][2] >= DAY_MS // 2
    assert sum(not bad for _, bad, _ in played) > 50
    assert len(strangers(played)) == 1


def test_a_new_id_is_registered_before_it_works() -> None:
    played = play("new_id")
    first = played[0][0]

    assert first["type"] == "client.register"
    assert all(made["agent"]["id"] == first["agent"]["id"] for made, bad, _ in played if bad)


def test_more_poison_is_more_of_the_history_and_the_last_strike_alone_is_labelled() -> None:
    poison = {}
    for name in ("poisoned_1", "poisoned_10"):
        played = play(name, timedelta(hours=1))
        poison[name] = len({made["session"] for made, bad, _ in played if not bad})
        assert len({made["session"] for made, bad, _ in played if bad}) == 1

    assert poison["poisoned_10"] > 3 * poison["poisoned_1"]
