"""What is learned, from whom, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features import layout
from trustwatch.models.betting import ANOMALOUS_P_VALUE, MIN_LEARNED_EVENTS, learnable_parts
from trustwatch.scoring.engine import risk, risk_levels
from trustwatch.scoring.engine.agent_rows import AgentExplanation
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.round_kernels import SUSPICION_SHARE
from trustwatch.scoring.engine.scored_batch import ScoredBatch


def engine_of(kit: Any, **more: Any) -> Engine:
    return Engine(kit.model, EngineSettings(capacity=50, **more))


def learned(engine: Engine, slot: int) -> float:
    """Events that widened the agent's baseline."""
    return float(engine.builder.state.numbers[slot, layout.N_EVENTS])


def quiet(make: Any, count: int = 30, **more: Any) -> list[dict[str, Any]]:
    return [make.event(n, "fresh", make.START_MS + n * 60_000, **more) for n in range(count)]


def is_quiet(engine: Engine, scored: ScoredBatch) -> Any:
    """Rows after which no concern about the agent has gathered enough to stop learning, bool (n,)."""
    statistics = scored.concern_risk[:, :, risk.CONCERN_STATISTIC]
    return (statistics < SUSPICION_SHARE * engine.thresholds[scored.threshold_rows, :, 0]).all(axis=1)


def test_calm_behaviour_is_learned(kit: Any, make: Any) -> None:
    """Vouched events of an agent above suspicion are learned, each once."""
    engine = engine_of(kit)
    scored = engine.score(kit.columns(quiet(make)))
    gate = is_quiet(engine, scored)
    assert learned(engine, int(scored.slots[0])) == gate.sum() > 20


def test_frozen_engine_learns_nothing(kit: Any, make: Any) -> None:
    """With learn=False no baseline moves, and an event that repeats stays as surprising as the first time."""
    engine = engine_of(kit, learn=False)
    slots = engine.score(kit.columns(quiet(make))).slots
    assert learned(engine, int(slots[0])) == 0.0
    assert not engine.builder.state.table[slots[0]].any()


def test_an_event_is_scored_before_it_is_learned(kit: Any, make: Any) -> None:
    """An event's own vector is the same whether or not it will be learned."""
    events = quiet(make)
    seen = engine_of(kit)
    seen.score(kit.columns(events[:20]))
    twin = engine_of(kit)
    twin.score(kit.columns(events[:20]))
    twin.settings = twin.settings._replace(learn=False)
    strange = kit.columns([make.event(99, "fresh", make.START_MS + 40 * 60_000, action="new")])
    assert np.array_equal(seen.score(strange).vectors, twin.score(strange).vectors)


def odd_days(make: Any, count: int = 1300) -> list[dict[str, Any]]:
    """Events of twelve agents of the history, an hour apart: every 13th is on a target that nobody ever used."""
    return [
        make.event(
            n,
            n % 12,
            make.START_MS + 10**9 + n * 3_600_000,
            session=f"d-{n}",
            resource={"target": f"new-{n}" if n % 13 == 0 else f"host-{n % 12}-1"},
        )
        for n in range(count)
    ]


def test_odd_events_are_learned_one_in_eight(kit: Any, make: Any) -> None:
    """Of agents with habits, quiet events that are not odd are all learned, and odd ones where the draw is 0."""
    engine = kit.processor().engine
    outcome = {"ordinary": [0, 0], "drawn": [0, 0], "left out": [0, 0]}
    for made in odd_days(make):
        columns = kit.columns([made])
        slot = engine.builder.admit(columns.names[:, AGENT])[0]
        before = learned(engine, slot)
        scored = engine.score(columns)
        if not is_quiet(engine, scored)[0] or scored.levels[0, 1] >= risk_levels.MEDIUM:
            continue
        odd = scored.p_values[0] <= ANOMALOUS_P_VALUE
        drawn = learnable_parts(columns, np.array([0]), np.array([ANOMALOUS_P_VALUE]), np.array([before]))[0]
        kind = outcome["ordinary" if not odd else "drawn" if drawn else "left out"]
        kind[0] += 1
        kind[1] += int(learned(engine, slot) - before)
    assert all(count >= 3 for count, _ in outcome.values()), outcome
    assert outcome["ordinary"][1] == outcome["ordinary"][0]
    assert outcome["drawn"][1] == outcome["drawn"][0]
    assert outcome["left out"][1] == 0


