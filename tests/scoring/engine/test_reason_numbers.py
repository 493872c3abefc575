"""Numbers of reasons: each sentence's are listed here, and counted again over real histories in plain Python."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_declaration import (
    Carried,
    Compared,
    Drifted,
    Item,
    PeersKnow,
    Quantity,
    Sentence,
    Strongest,
)
from trustwatch.ingest.features.feature_table import FEATURE_INDEX, FEATURES, ITEMS, QUANTITIES
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.records.decisions import RiskReason

from ...support.nightly import size

Event = dict[str, Any]


class Seen(NamedTuple):
    """A scored row, its reason, and all that was taught before it."""

    scored: ScoredBatch
    row: int
    reason: RiskReason
    recount: Recount

    @property
    def event(self) -> NativeEvent:
        """The event itself."""
        return self.scored.columns.events[self.row]

    @property
    def agent(self) -> str:
        """Who acts."""
        return self.event.agent.id


class Recount:
    """Plain lists of what a model's history holds, and of what was learned since."""

    def __init__(self, kit: Any, history: list[Event]) -> None:
        self.columns = kit.columns(history)
        _, self.found = FeatureBuilder(kit.model.baseline, 100).observe_and_learn(self.columns)
        self.learned: dict[str, list[Any]] = defaultdict(list)
        self.amounts: dict[str, list[Any]] = defaultdict(list)
        for row, event in enumerate(self.columns.events):
            self.learn(event.agent.id, self.found.items[row], self.found.quantities[row])

    def learn(self, agent: str, items: Any, quantities: Any) -> None:
        """Take an event of an agent."""
        self.learned[agent].append(items.copy())
        self.amounts[agent].append(quantities.copy())

    def different(self, agent: str, kind: int) -> int:
        """Different items of a kind that an agent was taught."""
        return len({int(items[kind]) for items in self.learned[agent]} - {0})

    def in_history(self, kind: int, keep: Callable[[NativeEvent], bool]) -> list[int]:
        """All items of a kind of some events of the history."""
        rows = [row for row, event in enumerate(self.columns.events) if keep(event)]
        return [item for item in self.found.items[rows, kind].tolist() if item]


COUNTED = re.compile(
    r"^(?P<least>at least )?(?P<number>\d+|no) known (?P<what>.+) of (?P<whose>this agent|its peer group)$"
)
IN_HISTORY = re.compile(r"^(?P<count>[\d,]+) of (?P<total>[\d,]+) .+ in the history of its peer group$")
COMPARED = re.compile(
    r"; (?P<item>.+): (?P<own>[\d,]+) of (?P<own_total>[\d,]+) .+ in this agent's history, "
    r"(?P<group>[\d,]+) of (?P<group_total>[\d,]+) in that of its peer group$"
)


def _number(text: str) -> int:
    return 0 if text == "no" else int(text.replace(",", ""))


def _kind_of(feature: str, seen: Seen) -> int:
    told = FEATURES[FEATURE_INDEX[feature]].explanation
    if isinstance(told, Strongest):
        return max(told.kinds, key=lambda kind: float(seen.scored.observations.surprise_bits[seen.row, kind]))
    assert isinstance(told, Item | Carried)
    return told.kind


def _check_item(seen: Seen) -> None:
    """Different items that the agent was taught, all of them or at least so many; else those of its group's history."""
    kind = _kind_of(seen.reason.feature, seen)
    match = COUNTED.match(seen.reason.usual)
    assert match, seen.reason
    assert match["what"] in (ITEMS[kind].plural, ITEMS[kind].singular_noun)
    if match["whose"] == "this agent":
        listed = seen.recount.different(seen.agent, kind)
        number = _number(match["number"])
        assert number <= listed if match["least"] else number == listed, (seen.reason, listed)
    else:
        assert seen.recount.different(seen.agent, kind) == 0, "the agent's own come first"
        ours = seen.event.agent.type
        listed = len(set(seen.recount.in_history(kind, lambda event: event.agent.type == ours)))
        assert _number(match["number"]) == listed, (seen.reason, listed)


