"""What the store knows, as frames. Lists are read in pages and cut at a limit, newest first where they have a time."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import islice
from typing import Any, TypeVar

import msgspec

from ..scoring.records.agents import AgentName, AgentSummary, RiskLevel
from ..scoring.records.commits import Delivery
from ..scoring.records.decisions import Decision, RiskReason
from ..scoring.store.agent_store import AgentQuery
from ..scoring.store.blast_radius import ACTS_FOR, CALLED, DELEGATED, find_blast_radius
from ..scoring.store.database import MAX_PAGE, iterate_pages
from ..scoring.store.sql_store import SqlStore
from .frame_builder import build_frame
from .session import LabError, LabWarning

Item = TypeVar("Item")
TenantFilter = Collection[str] | None
_reasons = msgspec.json.Decoder(tuple[RiskReason, ...])
EDGE_KINDS = (DELEGATED, CALLED, ACTS_FOR)
_ALERTING = RiskLevel.MEDIUM


def take_limited(items: Iterable[Item], limit: int, what: str) -> list[Item]:
    """At most *limit* items; says by a `LabWarning` if there are more."""
    kept = list(islice(items, limit + 1))
    if len(kept) > limit:
        warnings.warn(
            f"more than {limit:,} {what}, the first are here: narrow or raise limit", LabWarning, stacklevel=4
        )
    return kept[:limit]


def level_name(level: int | None) -> str | None:
    """The word of a level."""
    return None if level is None else RiskLevel(level).label


def agent_summaries(store: SqlStore, tenants: TenantFilter, agent_type: str | None = None) -> Iterator[AgentSummary]:
    """Agents by tenant and id."""
    return iterate_pages(
        lambda cursor: store.agents.page(
            AgentQuery(tenants=tenants, agent_type=agent_type, limit=MAX_PAGE, cursor=cursor)
        )
    )


def agents_frame(found: Iterable[AgentSummary]) -> Any:
    """The frame `agents`."""
    return build_frame(
        "agents",
        [
            (
                one.name.tenant,
                one.name.issuer,
                one.name.agent_id,
                one.agent_type,
                level_name(one.level),
                one.risk_score,
                one.confidence,
                one.anomaly_score,
                one.events,
                one.first_seen_ms,
                one.last_seen_ms,
                one.evaluated_ms,
                _strongest_reason(_reasons.decode(one.reasons)),
                one.decision_id,
            )
            for one in found
        ],
    )


def _strongest_reason(reasons: Sequence[RiskReason]) -> str:
    return reasons[0].text if reasons else ""


def iterate_decisions(store: SqlStore, tenants: TenantFilter, key: int | None = None) -> Iterator[Decision]:
    """Decisions, newest first."""
    return iterate_pages(lambda cursor: store.decisions.page(tenants, key, MAX_PAGE, cursor))


def decisions_within(found: Iterable[Decision], since_ms: int | None, until_ms: int | None) -> Iterator[Decision]:
    """Those of a window of event time."""
    return (
        one
        for one in found
        if (since_ms is None or one.event_time_ms >= since_ms) and (until_ms is None or one.event_time_ms < until_ms)
    )


def decisions_frame(found: Iterable[Decision]) -> Any:
    """The frame `decisions`, oldest first."""
    return build_frame(
        "decisions", map(_decision_row, sorted(found, key=lambda one: (one.event_time_ms, one.decision_id)))
    )


def _decision_row(one: Decision) -> tuple[Any, ...]:
    signals = " ".join(one.evidence.get("signals", ()))
    return (
        one.event_time_ms,
        one.agent.tenant,
        one.agent.issuer,
        one.agent.agent_id,
        one.agent_type,
        level_name(one.previous_level),
        level_name(one.level),
        one.risk_score,
        one.confidence,
        one.anomaly_score,
        one.p_value,
        one.cause,
        _strongest_reason(one.reasons),
        signals,
        one.counterfactual,
        one.mode,
        one.model_version,
        one.policy_version,
        one.event_id,
        one.decided_ms,
        one.decision_id,
    )


def raises_alert(decision: Decision) -> bool:
    """Whether a decision raises an alert: its level rose to medium or above."""
    return decision.level >= _ALERTING and decision.level > decision.previous_level


def alerts_frame(store: SqlStore, found: Iterable[Decision]) -> Any:
    """The frame `alerts`: a row for each target that took one, or one without a target."""
    rows: list[tuple[Any, ...]] = []
    for one in sorted(found, key=lambda one: (one.event_time_ms, one.decision_id)):
        sent: Sequence[Delivery | None] = store.outbox.page(key=f"alert-{one.decision_id}", limit=MAX_PAGE).items
        head = (
            one.event_time_ms,
            one.agent.tenant,
            one.agent.issuer,
            one.agent.agent_id,
            one.agent_type,
            level_name(one.level),
            _strongest_reason(one.reasons),
        )
        rows += [(*head, *_delivery_values(delivery), one.decision_id) for delivery in sent or (None,)]
    return build_frame("alerts", rows)


def _delivery_values(delivery: Delivery | None) -> tuple[Any, ...]:
    if delivery is None:
        return None, None, None, None, ""
    return delivery.target, delivery.status, delivery.attempts, delivery.delivered_ms, delivery.last_error


def reasons_frame(decision: Decision) -> Any:
    """The frame `reasons`, the strongest first."""
    return build_frame(
        "reasons",
        [(one.code, one.feature, one.observed, one.usual, one.contribution, one.text) for one in decision.reasons],
    )


def edges_frame(store: SqlStore, keys: Collection[int], tenants: TenantFilter, since_ms: int, limit: int) -> Any:
    """The frame `edges`: what leaves those agents."""
    found = store.edges.find(keys, outgoing=True, kinds=EDGE_KINDS, since_ms=since_ms, limit=limit + 1)
    seen = [one for one in found if tenants is None or one.tenant in tenants]
    kept = take_limited(sorted(seen, key=lambda one: -one.last_ms), limit, "edges")
    return build_frame(
        "edges",
        [
            (one.kind, one.tenant, one.source, one.target, one.first_ms, one.last_ms, one.risk, one.risk_ms)
            for one in kept
        ],
    )


def blast_radius_frame(store: SqlStore, name: AgentName, since_ms: int) -> Any:
    """The frame `blast_radius`."""

    def level_of(who: AgentName) -> RiskLevel | None:
        row = store.agents.get(who.tenant, who.issuer, who.agent_id)
        return None if row is None else RiskLevel(row.level)

    found = find_blast_radius(store.edges, name, level_of, since_ms=since_ms)
    return build_frame(
        "blast_radius",
        [
            (
                one.depth,
                one.name.agent_id,
                one.kind,
                one.via,
                level_name(one.level),
                one.first_ms,
                one.last_ms,
                one.risk,
            )
            for one in found.agents
        ],
    )


def find_agent_summary(
    store: SqlStore, tenants: TenantFilter, agent_id: str, tenant: str | None, issuer: str | None
) -> AgentSummary:
    """The one agent of that id. Raises LabError where there is none, or several."""
    found = [
        one
        for one in store.agents.find(agent_id, tenants)
        if (tenant is None or one.name.tenant == tenant) and (issuer is None or one.name.issuer == issuer)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        some = (
            ", ".join(one.name.agent_id for one in islice(agent_summaries(store, tenants), 3)) or "the store is empty"
        )
        raise LabError(f"no agent {agent_id!r} in the store (there are: {some}, …); `lab.agents()` lists all")
    where = ", ".join(f"{one.name.tenant} ({one.name.issuer})" for one in found)
    raise LabError(f"{len(found)} agents are called {agent_id!r}: name tenant= and issuer=; they are of {where}")


# A decision in sentences, as a notebook shows it. Names come from outside: everything is escaped.


class DecisionExplanation:
    """Why a decision was made.

    Args:
        decision: as it was recorded.
    """

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    @property
    def headline(self) -> str:
        """What happened."""
        one = self._decision
        at = datetime.fromtimestamp(one.event_time_ms / 1000, UTC)
        before, after = (RiskLevel(level).label for level in (one.previous_level, one.level))
        return (
            f"{one.agent.agent_id} ({one.agent.tenant or 'no tenant'}) went from {before} to {after} on "
            f"{at:%A, %d %B %Y, %H:%M:%S} UTC, by {one.cause}; risk {one.risk_score:.2f}, confidence "
            f"{one.confidence:.2f}"
        )

    @property
    def sentences(self) -> list[str]:
        """The reasons, the strongest first, and what would have kept the level lower."""
        told = [reason.text for reason in self._decision.reasons]
        return [
            *told,
            *([f"It would have been {self._decision.counterfactual}"] if self._decision.counterfactual else []),
        ]

    def __repr__(self) -> str:
        return "\n".join([self.headline, *(f"- {sentence}" for sentence in self.sentences)])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.sentences)
        return f"<p><strong>{escape(self.headline)}</strong></p><ol>{items}</ol>"
