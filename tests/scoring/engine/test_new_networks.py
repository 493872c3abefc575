"""New networks: a token in use from two of them, and what the first new one weighs after weeks on one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features import layout
from trustwatch.scoring.engine import risk_levels
from trustwatch.scoring.engine.composites import reset_decaying_state
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.hard_signals import OF_MEDIUM, TO_HIGH
from trustwatch.scoring.engine.settings import RiskEvaluationSettings
from trustwatch.scoring.records.agents import RiskLevel

HOME, ELSEWHERE, THIRD = ({"asn": 64500}, {"asn": 65001}, {"ip": "192.0.2.7"})
EVENTS, EVERY_MS, SECOND = 4_039, 600_000, 1_000

Part = tuple[int, dict[str, Any], dict[str, Any]]
"""Seconds after the history, network, and other members."""


def login(token: str | None) -> dict[str, Any]:
    """The credential of the agent's events, with a token."""
    return {"method": "private_key_jwt", "thumbprint": "key-agent-3", "token_id": token}


class Story:
    """An agent that has worked from one network for four weeks, and what happens to it then."""

    def __init__(self, kit: Any, make: Any, settings: RiskEvaluationSettings, count: int, agent: int) -> None:
        self.agent = agent
        self.kit, self.make, self.end_ms, self.number = kit, make, make.START_MS + count * EVERY_MS, count
        self.engine = Engine(kit.model, EngineSettings(settings, capacity=10))
        past = [
            make.event(n, agent, make.START_MS + n * EVERY_MS, **self._work(n), credential=login(f"t-{n // 6}"))
            for n in range(count)
        ]
        self.engine.score(kit.columns(past))

    def _work(self, n: int) -> dict[str, Any]:
        return {"action": "pay" if n % 2 else "read", "resource": {"target": f"bank-{n % 3}"}}

    def score(self, *parts: Part) -> Any:
        """Let payments happen; returns the batch."""
        events = []
        for seconds, client, more in parts:
            self.number += 1
            made = {"client": client, "action": "pay", "resource": {"target": "bank-1"}, "credential": login("live")}
            at_ms = self.end_ms + seconds * SECOND
            events.append(self.make.event(self.number, self.agent, at_ms, **{**made, **copy.deepcopy(more)}))
        return self.engine.score(self.kit.columns(events))


@pytest.fixture
def story(kit: Any, make: Any) -> Callable[..., Story]:
    """Makes stories."""
    return lambda count=EVENTS, agent=3, **settings: Story(kit, make, RiskEvaluationSettings(**settings), count, agent)


def levels(batch: Any) -> Sequence[int]:
    found: Sequence[int] = batch.levels[:, 1].tolist()
    return found


def fired(batch: Any) -> list[bool]:
    """Whether each event showed a token on two networks."""
    return [bool(one) for one in batch.signals[:, TO_HIGH] > 0.0]


def test_a_payment_from_a_second_network_while_the_token_is_in_use(story: Any) -> None:
    """High at the payment itself, and not critical by that alone, however often both go on."""
    world = story()
    batch = world.score(
        (0, HOME, {}), (60, ELSEWHERE, {}), *((90 + 30 * n, (HOME, ELSEWHERE)[n % 2], {}) for n in range(20))
    )
    assert levels(batch)[0] == RiskLevel.LOW
    assert set(levels(batch)[1:]) == {RiskLevel.HIGH}
    reasons = world.engine.explainer.reasons(batch, [1])[0]
    assert (reasons[0].code, reasons[0].observed) == ("token_on_two_networks", "AS65001")
    assert reasons[1].code == "first_seen_network"
    evidence = world.engine.explainer.decision_evidence(0, batch, 1)
    assert evidence["signals"] == ["token_on_two_networks"]
    assert evidence["new_network_p"] == pytest.approx(1 / (EVENTS * EVERY_MS / 86_400_000 + 2), rel=1e-2)