def _check_among_peers(seen: Seen) -> None:
    """How often the history of the peer group, the agent included, has the item, of all items of the kind."""
    told = FEATURES[FEATURE_INDEX[seen.reason.feature]].explanation
    kinds = told.kinds if isinstance(told, PeersKnow) else (_kind_of(seen.reason.feature, seen),)
    named = [kind for kind in kinds if seen.reason.observed == ITEMS[kind].name(seen.event)]
    match, ours = IN_HISTORY.match(seen.reason.usual), seen.event.agent.type
    assert match and named, seen.reason
    listed = seen.recount.in_history(named[0], lambda event: event.agent.type == ours)
    item = int(seen.scored.observations.items[seen.row, named[0]])
    assert (_number(match["count"]), _number(match["total"])) == (listed.count(item), len(listed)), seen.reason


def _check_quantity(seen: Seen) -> None:
    """The event's own amount; and a mean of amounts that the agent and its group were taught, so between them."""
    told = FEATURES[FEATURE_INDEX[seen.reason.feature]].explanation
    assert isinstance(told, Quantity)
    observed = np.expm1(seen.scored.observations.quantities[seen.row, told.quantity])
    before, after = QUANTITIES[told.quantity].form.split("{}")
    assert _between(seen.reason.observed, before, after) == pytest.approx(observed, rel=0.006, abs=0.6)
    everybody = [amounts[told.quantity] for each in seen.recount.amounts.values() for amounts in each]
    known = np.expm1([amount for amount in everybody if amount >= 0.0])
    usual = _between(seen.reason.usual, f"{before}about ", after)
    assert known.min() - 0.6 <= usual <= known.max() * 1.006 + 0.6, seen.reason


def _between(text: str, before: str, after: str) -> float:
    assert text.startswith(before) and text.endswith(after), text
    return float(text.removeprefix(before).removesuffix(after).replace(",", ""))


def _check_compared(seen: Seen) -> None:
    """How often the agent's part of the history has the item, of all of its kind; and the group's part."""
    match = COMPARED.search(seen.reason.text)
    if match is None:
        assert not re.search(r"\d", seen.reason.text)
        return
    kind = next(
        kind for kind in (layout.K_ACTION, layout.K_TARGET) if match["item"].startswith(ITEMS[kind].singular_noun)
    )
    item, ours = int(seen.scored.observations.items[seen.row, kind]), seen.event.agent
    own = seen.recount.in_history(kind, lambda event: event.agent.id == ours.id)
    group = seen.recount.in_history(kind, lambda event: event.agent.type == ours.type)
    listed = own.count(item), len(own), group.count(item), len(group)
    assert tuple(_number(match[name]) for name in ("own", "own_total", "group", "group_total")) == listed, seen.reason


def _check_sentence(seen: Seen) -> None:
    """No number but the share of scopes that were not granted, which the event lists."""
    said = seen.reason.text
    for named in (seen.event.action, *([seen.event.credential.thumbprint or ""] if seen.event.credential else [])):
        said = said.replace(named, "")
    numbers = re.findall(r"\d+", said)
    if seen.reason.feature != "scope_gap":
        assert not numbers, seen.reason
        return
    scopes = seen.event.scopes
    assert scopes is not None and scopes.requested is not None
    missing = set(scopes.requested) - set(scopes.granted or ())
    assert numbers == [f"{100 * len(missing) / len(set(scopes.requested)):.0f}"]


def _check_drift(seen: Seen) -> None:
    """The amount of now; the usual one is said to be about what the last weeks had."""
    assert re.fullmatch(r"about [\d,.e+]+ \w+ in the last hours? \(older ones count less\)", seen.reason.usual)


TEMPLATES: dict[type, Callable[[Seen], None]] = {
    Item: _check_item,
    Strongest: _check_item,
    Carried: lambda seen: (_check_among_peers if _told(seen).among_peers else _check_item)(seen),
    PeersKnow: _check_among_peers,
    Quantity: _check_quantity,
    Compared: _check_compared,
    Drifted: _check_drift,
    Sentence: _check_sentence,
}
"""What the numbers of each kind of sentence are, counted again."""


def _told(seen: Seen) -> Any:
    return FEATURES[FEATURE_INDEX[seen.reason.feature]].explanation


def _live(make: Any, seed: int, count: int) -> list[Event]:
    """Odd and ordinary events of agents that the history knows and of others: many names, new versions, sizes."""
    events = make.stream(seed, count, agents=16, odd=0.1, start_ms=make.START_MS + 10**9)
    for number, event in enumerate(events):
        event["agent"]["version"] = f"1.{number // (count // 3)}"
        if number % 5 == 0:
            event["resource"] = {"target": f"new-{seed}-{number}"}
        if number % 11 == 0:
            event["scopes"] = {"requested": ["a", "b", f"c-{number}"], "granted": ["a"]}
        if number % 13 == 0:
            event["client"] = {"asn": 65000 + number % 7, "ip": "203.0.113.9", "user_agent": "curl/8.9.1"}
    return list(events)


