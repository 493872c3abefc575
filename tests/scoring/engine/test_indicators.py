"""Indicators: all that an odd event came with, what of it is new, how much is kept, and for how long."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import pytest

from trustwatch.scoring.engine import decision_maker
from trustwatch.scoring.engine.indicators import MAX_OF_KIND, indicators_of_row, lately_new, with_indicators
from trustwatch.scoring.records.agents import NEW_STATUSES, Indicator, RiskLevel, decode_indicators, indicators_of_plain

AT = "2026-10-09T10:00:00.000Z"


def told(indicators: Any) -> dict[tuple[str, str], str]:
    return {(one.kind, one.value): one.status for one in indicators}


def test_a_row_tells_where_it_came_from_and_what_is_new(kit: Any, make: Any) -> None:
    """Statuses are those of the agent's memory when the row was measured; what nobody learns says so."""
    engine, at_ms = kit.processor(capacity=100).engine, make.START_MS + 10**9
    login = {"method": "private_key_jwt", "thumbprint": "key-agent-2"}
    usual = {"client": {"asn": 64500, "ip": "198.51.100.7"}, "credential": login}
    events = [make.event(n, 2, at_ms + n * 60_000, session="s-1", **usual) for n in range(12)]
    events.append(
        make.event(99, 2, at_ms + 10**6, session="s-2", **usual)
        | {
            "client": {"ip": "203.0.113.9", "user_agent": "curl/8.9.1\u202e"},
            "resource": {"id": "in", "target": "https://files.example.com/upload", "external": True},
        }
    )
    scored = engine.score(kit.columns(events))

    known = told(indicators_of_row(scored, 11))
    assert known[("network", "AS64500")] == known[("credential", "private_key_jwt key-agent-2")] == "known"
    assert known[("key", "key-agent-2")] == "known" and known[("session", "s-1")] == "not_tracked"
    strange = told(indicators_of_row(scored, 12))
    assert strange[("network", "203.0.113.0/24")] == "new"
    assert strange[("address", "203.0.113.9")] == "not_tracked"
    assert ("software", "curl/8.9.1\ufffd") in strange  # nothing that reorders a line
    assert ("target", "https://files.example.com/upload") in strange
    assert all(len(one.value) <= 200 for one in indicators_of_row(scored, 12))


def test_what_comes_with_a_new_caller_is_told_as_such() -> None:
    """Also after the network itself was learned, as long as the agent is not quiet; what is known stays known."""
    first = (Indicator("network", "AS65537", "new", AT), Indicator("address", "203.0.113.9", "not_tracked", AT))
    later = (
        Indicator("network", "AS65537", "known", AT),
        Indicator("credential", "mtls k", "known", AT),
        Indicator("session", "s-2", "not_tracked", AT),
    )
    both = with_indicators(with_indicators((), first), later)

    assert told(both) == {
        ("network", "AS65537"): "new",
        ("address", "203.0.113.9"): "with_new",
        ("credential", "mtls k"): "known",
        ("session", "s-2"): "with_new",
    }
    assert told(with_indicators((), later))[("session", "s-2")] == "not_tracked"


def test_few_are_kept_and_the_new_ones_first() -> None:
    """An agent that changes its session in each event does not push out what is new, nor grow."""
    kept: tuple[Indicator, ...] = ()
    for number in range(50):
        kept = with_indicators(kept, [Indicator("session", f"s-{number}", "not_tracked", AT)])
    assert [one.value for one in kept] == [f"s-{number}" for number in range(MAX_OF_KIND)]
    for number in range(MAX_OF_KIND + 2):
        new = Indicator("network", f"AS{number}", "new", AT)
        kept = with_indicators(kept, [new, Indicator("session", f"t-{number}", "not_tracked", AT)])
    assert [one.value for one in kept if one.kind == "session"] == [f"t-{number}" for number in range(MAX_OF_KIND)]
    assert [one.value for one in kept if one.kind == "network"] == [f"AS{number}" for number in range(MAX_OF_KIND)]


def test_decisions_carry_them_and_agents_keep_them_until_they_are_calm(kit: Any, make: Any) -> None:
    """A rise has them, a fall has none; an agent that was quiet between two odd events begins anew."""
    processor, at_ms = kit.processor(capacity=100), make.START_MS + 10**9
    quiet = [make.event(n, 2, at_ms + n * 600_000, session=f"q-{n}") for n in range(300)]
    quiet[3]["client"] = {"asn": 65007, "ip": "203.0.113.9"}
    strange = [
        make.event(1000 + n, 2, at_ms + 10**9 + n * 1000, session="x", client={"asn": 65100 + n, "ip": "203.0.113.8"})
        | {"action": f"wipe-{n}"}
        for n in range(12)
    ]
    decisions = [
        decision
        for batch in kit.batches(kit.records([*quiet, *strange]), itertools.repeat(50))
        for decision in processor.apply(batch).decisions
    ]
    assert decisions
    rises = [one for one in decisions if one.level > max(one.previous_level, RiskLevel.LOW)]
    assert rises and all(one.indicators == () for one in decisions if one not in rises)
    networks = [value for kind, value in told(rises[-1].indicators) if kind == "network"]
    assert networks[0] == "AS65100" and "AS65007" not in networks
    (slot,) = (slot for slot, name in enumerate(processor.engine.agents.names) if name is not None)
    kept = decode_indicators(processor.engine.agent_states.explanation(slot).indicators)
    assert set(rises[-1].indicators) <= set(kept)


