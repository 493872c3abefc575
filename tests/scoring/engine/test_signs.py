"""Signs: what tells of an agent's tokens and sessions raises it to medium at most until its own behavior agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.scoring.engine import risk_levels
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.hard_signals import AS_SIGN
from trustwatch.scoring.records.agents import RiskLevel

from ...support.one_question import SETTINGS, apply_events, for_each_concern, one_question

T0 = 1_764_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
BOUNDS = one_question(np.array([[4.0, 6.0, 8.0]]))


class OneAgent:
    """The risk of one agent; each call is one event, and returns the level after it."""

    def __init__(self) -> None:
        self.state, self.now = risk_levels.allocate(1), T0
        self.state["events"] = 1_000

    def event(
        self, p: float = 0.5, *, sign: float = 0.0, full: float = 0.0, asserted: bool = False, skip: bool = False
    ) -> int:
        p_values, levels = for_each_concern(np.array([p])), np.zeros((1, 2), np.int8)
        given: dict[str, Any] = {"sign": sign, "signal": full, "asserted": asserted, "skip": skip}
        apply_events(self.state, [self.now], p_values, BOUNDS, levels, **given)
        return int(levels[0, 1])

    def sign(self, weight: float = 4.0) -> int:
        return self.event(sign=weight, skip=True)

    def wait(self, ms: int) -> int:
        self.now, levels = self.now + ms, np.zeros((1, 2), np.int8)
        none = np.zeros(1, np.int32)
        risk_levels.advance(none, self.state, BOUNDS, np.zeros(1, np.int64), self.now, SETTINGS, levels)
        return int(levels[0, 1])


@pytest.mark.parametrize("pause_ms", [0, MINUTE, HOUR, 7 * HOUR])
def test_signs_alone_raise_to_medium_at_most(pause_ms: int) -> None:
    """However many come, and however long they go on, beside behavior that is as usual or without any."""
    for behaves in (True, False):
        agent, levels = OneAgent(), []
        for _ in range(200):
            levels.append(agent.sign())
            agent.wait(pause_ms)
            if behaves:
                agent.event(0.6)
        assert max(levels) == RiskLevel.MEDIUM


def test_signs_count_in_full_once_behavior_alone_is_medium() -> None:
    """Neither of both is high; together they are, in whatever order they come."""
    for signs_first in (True, False):
        agent = OneAgent()
        if signs_first:
            agent.sign(), agent.sign()
        behavior = agent.event(0.0002, full=1.0)
        if not signs_first:
            assert behavior == RiskLevel.MEDIUM
            agent.sign(), agent.sign()
        assert agent.event(0.5, sign=0.01, skip=True) >= RiskLevel.HIGH
    alone = OneAgent()
    assert alone.event(0.0002, full=1.0) == RiskLevel.MEDIUM


def test_behavior_below_medium_agrees_with_nothing() -> None:
    """An odd event adds to signs up to medium, and no further: a thief of proofs only needs to wait for one."""
    agent = OneAgent()
    for _ in range(10):
        agent.sign()
    assert agent.event(0.01) == RiskLevel.MEDIUM
    assert agent.sign() == RiskLevel.MEDIUM


def test_claims_of_anybody_agree_with_nothing() -> None:
    """Events that no token vouches for raise to high at most; with replays they do not make an agent critical."""
    agent = OneAgent()
    for _ in range(50):
        agent.event(1e-5, asserted=True)
        level = agent.sign()
    assert level == RiskLevel.HIGH
    for _ in range(50):
        assert agent.event(0.5, sign=4.0, asserted=True) <= RiskLevel.HIGH


def test_clean_events_clear_signs() -> None:
    """Normal events take signs away as they take other evidence away; later own evidence then stands alone."""
    agent = OneAgent()
    agent.sign()
    for _ in range(20):
        agent.event(0.5)
    assert agent.state[0]["signs"] == 0.0


def test_release_and_time_leave_no_more_than_they_do_of_other_evidence() -> None:
    """A release drops signs; an alert that time has cleared leaves half of what medium needs."""
    agent = OneAgent()
    agent.event(1.0)
    agent.sign(), agent.sign()
    assert agent.wait(3 * HOUR) == RiskLevel.LOW
    assert agent.state[0]["signs"] == 2.0
    agent.event(0.01)
    risk_levels.release(agent.state[0], agent.now, SETTINGS)
    assert agent.state[0]["signs"] == agent.state[0]["claimed"] == 0.0


def test_feedback_takes_back_behavior_and_leaves_signs() -> None:
    """A decision that a person calls wrong gives back what the event brought; replays of others are no part of it."""
    agent = OneAgent()
    agent.sign(), agent.sign()
    agent.event(0.0002, full=1.0)
    before = float(agent.state[0]["signs"])
    risk_levels.withdraw(agent.state, 0, 20.0, BOUNDS[0], SETTINGS)
    assert agent.state[0]["signs"] == before
    assert agent.state[0]["level"] <= RiskLevel.MEDIUM


def test_replays_of_an_honest_agents_proofs(kit: Any, make: Any) -> None:
    """As they come out of the log: seven kinds of failure and a revoked token, for a day, beside honest work."""
    reports = [("proof", "proof-replayed"), ("proof", "proof-of-another-key"), ("proof", "proof-of-another-token")]
    reports += [("proof", "certificate-of-another"), ("evidence", "proof-missing"), ("evidence", "proof-malformed")]
    nothing = {"resource": None, "client": None, "credential": None}
    old = {"credential": {"method": "private_key_jwt", "thumbprint": "key-agent-2", "token_id": "old"}}
    story: list[dict[str, Any]] = [{} for _ in range(10)] + [{**old, "type": "token.revoke"}]
    for _ in range(24):
        story += [{"type": f"signal.{kind}", "action": action, **nothing} for kind, action in reports]
        story += [{**old, "outcome": "denied"}, {}]
    events = [make.event(n, 2, make.START_MS + n * 400_000, **part) for n, part in enumerate(story)]
    engine = Engine(kit.model, EngineSettings(capacity=10))
    scored = engine.score(kit.columns(events))
    assert scored.levels[:, 1].max() == RiskLevel.MEDIUM
    assert scored.signals[:, AS_SIGN].sum() > 400.0


def test_signs_of_0_2_stay_in_the_statistic() -> None:
    """A stored row of before is read as it is: an upgrade neither frees nor blames."""
    old = np.zeros(1, risk_levels.EARLIER_ROWS[0])
    old["statistic"], old["level"], old["events"] = 5.0, RiskLevel.MEDIUM, 77
    row = risk_levels.converted(old)[0]
    assert (row["statistic"] == 5.0).all()
    assert (row["level"], row["events"], row["signs"], row["claimed"]) == (RiskLevel.MEDIUM, 77, 0.0, 0.0)
