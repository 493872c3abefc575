"""Each attack scenario does what its name says, against the history of the same agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.simulator.attack_scenarios import SCENARIOS
from trustwatch.simulator.event_stream import plan_attacks, simulate
from trustwatch.simulator.labelled_events import CLEAN_LABEL, SimulatedLabel
from trustwatch.simulator.population import Attack, Enterprise, SimulationSettings

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = SimulationSettings(
    start=MONDAY,
    duration=timedelta(days=6),
    seed=11,
    agents=52,
    events_per_agent_day=100,
    attacks=tuple(Attack(name) for name in SCENARIOS),
)


@dataclass
class Story:
    """An attack with what its agent did without it."""

    attack: list[NativeEvent]
    labels: list[SimulatedLabel]
    own: list[NativeEvent]

    @property
    def bad(self) -> list[NativeEvent]:
        return [event for event, label in zip(self.attack, self.labels, strict=True) if label.event_label]

    @property
    def before(self) -> list[NativeEvent]:
        return [event for event in self.own if event.time < self.attack[0].time]


@pytest.fixture(scope="module")
def everything() -> list[tuple[NativeEvent, SimulatedLabel]]:
    return [(decode_event(event), label) for event, label, _ in simulate(SETTINGS)]


@pytest.fixture
def story(request: pytest.FixtureRequest, everything: list[tuple[NativeEvent, SimulatedLabel]]) -> Story:
    (plan,) = [plan for plan in plan_attacks(Enterprise(SETTINGS)) if plan.scenario.name == request.param]
    attack = [(event, label) for event, label in everything if label.scenario == request.param]
    own = [
        event
        for event, label in everything
        if label.scenario == CLEAN_LABEL and (event.tenant, event.agent.id) == (plan.agent.tenant.name, plan.agent.id)
    ]
    return Story([event for event, _ in attack], [label for _, label in attack], own)


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("story", [name], indirect=True)


def targets(events: list[NativeEvent]) -> set[str | None]:
    return {event.resource.target for event in events if event.resource is not None}


@pytest.mark.parametrize("story", list(SCENARIOS), indirect=True)
def test_every_scenario_is_present_and_labelled(story: Story) -> None:
    """It has malicious events; all of its events belong to malicious sessions; the agent has a clean history."""
    assert len(story.bad) >= 4
    assert {label.session_label for label in story.labels} == {1}
    assert len(story.before) >= 50


def test_labels_of_sessions_follow_from_those_of_events(everything: list[tuple[NativeEvent, SimulatedLabel]]) -> None:
    worst: dict[str, int] = {}
    said: dict[str, set[tuple[int, str]]] = {}
    for _, label in everything:
        worst[label.session] = max(worst.get(label.session, 0), label.event_label)
        said.setdefault(label.session, set()).add((label.session_label, label.scenario))

    assert all(len(found) == 1 for found in said.values())
    assert all(next(iter(found))[0] == worst[session] for session, found in said.items())


@of("stolen_credential")
def test_stolen_credential_comes_from_elsewhere(story: Story) -> None:
    """Network, ASN and software are new, the key is the same; most resources are new and many calls are denied."""

    def origins(events: list[NativeEvent]) -> set[tuple[str, int | None, str | None]]:
        clients = [event.client for event in events if event.client is not None]
        return {(str(client.ip).rpartition(".")[0], client.asn, client.user_agent) for client in clients}

    calls = [event for event in story.bad if event.type in ("tool.call", "api.call")]
    theirs, mine = origins(story.attack), origins(story.before)
    keys = {e.credential.thumbprint for e in story.own if e.credential}

    assert len(theirs) == 1
    for part in range(3):
        assert not {origin[part] for origin in theirs} & {origin[part] for origin in mine}
    assert {e.credential.thumbprint for e in story.attack if e.credential} <= keys
    assert len(targets(calls) - targets(story.before)) > 0.9 * len(targets(calls))
    assert len(targets(calls)) >= 80
    assert 0.2 < sum(e.outcome == "denied" for e in calls) / len(calls) < 0.5


@of("confused_deputy")
def test_confused_deputy_acts_through_a_new_edge_for_a_new_principal(
    story: Story, everything: list[tuple[NativeEvent, SimulatedLabel]]
) -> None:
    """A small agent calls an orchestrator for the first time; payments follow three actors deep, for a new user."""
    clean = [event for event, label in everything if label.scenario == CLEAN_LABEL]
    caller = next(event for event in story.bad if event.type == "a2a.message")
    payments = [event for event in story.bad if event.action == "process_payment"]
    payer = payments[0].agent.id
    pairs = {
        (event.tenant, event.agent.id, event.principal.id)
        for event in clean
        if event.principal is not None and event.time < caller.time
    }
    edges = {(event.tenant, event.agent.id, event.peer) for event in clean if event.peer}

    assert (caller.tenant, caller.agent.id, caller.peer) not in edges
    assert len(payments) >= 3
    assert payments[0].agent.type == "PaymentProcessor"
    assert [len(event.delegation or ()) for event in payments] == [3] * len(payments)
    assert (payments[0].delegation or [])[-1] == caller.agent.id
    for event in payments:
        assert event.principal is not None
        assert (event.tenant, payer, event.principal.id) not in pairs
        assert (event.tenant, caller.peer, event.principal.id) not in pairs


def test_attacks_can_be_placed(everything: list[tuple[NativeEvent, SimulatedLabel]]) -> None:
    """An attack with a moment and an agent happens there and then, to it."""
    agent = next(agent for agent in Enterprise(SETTINGS).agents if agent.role.name == "SupportTriage")
    attack = Attack("burst", timedelta(hours=30), agent.id, agent.tenant.name)
    settings = SimulationSettings(start=MONDAY, duration=timedelta(days=2), seed=11, agents=52, attacks=(attack,))

    bad = [(at_ms, label) for _, label, at_ms in simulate(settings) if label.scenario == "burst"]

    assert bad[0][0] == settings.start_ms + 30 * 3_600_000
    assert {(label.agent_id, label.tenant) for _, label in bad} == {(agent.id, agent.tenant.name)}


def test_attacks_can_come_at_a_rate() -> None:
    """With six attacks a day some four days hold between 10 and 40 of several kinds."""
    settings = SimulationSettings(
        start=MONDAY, duration=timedelta(days=4), seed=2, agents=52, events_per_agent_day=40, attacks_per_day=6.0
    )
    planned = plan_attacks(Enterprise(settings))
    seen = {label.scenario for _, label, _ in simulate(settings)}

    assert 10 <= len(planned) <= 40
    assert len(seen - {CLEAN_LABEL}) >= 4