def test_a_network_that_was_learned_before_the_rise_is_told_as_new(kit: Any, make: Any) -> None:
    """A thief whose first call is not odd enough to count is known by the next one."""
    processor, at_ms = kit.processor(capacity=100), make.START_MS + 10**9
    quiet = [make.event(n, 2, at_ms + n * 600_000, session=f"q-{n}") for n in range(300)]
    thief = {"asn": 65007, "ip": "203.0.113.9", "user_agent": "curl/8.9.1"}
    quiet[290]["client"] = thief
    wild = [
        make.event(1000 + n, 2, at_ms + 302 * 600_000 + n * 1000, session="x", client=thief)
        | {"action": f"wipe-{n}", "resource": {"target": f"other-{n}"}}
        for n in range(12)
    ]
    decisions = [
        decision
        for batch in kit.batches(kit.records([*quiet, *wild]), itertools.repeat(50))
        for decision in processor.apply(batch).decisions
    ]
    found = told(decisions[-1].indicators)
    assert found[("network", "AS65007")] in NEW_STATUSES
    assert found[("software", "curl/8.9.1")] == found[("session", "x")] == "with_new"


def kept_of_the_only_agent(processor: Any) -> dict[tuple[str, str], str]:
    """What its explanation holds."""
    (slot,) = (slot for slot, name in enumerate(processor.engine.agents.names) if name is not None)
    return told(decode_indicators(processor.engine.agent_states.explanation(slot).indicators))


def test_who_is_new_while_the_level_falls_is_kept(kit: Any, make: Any) -> None:
    """A thief that comes when an agent has just calmed down would be learned and forgotten."""
    processor, at_ms = kit.processor(capacity=100), make.START_MS + 10**9
    quiet = [make.event(n, 2, at_ms + n * 600_000, session=f"q-{n}") for n in range(300)]
    wild = [
        make.event(1000 + n, 2, at_ms + 302 * 600_000 + n * 1000, session="x")
        | {"action": f"wipe-{n}", "resource": {"target": f"other-{n}"}}
        for n in range(12)
    ]
    thief = make.event(2000, 2, at_ms + 302 * 600_000 + 48 * 3_600_000, session="y", client={"asn": 65007})
    decisions = [
        decision
        for batch in kit.batches(kit.records([*quiet, *wild, thief]), itertools.repeat(50))
        for decision in processor.apply(batch).decisions
    ]
    last = decisions[-1]
    assert (last.event_id, last.level < last.previous_level) == (thief["id"], True)
    assert kept_of_the_only_agent(processor)[("network", "AS65007")] in NEW_STATUSES


def test_a_new_credential_is_kept_behind_many_new_networks(kit: Any, make: Any) -> None:
    """Reasons are few and full by then; indicators have room for each kind."""
    processor, at_ms = kit.processor(capacity=100), make.START_MS + 10**9
    usual, other = {"method": "client_secret_basic"}, {"method": "private_key_jwt"}
    events = [make.event(n, 2, at_ms + n * 600_000, session=f"q-{n}", credential=usual) for n in range(150)]
    events += [
        make.event(1000 + n, 2, at_ms + 151 * 600_000 + n * 1000, session="x", client={"asn": 65100 + n})
        | {"credential": usual}
        for n in range(12)
    ]
    events.append(make.event(2000, 2, at_ms + 152 * 600_000, session="x", client={"asn": 65111}, credential=other))
    for batch in kit.batches(kit.records(events), itertools.repeat(50)):
        processor.apply(batch)
    assert kept_of_the_only_agent(processor)[("credential", "private_key_jwt")] in NEW_STATUSES


def test_an_agent_that_changes_networks_in_each_event_costs_little(kit: Any, make: Any) -> None:
    """The first new ones are kept, and no more is looked at."""
    processor, at_ms = kit.processor(capacity=100), make.START_MS + 10**9
    events = [
        make.event(n, 2, at_ms + n * 60_000, client={"asn": 65000 + n, "ip": "203.0.113.9"}, session=f"s-{n}")
        for n in range(120)
    ]
    built = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision_maker, "indicators_of_row", lambda *row: built.append(row) or indicators_of_row(*row))
        for batch in kit.batches(kit.records(events), itertools.repeat(20)):
            processor.apply(batch)
    (slot,) = (slot for slot, name in enumerate(processor.engine.agents.names) if name is not None)
    kept = decode_indicators(processor.engine.agent_states.explanation(slot).indicators)
    assert len([one for one in kept if one.kind == "network" and one.status in NEW_STATUSES]) == MAX_OF_KIND
    assert MAX_OF_KIND <= len(built) < 60


def test_news_of_an_agent_that_is_calm_are_those_of_a_day() -> None:
    """What it knew, and what was new longer ago, is no indicator of what comes now."""
    at_ms = int(datetime.fromisoformat(AT).timestamp() * 1000)
    kept = (
        Indicator("network", "AS1", "new", "2026-10-08T09:59:59.000Z"),
        Indicator("network", "AS2", "new", "2026-10-08T10:00:01.000Z"),
        Indicator("session", "s-1", "with_new", "2026-10-08T10:00:01.000Z"),
        Indicator("session", "s-2", "not_tracked", AT),
    )
    assert [one.value for one in lately_new(kept, at_ms)] == ["AS2", "s-1"]


def test_what_a_later_version_wrote_is_left_out() -> None:
    """One kind that is not known here does not hide the others."""
    known = {"kind": "network", "value": "AS1", "status": "new", "at": AT}
    assert indicators_of_plain([known, {"kind": "aura"}, 7]) == (Indicator("network", "AS1", "new", AT),)
    assert indicators_of_plain(None) == ()
