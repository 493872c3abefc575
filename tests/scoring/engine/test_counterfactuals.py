"""Counterfactuals are true of events: one that is edited as the sentence says leads to the level that it names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.scoring.engine.explainer import replaceable_features, thing_words
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import RiskReason

from ...support.nightly import size

Event = dict[str, Any]
Edit = Callable[[Event, list[Event]], Event | None]
SENTENCES = {thing_words(at): feature.name for at, feature in enumerate(FEATURES)}


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


def _middle_of_action(name: str) -> Edit:
    """The middle one of the amounts that the agent's events with this action have."""

    def edit(event: Event, history: list[Event]) -> Event | None:
        amounts = sorted(one[name] for one in history if one["action"] == event["action"] and name in one)
        return event | {name: amounts[len(amounts) // 2]} if amounts else None

    return edit


def _whole_action(event: Event, history: list[Event]) -> Event | None:
    """The usual action, with what belongs to it."""
    made: Event | None = _member("action")(event, history)
    made = made and _of_action("outcome")(made, history)
    return made and _middle_of_action("bytes_out")(made, history)


EDITS: dict[str, Edit] = {
    "action_surprise": _whole_action,
    "target_surprise": _of_action("resource"),
    "action_target_surprise": _of_action("resource"),
    "principal_surprise": _member("principal"),
    "network_surprise": _member("client"),
    "credential_surprise": _member("credential"),
    "scope_surprise": _member("scopes"),
    "scope_breadth": _member("scopes"),
    "effect_surprise": _member("effect"),
    "outcome_surprise": _of_action("outcome"),
    "answer_size_surprise": _middle_of_action("bytes_out"),
    "bytes_out": _middle_of_action("bytes_out"),
}
"""Change of the event, by the feature that a counterfactual speaks of."""
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
    """A stream in which one event in five is odd in one way, or in several."""
    dice = random.Random(seed)
    events = make.stream(seed, count, agents=6, start_ms=make.START_MS + 10**9)  # behind the history
    for event in events:
        if dice.random() < 0.2:
            for change in dice.sample(ODD, dice.choice((1, 2, 2, 3))):
                event.update(change(dice))
    return list(events)


def test_what_would_have_kept_the_level_lower_does(kit: Any, make: Any) -> None:
    """The edited event, sent in place of the other one after the same events, leads to the level named, or a lower."""
    history, told = make.stream(1, 2_000), Counter[str]()
    for seed in range(size(each_push=5, nightly=60)):
        events = _story(make, 500 + seed, 300)
        (batch,) = kit.batches(kit.records(events), iter([len(events)]))
        for decision in kit.processor(capacity=100).apply(batch).decisions:
            if decision.counterfactual:
                told[_check(kit, history, events, decision)] += 1
    assert len(told) >= 3 and told.total() >= 15, told


def test_a_signal_goes_with_the_thing_that_makes_it_fire(kit: Any, make: Any) -> None:
    """Had the action been usual, it would have been a declared one: rises by it are not left without a sentence."""
    history, told = make.stream(1, 2_000), Counter[str]()
    declared = sorted({event["action"] for event in history})
    for seed in range(4):
        events = _story(make, 700 + seed, 300)
        for event in events:
            event["agent"] = event["agent"] | {"capabilities": declared}
        (batch,) = kit.batches(kit.records(events), iter([len(events)]))
        for decision in kit.processor(capacity=100).apply(batch).decisions:
            if decision.counterfactual and "outside_capabilities" in decision.evidence["signals"]:
                told[_check(kit, history, events, decision)] += 1
    assert told["action_surprise"] >= 3, told


def _check(kit: Any, history: list[Event], events: list[Event], decision: Any) -> str:
    """Send the events before the decision's, and its own one as edited; returns the feature that was spoken of."""
    level, thing = decision.counterfactual.removesuffix(" been usual").split(" had the ")
    feature, number = SENTENCES[thing], decision.offset
    before = [one for one in [*history, *events[:number]] if one["agent"]["id"] == events[number]["agent"]["id"]]
    edited = EDITS[feature](events[number], before)
    assert edited is not None, f"{decision.counterfactual}: nothing is usual of {feature} for {events[number]}"
    processor = kit.processor(capacity=100)
    for batch in kit.batches(kit.records([*events[:number], edited]), iter([number, 1])):
        applied = processor.apply(batch)
    ((scored, _),) = applied.scored
    reached = int(scored.levels[0, 1])
    assert reached <= RiskLevel[level.upper()] < decision.level, (decision.counterfactual, reached, events[number])
    return feature


def test_what_no_other_event_could_have_changed_is_not_said() -> None:
    """Pace, order, and what gathered in the session are of events before it."""
    reasons = [
        RiskReason(name, name, "", "", 0.5, name)
        for name in ("pace_1m", "drift", "session_strangeness", "transition_surprise", "novelty_1h", "repeat_surprise")
    ]
    assert replaceable_features(reasons, np.full(len(FEATURES), 20.0), np.zeros(layout.KINDS)) == []
