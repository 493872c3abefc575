"""Acts on the agents of a case one by one: whoever tries again gets on, and nothing happens behind the deadline."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from trustwatch.api.cases.agent_acts import CaseAgentActs
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.cases import CaseAgent

if TYPE_CHECKING:
    from trustwatch.api.access.service import ContainmentService
    from trustwatch.api.agents.service import AgentService

KEY = bytes(16)
NOBODY: Any = None


class Agents:
    """Twelve agents of a case, with services that take a second for each act."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.levels: dict[str, int] = {}
        self.done: list[str] = []
        self.unpinned: list[str] = []
        self.pins: set[str] = set()
        self.names = [f"bot-{at:02}" for at in range(12)]
        self.acts = CaseAgentActs(
            cast("AgentService", self),
            cast("ContainmentService", self),
            None,
            lambda: 0,
            lambda: self.now_s,
            lambda name: int(RiskLevel.CRITICAL) if name.agent_id in self.pins else None,
            lambda name: self.levels.get(name.agent_id),
        )

    @property
    def of_case(self) -> list[CaseAgent]:
        return [
            CaseAgent("case", AgentName(KEY, "acme", "https://as", name), "", at, 4, 4, 0, 0, f"D{at}", "first", "")
            for at, name in enumerate(self.names)
        ]

    async def list(self, _: Any, __: str, ___: str, selector: Any) -> Any:
        pin = SimpleNamespace(level=RiskLevel.CRITICAL, expires_ms=1)  # earlier than another attempt would have it
        return SimpleNamespace(items=[pin] if selector.agent_id in self.pins else [])

    async def pin(self, _: Any, selector: Any, *__: Any) -> None:
        self.now_s += 10.0
        self.done.append(selector.agent_id)
        self.pins.add(selector.agent_id)

    async def unpin(self, _: Any, selector: Any, __: str) -> None:
        self.pins.discard(selector.agent_id)
        self.unpinned.append(selector.agent_id)

    async def release(self, _: Any, selector: Any, *__: Any, **___: Any) -> None:
        self.now_s += 10.0
        self.done.append(selector.agent_id)
        self.levels[selector.agent_id] = int(RiskLevel.LOW)


@pytest.fixture
def agents() -> Agents:
    return Agents()


def test_whoever_contains_again_gets_on(agents: Agents) -> None:
    agents.levels = dict.fromkeys(agents.names, int(RiskLevel.CRITICAL))
    for _ in range(4):
        failed = asyncio.run(agents.acts.pin(NOBODY, agents.of_case, "stop", 60.0, agents.acts.deadline()))
    assert agents.done == agents.names
    assert failed == [f"9 not tried, since the 30 s of one act were over: {', '.join(agents.names[:9])}"]


def test_whoever_releases_again_gets_on(agents: Agents) -> None:
    agents.pins = {agents.names[11]}
    agents.levels = dict.fromkeys(agents.names[2:], int(RiskLevel.CRITICAL))
    for _ in range(4):
        asyncio.run(agents.acts.release(NOBODY, agents.of_case, "fine", agents.acts.deadline()))
    assert agents.done[:10] == [agents.names[11], *agents.names[2:11]]
    assert agents.unpinned == [agents.names[11]]


def test_no_pin_is_ended_behind_the_deadline(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    agents.pins = set(agents.names)
    look = Agents.list

    async def slow(self: Agents, *arguments: Any) -> Any:
        self.now_s += 31.0
        return await look(self, *arguments)

    monkeypatch.setattr(Agents, "list", slow)
    (untried, late) = asyncio.run(agents.acts.release(NOBODY, agents.of_case, "fine", agents.acts.deadline()))
    assert (agents.done, agents.unpinned) == ([], [])
    assert untried.startswith("11 not tried, since the 30 s of one act were over: ")
    assert late == "bot-00: the 30 s of one act were over"
