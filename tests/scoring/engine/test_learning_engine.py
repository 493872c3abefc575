"""An engine without a trained model: nobody is known, hard signals count, and nothing of agents is lost."""

from __future__ import annotations

from typing import Any

from trustwatch.models.model_persistence import make_learning_model
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.records.agents import RiskLevel


def test_everybody_is_unknown_until_a_model_was_trained(kit: Any, make: Any) -> None:
    """Odd or not, however long; from the first event by a trained model on, what was seen before counts."""
    engine = Engine(make_learning_model(kit.model.salt), EngineSettings(capacity=100))
    scored = engine.score(kit.columns(make.stream(5, 300, odd=0.3)))
    assert set(scored.levels[:, 1].tolist()) == {RiskLevel.UNKNOWN}
    assert (scored.p_values == 1.0).all()

    engine.use_model(kit.model)
    later = make.stream(6, 40, agents=2, start_ms=make.START_MS + 10**9)
    levels = engine.score(kit.columns(later)).levels[:, 1].tolist()
    assert RiskLevel.UNKNOWN not in levels and RiskLevel.LOW in levels
    assert int(engine.risk["events"].sum()) > len(later), "both go on with what they have shown"


def test_hard_signals_count_without_a_model(kit: Any, make: Any) -> None:
    """A revoked token that is used is no question of what is usual."""
    engine = Engine(make_learning_model(kit.model.salt), EngineSettings(capacity=100))
    token = {"credential": {"method": "private_key_jwt", "thumbprint": "key-agent-2", "token_id": "t-1"}}
    revoked = make.event(1, 2, make.START_MS, **token, type="token.revoke")
    used = make.event(2, 2, make.START_MS + 60_000, **token)
    levels = engine.score(kit.columns([revoked, used])).levels[:, 1].tolist()
    assert levels == [RiskLevel.UNKNOWN, RiskLevel.CRITICAL]
