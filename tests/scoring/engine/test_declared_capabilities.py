"""What agents declare is kept with their risk, for verdicts before a call, and agrees with the hard signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.capabilities import decode_capabilities
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.policy.access_evaluation import DeclaredBoundary
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import agent_summary


def engine_of(kit: Any) -> Engine:
    return Engine(kit.model, EngineSettings(capacity=10))


def slots_of(engine: Engine) -> Any:
    return np.array([slot for slot, name in enumerate(engine.agents.names) if name is not None], np.int32)


def declared(engine: Engine) -> Any:
    (row,) = engine.agent_states.rows(slots_of(engine))
    return decode_capabilities(row.capabilities)


def tell(engine: Engine, kit: Any, make: Any, *stories: dict[str, Any]) -> Any:
    events = [make.event(n, 2, make.START_MS + n * 60_000, **story) for n, story in enumerate(stories)]
    return engine.score(kit.columns(events))


def test_the_last_word_holds(kit: Any, make: Any) -> None:
    """An event that declares nothing changes nothing; an empty list is a boundary without actions."""
    engine = engine_of(kit)
    tell(engine, kit, make, {})
    assert declared(engine) is None
    tell(engine, kit, make, {"agent_capabilities": ["pay"]}, {})
    assert declared(engine) == ("pay",)
    tell(engine, kit, make, {"agent_capabilities": ["pay"]}, {"agent_capabilities": ["look_*"]}, {})
    assert declared(engine) == ("look_*",)
    tell(engine, kit, make, {"agent_capabilities": []})
    assert declared(engine) == ()


def test_a_restart_keeps_it(kit: Any, make: Any) -> None:
    """A row that comes back is the same, and the same words are no news."""
    before, after = engine_of(kit), engine_of(kit)
    tell(before, kit, make, {"agent_capabilities": ["pay"]})
    after.agent_states.begin_preload()
    after.agent_states.preload(before.agent_states.rows(slots_of(before)))
    assert declared(after) == ("pay",)
    hashes = [engine.agents.capability_hashes[slots_of(engine)].tolist() for engine in (before, after)]
    assert hashes[0] == hashes[1] != [0]


@pytest.mark.parametrize("action", ["pay", "pay_invoice", "refund", "look_up", "tools/list", "delete_everything"])
@pytest.mark.parametrize("capabilities", [[], ["pay"], ["pay*", "look_?p"], ["*"], ["pay", "[rd]e*"]])
def test_signal_and_verdict_agree(kit: Any, make: Any, action: str, capabilities: list[str]) -> None:
    engine, view = engine_of(kit), RiskView()
    scored = tell(engine, kit, make, {"agent_capabilities": capabilities, "action": action})
    (row,) = engine.agent_states.rows(slots_of(engine))
    summary = agent_summary(row)
    view.apply([summary])
    entry = view.get(*summary.name.identity)
    outside = DeclaredBoundary().find_outside(summary.name.identity, entry, (action,), ())
    assert bool(scored.columns.codes[0, event_columns.CAPABILITY] == event_columns.OUTSIDE) is bool(outside)