@pytest.mark.parametrize("size", [1, 7, 100])
def test_what_is_learned_does_not_depend_on_batches(kit: Any, make: Any, size: int) -> None:
    """The draw follows from agent and time: a history that is cut otherwise teaches the same, bit for bit."""
    events = odd_days(make)
    whole, parts = kit.processor().engine, kit.processor().engine
    whole.score(kit.columns(events))
    for start in range(0, len(events), size):
        parts.score(kit.columns(events[start : start + size]))
    keys = whole.builder.slots.keys[:12]
    ours, theirs = (engine.builder.pack(engine.builder.slots.find(keys)) for engine in (whole, parts))
    assert ours.tobytes() == theirs.tobytes()


def test_a_new_agent_learns_its_first_odd_events(kit: Any, make: Any) -> None:
    """What is new of an agent is odd by nature; it is learned until there are habits, so that it does not stay odd."""
    engine = engine_of(kit)
    scored = engine.score(kit.columns(quiet(make)))
    assert scored.p_values[0] <= ANOMALOUS_P_VALUE
    assert (scored.p_values[1:] > ANOMALOUS_P_VALUE).all()
    assert learned(engine, int(scored.slots[0])) == 30 > MIN_LEARNED_EVENTS


def test_an_announced_key_becomes_a_habit(kit: Any, make: Any) -> None:
    """A new key that the authorization server announces is odd, and no later event with it is an unregistered one."""
    engine = kit.processor().engine
    key = {"credential": {"method": "private_key_jwt", "thumbprint": "renewed"}}
    start = make.START_MS + 10**9
    change = make.event(0, 2, start, type="client.change", action="change", **key)
    uses = [make.event(1 + n, 2, start + 3_600_000 * (1 + n), session=f"n-{n}", **key) for n in range(5)]
    scored = engine.score(kit.columns([change, *uses]))
    assert scored.p_values[0] <= ANOMALOUS_P_VALUE
    assert not scored.signals.any()


def test_self_asserted_events_are_not_learned(kit: Any, make: Any) -> None:
    """Nobody teaches an agent's baseline by using its name."""
    engine = engine_of(kit)
    slots = engine.score(kit.columns(quiet(make, agent_self_asserted=True))).slots
    assert learned(engine, int(slots[0])) == 0.0


def suspect(engine: Engine, slot: int, kit: Any, make: Any) -> int:
    """Let the agent in *slot* use a token that it had revoked; returns when, in milliseconds."""
    revoked = {"credential": {"method": "none", "token_id": "t"}}
    start = int(make.START_MS) + 100 * 60_000
    engine.score(
        kit.columns(
            [
                make.event(100, "fresh", start, type="token.revoke", **revoked),
                make.event(101, "fresh", start + 1, **revoked),
            ]
        )
    )
    assert engine.risk[slot]["level"] >= risk_levels.MEDIUM
    return start


def test_suspicious_windows_are_not_learned(kit: Any, make: Any) -> None:
    """Nothing is learned while the level is elevated, or once odd events have added up to part of the threshold."""
    engine = engine_of(kit)
    slot = int(engine.score(kit.columns(quiet(make))).slots[0])
    before = learned(engine, slot)
    start = suspect(engine, slot, kit, make)
    after = learned(engine, slot)
    engine.score(kit.columns([make.event(200 + n, "fresh", start + 2 + n) for n in range(10)]))
    assert learned(engine, slot) == after <= before + 1


def test_a_key_announced_under_suspicion_is_registered_all_the_same(kit: Any, make: Any) -> None:
    """Nothing else of a suspicious agent is learned; a claim that nobody vouches for announces nothing."""
    engine = engine_of(kit)
    slot = int(engine.score(kit.columns(quiet(make))).slots[0])
    start = suspect(engine, slot, kit, make)
    before = learned(engine, slot)
    key, claimed = ({"credential": {"method": "private_key_jwt", "thumbprint": name}} for name in ("new", "claimed"))
    announce: dict[str, Any] = {"type": "client.change", "action": "change"}
    scored = engine.score(
        kit.columns(
            [
                make.event(102, "fresh", start + 2, **announce, **key),
                make.event(103, "fresh", start + 3, **key),
                make.event(104, "fresh", start + 4, **announce, **claimed, agent_self_asserted=True),
                make.event(105, "fresh", start + 5, **claimed),
            ]
        )
    )
    assert scored.levels[1, 1] >= risk_levels.MEDIUM
    assert scored.signals.sum(axis=1).tolist() == [0.0, 0.0, 0.0, 4.0]
    assert learned(engine, slot) == before