@pytest.mark.parametrize("thief_s", [100, 299])
def test_the_thief_comes_first(story: Any, thief_s: int) -> None:
    """The honest agent goes on from its own network: that shows the overlap, whichever use came first."""
    batch = story().score((0, HOME, {}), (3_600, ELSEWHERE, {}), (3_600 + thief_s, HOME, {}))
    assert fired(batch) == [False, False, True]
    assert levels(batch)[-1] == RiskLevel.HIGH


NO_OVERLAP: dict[str, tuple[Part, ...]] = {
    "later than the interval": ((0, HOME, {}), (301, ELSEWHERE, {})),
    "another token": ((0, HOME, {}), (60, ELSEWHERE, {"credential": login("other")})),
    "no token id": ((0, HOME, {"credential": login(None)}), (60, ELSEWHERE, {"credential": login(None)})),
    "no network": ((0, HOME, {}), (60, {}, {})),
    "refused": ((0, HOME, {}), (60, ELSEWHERE, {"outcome": "denied", "error": "401"})),
    "failed": ((0, HOME, {}), (60, ELSEWHERE, {"outcome": "error", "error": "401"})),
    "claimed by anybody": ((0, HOME, {}), (60, ELSEWHERE, {"agent_self_asserted": True})),
    "seen by the authorization server": ((0, HOME, {}), (60, ELSEWHERE, {"type": "token.exchange"})),
    "the same network": ((0, HOME, {}), (60, {**HOME, "ip": "198.51.100.9"}, {})),
}


@pytest.mark.parametrize("parts", NO_OVERLAP.values(), ids=NO_OVERLAP)
def test_what_is_no_use_from_two_networks(story: Any, parts: tuple[Part, ...]) -> None:
    assert not any(fired(story().score(*parts)))


def test_a_release_accepts_the_networks_of_tokens(story: Any) -> None:
    """A person knows of the second network: it is no news any more; a third one is."""
    world = story()
    assert fired(world.score((0, HOME, {}), (60, ELSEWHERE, {})))[-1]
    risk_levels.release(world.engine.risk[0], world.end_ms + 90_000, world.engine.risk_parameters)
    reset_decaying_state(world.engine.builder.state, 0)
    again = world.score(
        (100, HOME, {}),
        (120, ELSEWHERE, {}),
        (130, ELSEWHERE, {"credential": login("next")}),
        (140, HOME, {"credential": login("next")}),
    )
    assert not any(fired(again))
    assert fired(world.score((150, THIRD, {})))[-1]


def test_a_new_network_alone_after_four_weeks(story: Any) -> None:
    """No level: by its history one day in 30 brings a new network, and one in 100 may bring an alert of compromise.

    It is three quarters of what medium needs, once; less after a week, and all of it from the hundredth day on.
    """
    world = story()
    batch = world.score((0, HOME, {}), (900, ELSEWHERE, {}), (960, ELSEWHERE, {}), (1_020, ELSEWHERE, {}))
    assert batch.signals[:, OF_MEDIUM].tolist() == [0.0, pytest.approx(np.log(30.05) / np.log(100), abs=0.01), 0.0, 0.0]
    assert set(levels(batch)) == {RiskLevel.LOW}
    assert 0.29 <= batch.risk_scores[1] < 0.4
    week = story(1_008).score((900, ELSEWHERE, {}))
    assert week.signals[0, OF_MEDIUM] == pytest.approx(np.log(9) / np.log(100), abs=0.01)
    world = story()
    world.engine.builder.state.times[0, layout.T_FIRST] -= 72 * 86_400_000
    batch = world.score((0, HOME, {}), (900, ELSEWHERE, {}))
    assert levels(batch) == [RiskLevel.LOW, RiskLevel.MEDIUM]


@pytest.mark.parametrize(
    "more", [{"outcome": "denied"}, {"agent_self_asserted": True}, {"type": "client.change"}, {"type": "token.revoke"}]
)
def test_a_new_network_that_proves_nothing(story: Any, more: dict[str, Any]) -> None:
    """Refused calls, claims, and what an administrator does from a new network have no such weight."""
    assert not story().score((900, ELSEWHERE, more)).signals[:, OF_MEDIUM].any()
