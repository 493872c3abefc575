"""What holds for an agent now: level of the store, pins, policy, descendants; and for whom one has to look."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.support import stored_rows
from trustwatch.scoring.delivery.actuators.desired_state import (
    DesiredState,
    UnreadableAction,
    build_decision_action_row,
    decode_desired_state,
)
from trustwatch.scoring.pipeline.desired_state_resolver import DesiredStateResolver
from trustwatch.scoring.policy.access_evaluation import PolicyEvaluator
from trustwatch.scoring.policy.book import LevelTokenPolicy, LivePolicy, PolicyBook, PolicyTable
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentEdge, AgentName, RiskLevel
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.sql_store import SqlStore

NOW = 1_764_000_000_000
AS = "https://as"
ENFORCED = PolicyBook(modes={"acme": "enforce"})


def name(agent_id: str = "bot", tenant: str = "acme") -> AgentName:
    """An agent."""
    return stored_rows.name(agent_id, tenant)


class WishesInStore:
    """Wishes over a real store."""

    def __init__(self, store: SqlStore, book: PolicyBook = ENFORCED) -> None:
        self.store = store
        self.pins = ActiveInterventions()
        self.policy = LivePolicy(book)
        self.verdicts = PolicyEvaluator(RiskView(), self.policy, self.pins, lambda _: False, lambda: NOW)
        self.ids = iter(range(10**6))
        self.wishes = DesiredStateResolver(store, self.verdicts, lambda: NOW, lambda: f"id-{next(self.ids)}")
        self.at = store.partitions.claim(0)

    def commit(self, *agents: tuple[AgentName, RiskLevel], edges: tuple[AgentEdge, ...] = ()) -> None:
        rows = [
            stored_rows.agent(who, level, agent_type="Payer", decision_id=f"D-{who.agent_id}-{level.label}")
            for who, level in agents
        ]
        new = Position(0, self.at.epoch, self.at.offset + 1)
        self.store.commit(Commit(self.at, new, rows, [], [], [], edges=edges))
        self.at = new

    def pin(self, who: AgentName, level: RiskLevel, expires_ms: int = NOW + 60_000) -> None:
        times = ("ann", NOW, "ann", NOW, "leak", expires_ms, NOW)
        self.pins.apply_changes(
            [Intervention(f"P-{who.agent_id}", "pin", "active", who, int(level), (), "leak", *times)]
        )

    def now(self, who: AgentName, **asked: Any) -> DesiredState:
        held = ("high", True, 60, False, False, "D-asked", NOW - 700, NOW, "Payer")
        wish = DesiredState(*who.identity, who.key, *held)
        return asyncio.run(self.wishes.resolve(msgspec.structs.replace(wish, **asked)))

    def rows(self) -> dict[str, DesiredState]:
        """Rows for the actuator `as` that wait, by agent."""
        while self.store.outbox.route([DeliveryRoute("as", "action", frozenset(range(5)), 0)], NOW):
            pass
        rows = self.store.outbox.lease("as", NOW, 10_000, 1_000)
        return {wish.agent_id: wish for wish in (decode_desired_state(row.row.payload) for row in rows)}


@pytest.mark.parametrize(
    ("level", "holds"),
    [
        (RiskLevel.UNKNOWN, (True, None, True, False)),
        (RiskLevel.LOW, (True, None, True, False)),
        (RiskLevel.MEDIUM, (True, 300, True, False)),
        (RiskLevel.HIGH, (True, 60, False, False)),
        (RiskLevel.CRITICAL, (False, 0, False, True)),
    ],
)
def test_a_level_means_what_the_policy_says(
    store: SqlStore, level: RiskLevel, holds: tuple[bool, int | None, bool, bool]
) -> None:
    """Of the store, whatever the row said. What waits for a person (`high`: all scopes) is not denied here."""
    desk = WishesInStore(store)
    desk.commit((name(), level))

    wish = desk.now(name())

    assert (wish.allow, wish.max_token_lifetime_s, wish.refresh_allowed, wish.revoke) == holds
    assert wish.restores == (level <= RiskLevel.LOW)
    assert (wish.level, wish.decision_id, wish.caused_ms) == (level.label, f"D-bot-{level.label}", NOW - 700)


def test_a_pin_wins_and_nobody_else_caused_it(store: SqlStore) -> None:
    """Both ways; also for an agent that was never seen."""
    desk = WishesInStore(store)
    desk.commit((name(), RiskLevel.CRITICAL))
    desk.pin(name(), RiskLevel.LOW)
    desk.pin(name("new"), RiskLevel.CRITICAL)

    calm, hit = desk.now(name()), desk.now(name("new"))

    assert calm.restores
    assert (hit.revoke, hit.decision_id, hit.caused_ms) == (True, "P-new", 0)
    assert desk.now(name("third")).restores


def test_in_shadow_nothing_is_lowered(store: SqlStore) -> None:
    """Neither for a tenant without enforcement, nor once the policy says so."""
    desk = WishesInStore(store)
    desk.commit((name(), RiskLevel.CRITICAL), (name("bot", "globex"), RiskLevel.CRITICAL))

    assert desk.now(name("bot", "globex")).restores
    assert not desk.now(name()).restores
    desk.policy.book = PolicyBook()
    assert desk.now(name()).restores


def test_descendants_are_lowered_where_the_policy_says_so(store: SqlStore) -> None:
    """An agent to whom a critical one delegated, while it is low itself."""
    desk = WishesInStore(store, PolicyBook(modes={"acme": "enforce"}, descendants=RiskLevel.HIGH))
    desk.commit((name("child"), RiskLevel.LOW))
    desk.verdicts.critical_ancestors = {("acme", AS, "child"): "bot"}

    assert desk.now(name("child")).level == "high"
    assert asyncio.run(desk.wishes.enqueue_full_reconciliation()) == 1


def test_principals_of_an_agent_are_known_where_tokens_die(store: SqlStore) -> None:
    """Their consents have to end; not those of other agents, and not at other levels."""
    desk = WishesInStore(store)
    seen = [
        AgentEdge("acme", AS, "acts_for", "bot", "alice", NOW - 5, NOW - 5),
        AgentEdge("acme", AS, "acts_for", "bot", "bob", NOW - 5, NOW - 5),
        AgentEdge("acme", AS, "acts_for", "other", "carol", NOW - 5, NOW - 5),
        AgentEdge("acme", AS, "delegated", "bot", "dave", NOW - 5, NOW - 5),
    ]
    desk.commit((name(), RiskLevel.CRITICAL), edges=tuple(seen))

    assert desk.now(name()).principals == ("alice", "bob")
    desk.commit((name(), RiskLevel.HIGH))
    assert desk.now(name()).principals == ()


def test_everybody_is_looked_at_who_is_or_ought_to_be_lowered(store: SqlStore) -> None:
    """Elevated, pinned, still lowered though calm, and not brought about; nobody else."""
    desk = WishesInStore(store)
    desk.commit(
        (name("calm"), RiskLevel.LOW),
        (name("medium"), RiskLevel.MEDIUM),
        (name("high"), RiskLevel.HIGH),
        (name("lowered"), RiskLevel.LOW),
        (name("failed"), RiskLevel.LOW),
        (name("done"), RiskLevel.LOW),
        (name("there", "globex"), RiskLevel.HIGH),
    )
    desk.pin(name("pinned"), RiskLevel.CRITICAL)
    desk.pin(name("was"), RiskLevel.CRITICAL, expires_ms=NOW - 1)
    for number, (who, status, original) in enumerate(
        [("lowered", "confirmed", b"{}"), ("failed", "failed", b""), ("done", "restored", b"")]
    ):
        made = Actuation("as", name(who), number, b"{}", original, "wanted", 0, NOW, 0, NOW, "")
        store.actuations.request(made)
        store.actuations.settle(msgspec.structs.replace(made, status=status, original=original))

    assert asyncio.run(desk.wishes.enqueue_full_reconciliation()) == 6

    rows = desk.rows()
    assert set(rows) == {"medium", "high", "lowered", "failed", "there", "pinned"}
    assert rows["pinned"].revoke
    assert asyncio.run(desk.wishes.enqueue_full_reconciliation("as", {"globex"})) == 1
    assert set(desk.rows()) == {"there"}


def test_many_agents_are_looked_at(store: SqlStore) -> None:
    """More than one page of them, each once."""
    desk = WishesInStore(store)
    desk.commit(*((name(f"bot-{number}"), RiskLevel.HIGH) for number in range(1_203)))

    assert asyncio.run(desk.wishes.enqueue_full_reconciliation()) == 1_203
    assert len(desk.rows()) == 1_203


def decision(level: RiskLevel, before: RiskLevel, **more: Any) -> Decision:
    """A change of level."""
    given = {"agent_type": "Payer", "decided_ms": NOW, "event_id": "evt-1", "event_time_ms": NOW - 900} | more
    return stored_rows.decision(1, name(), previous_level=int(before), level=int(level), **given)


def test_a_decision_is_acted_on_where_policy_is_enforced() -> None:
    """Up and down; not in shadow, not between unknown and low."""
    row = build_decision_action_row(decision(RiskLevel.HIGH, RiskLevel.LOW), ENFORCED)
    assert row is not None
    wish = decode_desired_state(row.payload)
    assert (row.kind, row.target, row.level, row.tenant, row.group) == ("action", "", 3, "acme", "")
    assert (wish.max_token_lifetime_s, wish.caused_ms, wish.decision_id) == (60, NOW - 900, "D1")
    down = build_decision_action_row(
        decision(RiskLevel.LOW, RiskLevel.MEDIUM, event_id="", cause="tick", decision_id="D2"), ENFORCED
    )
    assert down is not None
    assert decode_desired_state(down.payload).restores
    assert decode_desired_state(down.payload).caused_ms == 0
    assert build_decision_action_row(decision(RiskLevel.LOW, RiskLevel.UNKNOWN), ENFORCED) is None
    assert build_decision_action_row(decision(RiskLevel.HIGH, RiskLevel.LOW), PolicyBook()) is None
    assert build_decision_action_row(decision(RiskLevel.LOW, RiskLevel.UNKNOWN), PolicyBook(), every_level=True) is None
    row = build_decision_action_row(decision(RiskLevel.LOW, RiskLevel.UNKNOWN), ENFORCED, every_level=True)
    assert row is not None and decode_desired_state(row.payload).level == "low"


def test_the_operators_policy_is_what_counts() -> None:
    """A level that denies and does not revoke, or revokes and does not deny."""
    table = PolicyTable(
        {
            RiskLevel.HIGH: LevelTokenPolicy(False, 0, None, False, False, False),
            RiskLevel.MEDIUM: LevelTokenPolicy(True, 30, None, True, False, True),
        }
    )
    book = PolicyBook(table, default_mode="enforce")
    high = build_decision_action_row(decision(RiskLevel.HIGH, RiskLevel.LOW), book)
    medium = build_decision_action_row(decision(RiskLevel.MEDIUM, RiskLevel.LOW), book)
    assert high is not None
    assert medium is not None
    wishes = [decode_desired_state(row.payload) for row in (high, medium)]

    assert [(wish.allow, wish.revoke, wish.max_token_lifetime_s) for wish in wishes] == [
        (False, False, 0),
        (True, True, 30),
    ]


def test_what_is_no_wish_is_said() -> None:
    """With where it is wrong."""
    with pytest.raises(UnreadableAction, match="missing required field"):
        decode_desired_state(b"{}")