def test_a_known_agent_is_not_moved_by_claims(kit: Any, make: Any) -> None:
    """A self-asserted event can not change the type that tokens gave an agent; a authenticated one can."""
    engine = engine_of(kit)
    slot = int(engine.score(kit.columns([make.event(1, 2, make.START_MS)])).slots[0])
    claim = make.event(2, 2, make.START_MS + 1, agent_type="Admin", agent_self_asserted=True)
    engine.score(kit.columns([claim]))
    assert engine.agents.types[slot] == "Reader"
    engine.score(kit.columns([make.event(3, 2, make.START_MS + 2, agent_type="Payer")]))
    assert engine.agents.types[slot] == "Payer"
    assert engine.agents.threshold_rows[slot] == kit.model.group_row(engine.agents.groups[slot]) > 0


def test_a_group_without_history_is_judged_by_the_fleet(kit: Any, make: Any) -> None:
    """Agents of an unknown type have no coverage and the fleet's thresholds, and are scored all the same."""
    engine = engine_of(kit)
    scored = engine.score(kit.columns(quiet(make, 3, agent_type="Nobody")))
    assert (scored.threshold_rows == 0).all()
    assert np.isfinite(scored.risk).all()
    assert engine.risk[scored.slots[0]]["level"] == risk_levels.UNKNOWN


def test_slots_are_clean_after_their_agent_left(kit: Any, make: Any) -> None:
    """Who moves into a slot inherits no name, type, risk, thresholds or reasons."""
    processor = kit.processor(capacity=1)
    engine = processor.engine
    engine.score(kit.columns([make.event(1, 1, make.START_MS, type="token.revoke", agent_type="Payer")]))
    engine.agent_states.set_explanation(0, AgentExplanation(decision_id="x"))
    engine.score(kit.columns([make.event(2, "other", make.START_MS, agent_type="Nobody")]))
    assert engine.agents.names[0].agent_id == "other"
    assert (engine.agents.types[0], engine.agents.threshold_rows[0]) == ("Nobody", 0)
    assert engine.risk[0]["events"] == 1
    assert engine.agent_states.explanation(0).decision_id == ""


@pytest.mark.parametrize("huge", [1e308, 1e30, 0.0])
def test_huge_numbers_do_not_poison(kit: Any, make: Any, huge: float) -> None:
    """Finite numbers of any size leave finite state: a later event is still scored."""
    engine = engine_of(kit)
    more = {"bytes_in": huge, "bytes_out": huge, "duration_ms": huge, "count": max(huge, 1.0)}
    for number in range(4):
        at = make.START_MS + number * 86_400_000 * 30
        scored = engine.score(kit.columns([make.event(number, "fresh", at, **more)]))
        assert np.isfinite(scored.vectors).all()
        assert np.isfinite(scored.risk).all()


def test_an_event_that_says_nothing_of_the_type_changes_none(kit: Any, make: Any) -> None:
    """A gateway's log and our own records carry no type: the agent is judged among the peers it is known to have."""
    engine = engine_of(kit)
    typed = kit.columns([make.event(n, 1, make.START_MS + n * 60_000) for n in range(5)])
    slot = int(engine.score(typed).slots[0])
    group, row = int(engine.agents.groups[slot]), int(engine.agents.threshold_rows[slot])
    bare = make.event(9, 1, make.START_MS + 9 * 60_000)
    del bare["agent"]["type"]

    scored = engine.score(kit.columns([bare]))

    assert (engine.agents.types[slot], int(engine.agents.groups[slot])) == ("Payer", group)
    assert int(scored.threshold_rows[0]) == row


def test_an_agent_that_first_came_without_a_type_gets_it_later(kit: Any, make: Any) -> None:
    """As soon as somebody who may say so says it."""
    engine = engine_of(kit)
    bare = make.event(1, 1, make.START_MS)
    del bare["agent"]["type"]
    slot = int(engine.score(kit.columns([bare])).slots[0])
    assert engine.agents.types[slot] == ""

    engine.score(kit.columns([make.event(2, 1, make.START_MS + 60_000)]))

    assert engine.agents.types[slot] == "Payer"