def _teach_many_targets(kit: Any, make: Any, engine: Any, recount: Recount) -> None:
    """Fill a region of some agents, so that not all they were taught is remembered."""
    at_ms = make.START_MS + 9 * 10**8
    taught = [
        make.event(5_000 + n, n % 3, at_ms + n * 60_000, resource={"target": f"many-{n}"}, session=f"m-{n}")
        for n in range(450)
    ]
    columns = kit.columns(taught)
    with engine.agent_states.arriving(columns):
        _, found = engine.builder.observe_and_learn(columns)
    for row, event in enumerate(taught):
        recount.learn(event["agent"]["id"], found.items[row], found.quantities[row])


def _reasons(kit: Any, make: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Reasons of the events of a stream by themselves, each with all that was taught before it."""
    recount, engine = Recount(kit, make.stream(1, 2_000)), kit.processor(capacity=100).engine
    _teach_many_targets(kit, make, engine, recount)
    weights: list[Any] = []
    learn = engine.builder.learn
    monkeypatch.setattr(engine.builder, "learn", lambda *given: (weights.append(given[-1].copy()), learn(*given))[1])
    for event in _live(make, seed, 700):
        weights.clear()
        scored = engine.score(kit.columns([event]))
        (reasons,) = engine.explainer.reasons(scored, [0], alone=True)
        for reason in reasons:
            if reason.feature in FEATURE_INDEX:
                yield Seen(scored, 0, reason, recount)
        if weights and weights[-1][0] == 1 and scored.observations.flags[0] < 2:
            recount.learn(event["agent"]["id"], scored.observations.items[0], scored.observations.quantities[0])


def test_every_number_can_be_counted_again(kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over histories with new versions, full regions and agents that nobody knows."""
    checked: dict[type, int] = defaultdict(int)
    texts = []
    for seed in range(70, 70 + size(each_push=2, nightly=30)):
        for seen in _reasons(kit, make, seed, monkeypatch):
            TEMPLATES[type(_told(seen))](seen)
            checked[type(_told(seen))] += 1
            texts.append(seen.reason.text)
    assert checked.keys() >= {Item, Carried, Strongest, Quantity, Sentence, Compared}, checked
    assert any("at least" in text for text in texts) and any("of its peer group" in text for text in texts)
    assert not any(re.search(r"\bbits?\b|standard deviation|\bnats?\b", text) for text in texts)


def test_a_count_is_not_halved_with_what_it_counts(kit: Any, make: Any) -> None:
    """Seven actions stay seven through new versions and a counter that is full, of which the estimator makes one."""
    engine = kit.processor(capacity=100).engine
    usual = []
    for number in range(2_400):
        at = make.START_MS + 10**9 + number * 3_600_000
        done = {"action": f"step-{number % 7}", "agent_version": f"1.{number // 100}"}
        usual.append(make.event(number, "agent-of-seven", at, **done))
    columns = kit.columns(usual)
    with engine.agent_states.arriving(columns):
        engine.builder.observe_and_learn(columns)
    scored = engine.score(kit.columns([make.event(9_999, "agent-of-seven", at + 60_000, action="wipe")]))
    told = [one for one in engine.explainer.reasons(scored, [0], alone=True)[0] if one.feature == "action_surprise"]
    assert [one.usual for one in told] == ["7 known actions of this agent"]
    assert scored.agent_numbers[0, layout.N_DISTINCT + layout.K_ACTION] < 2.0


def test_an_agent_that_was_not_counted_is_told_without_a_number(kit: Any, make: Any) -> None:
    """Its state is older than the counts: nothing is called new, and no number is made up."""
    engine = kit.processor(capacity=100).engine
    odd = make.event(9_999, 2, make.START_MS + 10**9, action="wipe")
    engine.score(kit.columns([odd | {"action": "read", "id": "before"}]))
    engine.builder.state.known[:] = layout.UNCOUNTED
    scored = engine.score(kit.columns([odd]))
    (told,) = [one for one in engine.explainer.reasons(scored, [0], alone=True)[0] if one.feature == "action_surprise"]
    assert told.text == "action wipe, which is not remembered of it (very unusual)"
    assert told.usual == "the actions that are known of this agent"
