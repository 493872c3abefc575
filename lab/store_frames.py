"""Agents, decisions, alerts and edges of the store as frames, and decisions in sentences.

Lists are read in pages and cut at a limit, newest first where they have a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import islice
from typing import Any, TypeVar

import msgspec
import pandas as pd

from trustwatch.scoring.records.agents import AgentName, AgentSummary, RiskLevel
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.store.blast_radius import ACTS_FOR, CALLED, DELEGATED, find_blast_radius
from trustwatch.scoring.store.database import MAX_PAGE, iterate_pages

from .event_history import AgentReference, agent_identity, parse_time_ms
from .frame_builder import build_frame
from .session import DEFAULT_ROW_LIMIT, LabError, LabSession, warn_incomplete

Item = TypeVar("Item")
EDGE_KINDS = (DELEGATED, CALLED, ACTS_FOR)
_ALERTING_LEVEL = RiskLevel.MEDIUM
_reasons_decoder = msgspec.json.Decoder(tuple[RiskReason, ...])


def agents(session: LabSession, *, agent_type: str | None = None, limit: int = DEFAULT_ROW_LIMIT) -> pd.DataFrame:
    """Agents with their risk now."""
    return build_frame("agents", map(_agent_row, _take_limited(session.agent_summaries(agent_type), limit, "agents")))


def decisions(
    session: LabSession,
    agent: AgentReference = None,
    *,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    limit: int = DEFAULT_ROW_LIMIT,
) -> pd.DataFrame:
    """Changes of level, oldest first; of more than *limit* the newest."""
    newest = _take_limited(find_decisions(session, agent, tenant, since, until), limit, "decisions")
    return build_frame("decisions", map(_decision_row, _oldest_first(newest)))


def alerts(
    session: LabSession,
    agent: AgentReference = None,
    *,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    limit: int = 10_000,
) -> pd.DataFrame:
    """Rises to medium or above and the delivery of their alerts: a row for each target that took one, else one row."""
    alerting = filter(_raises_alert, find_decisions(session, agent, tenant, since, until))
    rows: list[tuple[Any, ...]] = []
    for decision in _oldest_first(_take_limited(alerting, limit, "alerts")):
        rows += _alert_rows(session, decision)
    return build_frame("alerts", rows)


def worst_decision(decisions: pd.DataFrame) -> pd.Series:
    """The row of `decisions` to look at first: the highest level, hard signals first, then risk."""
    by_events = decisions[decisions["cause"] == "event"]
    if not len(by_events):
        raise LabError("no event has changed a level here: widen since and until, or look at `frames.agents(session)`")
    ranked = by_events.assign(hard=by_events["signals"] != "").sort_values(["level", "hard", "risk_score"])
    return ranked.iloc[-1]


def reasons(session: LabSession, decision: str | pd.Series) -> pd.DataFrame:
    """Reasons of a decision, the strongest first. *decision* is an id or a row of `decisions`."""
    return build_frame(
        "reasons",
        [
            (reason.code, reason.feature, reason.observed, reason.usual, reason.contribution, reason.text)
            for reason in find_decision(session, decision).reasons
        ],
    )


def explain_decision(session: LabSession, decision: str | pd.Series) -> DecisionExplanation:
    """A decision in sentences: what happened, why, and what would have kept the level lower."""
    return DecisionExplanation(find_decision(session, decision))


def edges(
    session: LabSession,
    agent: AgentReference = None,
    *,
    tenant: str | None = None,
    since: Any = None,
    limit: int = 5_000,
) -> pd.DataFrame:
    """Delegations, calls and acting for principals, last seen first; of one agent, or of all."""
    sources = session.agent_summaries() if agent is None else (find_agent(session, agent, tenant),)
    leaving = session.store.edges.find(
        [summary.name.identity for summary in sources],
        outgoing=True,
        kinds=EDGE_KINDS,
        since_ms=parse_time_ms(since) or 0,
        limit=limit + 1,
    )
    shown = [edge for edge in leaving if session.tenants is None or edge.tenant in session.tenants]
    newest = _take_limited(sorted(shown, key=lambda edge: -edge.last_ms), limit, "edges")
    return build_frame(
        "edges",
        [
            (edge.kind, edge.tenant, edge.source, edge.target, edge.first_ms, edge.last_ms, edge.risk, edge.risk_ms)
            for edge in newest
        ],
    )


def blast_radius(
    session: LabSession, agent: AgentReference, *, tenant: str | None = None, since: Any = None
) -> pd.DataFrame:
    """Agents that one reached, by delegation and by calls."""
    store = session.store

    def level_of(name: AgentName) -> RiskLevel | None:
        row = store.agents.get(name.tenant, name.issuer, name.agent_id)
        return None if row is None else RiskLevel(row.level)

    name = find_agent(session, agent, tenant).name
    reached = find_blast_radius(store.edges, name, level_of, since_ms=parse_time_ms(since) or 0).agents
    return build_frame(
        "blast_radius",
        [
            (
                hop.depth,
                hop.name.agent_id,
                hop.kind,
                hop.via,
                _level_name(hop.level),
                hop.first_ms,
                hop.last_ms,
                hop.risk,
            )
            for hop in reached
        ],
    )


def find_peer(agents: pd.DataFrame, agent: AgentReference, *, tenant: str | None = None) -> pd.Series:
    """The calmest agent of the same tenant and type in a frame `agents`, for comparison."""
    row = _find_agent_row(agents, agent, tenant)
    agent_type = "" if pd.isna(row["agent_type"]) else row["agent_type"]
    same_type = agents["agent_type"].astype("object").fillna("") == agent_type
    peers = agents[same_type & (agents["tenant"] == row["tenant"]) & (agents["agent_id"] != row["agent_id"])]
    if not len(peers):
        raise LabError(f"{row['agent_id']} is the only agent of type {agent_type!r} in its tenant")
    return peers.sort_values(["level", "risk_score", "events"], ascending=[True, True, False]).iloc[0]


def _find_agent_row(agents: pd.DataFrame, agent: AgentReference, tenant: str | None) -> pd.Series:
    tenant, issuer, agent_id = agent_identity(agent, tenant)
    same = agents["agent_id"] == agent_id
    if tenant is not None:
        same &= agents["tenant"] == tenant
    if isinstance(issuer, str):
        same &= agents["issuer"] == issuer
    rows = agents[same]
    if len(rows) == 1:
        return rows.iloc[0]
    if not len(rows):
        raise LabError(f"no agent {agent_id!r} in the frame: pass what `frames.agents(session)` returned")
    raise LabError(f"{len(rows)} agents are called {agent_id!r}: name tenant=, or pass a row")


def find_agent(session: LabSession, agent: AgentReference, tenant: str | None) -> AgentSummary:
    """The one agent of an id or row. Raises LabError where there is none, or several."""
    tenant, issuer, agent_id = agent_identity(agent, tenant)
    candidates = [
        summary
        for summary in session.store.agents.find(agent_id, session.tenants)
        if (tenant is None or summary.name.tenant == tenant) and (issuer is None or summary.name.issuer == issuer)
    ]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        some = ", ".join(summary.name.agent_id for summary in islice(session.agent_summaries(), 3))
        raise LabError(
            f"no agent {agent_id!r} in the store (there are: {some or 'the store is empty'}, …); "
            "`frames.agents(session)` lists all"
        )
    where = ", ".join(f"{summary.name.tenant} ({summary.name.issuer})" for summary in candidates)
    raise LabError(f"{len(candidates)} agents are called {agent_id!r}: name tenant= and issuer=; they are of {where}")


def find_decision(session: LabSession, decision: str | pd.Series) -> Decision:
    """The decision of an id or a row of `decisions`. Raises LabError where there is none."""
    decision_id = decision if isinstance(decision, str) else getattr(decision, "decision_id", None)
    if not isinstance(decision_id, str) or not decision_id:
        raise LabError(
            "no decision: pass an id, or a row of `frames.decisions(session)` such as `frames.worst_decision` gives"
        )
    stored = session.store.decisions.get(decision_id, session.tenants)
    if stored is None:
        raise LabError(f"no decision {decision_id!r} in the store; `frames.decisions(session)` lists them")
    return stored


def find_decisions(
    session: LabSession, agent: AgentReference, tenant: str | None, since: Any, until: Any
) -> Iterator[Decision]:
    """Decisions on an agent, or on all, of a window of event time, newest first."""
    store, since_ms, until_ms = session.store, parse_time_ms(since), parse_time_ms(until)
    name = None if agent is None else find_agent(session, agent, tenant).name
    return (
        decision
        for decision in iterate_pages(lambda cursor: store.decisions.page(session.tenants, name, MAX_PAGE, cursor))
        if (since_ms is None or decision.event_time_ms >= since_ms)
        and (until_ms is None or decision.event_time_ms < until_ms)
    )


def _take_limited(items: Iterable[Item], limit: int, what: str) -> list[Item]:
    """At most *limit* items; says by a `LabWarning` if there are more."""
    kept = list(islice(items, limit + 1))
    if len(kept) > limit:
        warn_incomplete(f"more than {limit:,} {what}, the first are here: narrow or raise limit", calls=2)
    return kept[:limit]


def _oldest_first(decisions: Iterable[Decision]) -> list[Decision]:
    return sorted(decisions, key=lambda decision: (decision.event_time_ms, decision.decision_id))


def _raises_alert(decision: Decision) -> bool:
    return decision.level >= _ALERTING_LEVEL and decision.level > decision.previous_level


# Rows, in the order of `frame_columns`.


def _agent_row(summary: AgentSummary) -> tuple[Any, ...]:
    return (
        summary.name.tenant,
        summary.name.issuer,
        summary.name.agent_id,
        summary.agent_type,
        _level_name(summary.level),
        summary.risk_score,
        summary.confidence,
        summary.anomaly_score,
        summary.events,
        summary.first_seen_ms,
        summary.last_seen_ms,
        summary.evaluated_ms,
        _strongest_reason(_reasons_decoder.decode(summary.reasons)),
        summary.decision_id,
    )


def _decision_row(decision: Decision) -> tuple[Any, ...]:
    return (
        decision.event_time_ms,
        decision.agent.tenant,
        decision.agent.issuer,
        decision.agent.agent_id,
        decision.agent_type,
        _level_name(decision.previous_level),
        _level_name(decision.level),
        decision.risk_score,
        decision.confidence,
        decision.anomaly_score,
        decision.p_value,
        decision.cause,
        _strongest_reason(decision.reasons),
        " ".join(decision.evidence.get("signals", ())),
        decision.counterfactual,
        decision.mode,
        decision.model_version,
        decision.policy_version,
        decision.event_id,
        decision.decided_ms,
        decision.decision_id,
    )


def _alert_rows(session: LabSession, decision: Decision) -> list[tuple[Any, ...]]:
    sent = session.store.outbox.page(key=f"{ALERT_KEY_PREFIX}{decision.decision_id}", limit=MAX_PAGE).items
    deliveries: Sequence[Delivery | None] = sent or (None,)
    alert = (
        decision.event_time_ms,
        decision.agent.tenant,
        decision.agent.issuer,
        decision.agent.agent_id,
        decision.agent_type,
        _level_name(decision.level),
        _strongest_reason(decision.reasons),
    )
    return [(*alert, *_delivery_values(delivery), decision.decision_id) for delivery in deliveries]


def _delivery_values(delivery: Delivery | None) -> tuple[Any, ...]:
    if delivery is None:
        return None, None, None, None, ""
    return delivery.target, delivery.status, delivery.attempts, delivery.delivered_ms, delivery.last_error


def _level_name(level: int | None) -> str | None:
    return None if level is None else RiskLevel(level).label


def _strongest_reason(reasons: Sequence[RiskReason]) -> str:
    return reasons[0].text if reasons else ""


class DecisionExplanation:
    """A decision in sentences, as a notebook shows it. Names come from outside: everything is escaped.

    Args:
        decision: as it was recorded.
    """

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    @property
    def headline(self) -> str:
        """One sentence on what happened."""
        decision = self._decision
        at = datetime.fromtimestamp(decision.event_time_ms / 1000, UTC)
        before, after = (RiskLevel(level).label for level in (decision.previous_level, decision.level))
        return (
            f"{decision.agent.agent_id} ({decision.agent.tenant or 'no tenant'}) went from {before} to {after} on "
            f"{at:%A, %d %B %Y, %H:%M:%S} UTC, by {decision.cause}; risk {decision.risk_score:.2f}, confidence "
            f"{decision.confidence:.2f}"
        )

    @property
    def sentences(self) -> list[str]:
        """The reasons, the strongest first, and what would have kept the level lower."""
        reasons = [reason.text for reason in self._decision.reasons]
        if not self._decision.counterfactual:
            return reasons
        return [*reasons, f"It would have been {self._decision.counterfactual}"]

    def __repr__(self) -> str:
        return "\n".join([self.headline, *(f"- {sentence}" for sentence in self.sentences)])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.sentences)
        return f"<p><strong>{escape(self.headline)}</strong></p><ol>{items}</ol>"
