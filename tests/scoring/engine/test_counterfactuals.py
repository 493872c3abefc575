"""Counterfactuals are true of events: one that is edited as the sentence says leaves the agent on the level it names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.scoring.records.agents import RiskLevel

from ...support.nightly import size

Event = dict[str, Any]
Edit = Callable[[Event, list[Event]], Event | None]
_FEATURE_OF_NOUN = {feature.noun: feature.name for feature in FEATURES if feature.name != "action_rarity_peers"}


def _usual(history: list[Event], member: Callable[[Event], Any]) -> Any:
    """What most of an agent's events have."""
    return Counter(map(repr, map(member, history))).most_common(1)[0][0]


def _like_usual(history: list[Event], member: Callable[[Event], Any]) -> Any:
    wanted = _usual(history, member)
    return next(member(event) for event in history if repr(member(event)) == wanted)


def _with(event: Event, name: str, value: Any) -> Event:
    made = dict(event)
    made.pop(name, None)
    return made if value is None else made | {name: value}


def _member(name: str) -> Edit:
    return lambda event, history: _with(event, name, _like_usual(history, lambda one: one.get(name)))


def _of_action(name: str) -> Edit:
    """The value that the agent's events with this action have most; None where it has none."""

    def edit(event: Event, history: list[Event]) -> Event | None:
        same = [one for one in history if one["action"] == event["action"]]
        return _with(event, name, _like_usual(same, lambda one: one.get(name))) if same else None

    return edit


def _session(event: Event, history: list[Event]) -> Event:
    return event | {"session": "a new one"}


EDITS: dict[str, Edit] = {
    "action_surprise": _member("action"),
    "target_surprise": _of_action("resource"),
    "resource_surprise": _of_action("resource"),
    "action_target_surprise": _of_action("resource"),
    "external_target": _of_action("resource"),
    "principal_surprise": _member("principal"),
    "network_surprise": _member("client"),
    "credential_surprise": _member("credential"),
    "scope_surprise": _member("scopes"),
    "scope_breadth": _member("scopes"),
    "effect_surprise": _member("effect"),
    "outcome_surprise": _of_action("outcome"),
    "answer_size_surprise": _of_action("bytes_out"),
    "request_size_surprise": _of_action("bytes_in"),
    "bytes_out": _member("bytes_out"),
    "bytes_in": _member("bytes_in"),
}
ODD: tuple[Callable[[random.Random], Event], ...] = (
    lambda dice: {"action": f"attack-{dice.randrange(50)}"},
    lambda dice: {"resource": {"target": f"evil-{dice.randrange(1000)}", "external": True}},
    lambda dice: {"client": {"asn": 65000 + dice.randrange(9)}},
    lambda dice: {"credential": {"method": "private_key_jwt", "thumbprint": f"stolen-{dice.randrange(9)}"}},
    lambda dice: {"principal": {"id": f"somebody-{dice.randrange(99)}"}},
    lambda dice: {"outcome": "denied"},
    lambda dice: {"bytes_out": 10.0 ** dice.uniform(6, 9)},
    lambda dice: {"scopes": {"requested": [f"s-{n}" for n in range(dice.randrange(1, 9))]}},
    lambda dice: {
        "action": f"attack-{dice.randrange(50)}",
        "resource": {"target": f"evil-{dice.randrange(1000)}", "external": True},
        "effect": "write",
    },
)


def _story(make: Any, seed: int, count: int) -> list[Event]:
    """A stream in which one event in eight is odd in one way, or in several."""
    dice = random.Random(seed)
    events = make.stream(seed, count, agents=6)
    for event in events:
        if dice.random() < 0.12:
            for change in dice.sample(ODD, dice.choice((1, 1, 1, 2))):
                event.update(change(dice))
    return list(events)


@pytest.mark.parametrize("seed", range(size(each_push=24, nightly=40)))
def test_what_would_have_kept_the_level_lower_does(kit: Any, make: Any, seed: int) -> None:
    """The edited event, sent in place of the other one after the same events, leads to the level that was named."""
    history = make.stream(1, 2_000)
    events = _story(make, 500 + seed, 400)
    processor = kit.processor(capacity=100)
    for number, made in enumerate(events):
        applied = processor.apply(next(kit.batches([kit.record(made)], iter([1])))._replace(base_offset=number))
        for decision in applied.decisions:
            if decision.counterfactual:
                _check(kit, history, events, number, decision)


def _check(kit: Any, history: list[Event], events: list[Event], number: int, decision: Any) -> None:
    told, noun = decision.counterfactual.split(" had the ")
    feature = _FEATURE_OF_NOUN[noun.removesuffix(" been usual")]
    made = events[number]
    own = [one for one in [*history, *events[:number]] if one["agent"]["id"] == made["agent"]["id"]]
    if feature not in EDITS:
        print("CF NOEDIT", feature, told); return
    edited = EDITS[feature](made, own)
    if edited is None:
        print("CF NONE", feature, told); return

    processor = kit.processor(capacity=100)
    records = kit.records([*events[:number], edited])
    for batch in kit.batches(records, iter([number, 1])):
        applied = processor.apply(batch)
    ((scored, _),) = applied.scored
    level = RiskLevel(int(scored.levels[0, 1]))
    print("CF", level <= RiskLevel[told.upper()], feature, told, level.label, decision.level, decision.reasons[0].text)
