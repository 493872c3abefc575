"""Open cases while alerts are assigned to them: read under lock, changed in memory, written at the end.

People may change a case meanwhile, so the rows are locked until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ..records.agents import AgentName, RiskLevel
from ..records.cases import CaseTie
from ..records.commits import ALERT_KEY_PREFIX
from ..records.indicators import Indicator
from . import codec

if TYPE_CHECKING:
    from .codec import AnyRow

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, update

from trustwatch.ingest.timestamps import HOUR_MS

from ..records.cases import BY_SERVICE, CaseAction, CaseAgent
from .codec import RowCodec
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip, upsert
from .sql_schema import CASE_AGENTS, CASE_DECISIONS, CASE_ENTRIES, CASE_TIES, CASES, EDGES

_EDGE_SLACK_MS: Final = HOUR_MS
"""By which a delegation may be newer than its row says."""

CASE_AGENT_ROWS: Final = RowCodec(CaseAgent, CASE_AGENTS)
_UPSERT_AGENT = upsert(CASE_AGENTS, ("case_id", "agent_key"))
_UPSERT_TIE = upsert(CASE_TIES, ("digest", "case_id", "agent_key"))
_INSERT_DECISION = insert_or_skip(CASE_DECISIONS, "decision_id")
_INSERT_CASE = insert_or_skip(CASES, "case_id")
_UPDATE_CASE = (
    update(CASES)
    .where(CASES.c.case_id == bindparam("id_of_case"))
    .values({column.name: bindparam(column.name) for column in CASES.columns if column.name != "case_id"})
)


@dataclass
class OpenCase:
    """An open case in memory: its row, its agents, and what has to be written.

    Attributes:
        changed_agents: keys of the agents to write.
        entries: rows to add.
        wakes: the last change ended its containment.
    """

    row: dict[str, Any]
    agents: dict[int, CaseAgent]
    is_new: bool = False
    changed_agents: set[int] = field(default_factory=set)
    entries: list[dict[str, Any]] = field(default_factory=list)
    is_changed: bool = False
    wakes: bool = False

    @property
    def case_id(self) -> str:
        """Its id."""
        return str(self.row["case_id"])

    def put_agent(self, agent: CaseAgent) -> None:
        """Add an agent, or replace it by what it is now."""
        self.agents[agent.agent.key] = agent
        self.changed_agents.add(agent.agent.key)

    def add_entry(self, at_ms: int, action: CaseAction, detail: Mapping[str, str]) -> None:
        """Add an entry of the service's own."""
        self.entries.append(
            {
                "case_id": self.case_id,
                "sequence": 0,  # known when it is written
                "tenant": self.row["tenant"],
                "at_ms": at_ms,
                "by": BY_SERVICE,
                "action": action,
                "note": "",
                "detail": msgspec.json.encode(detail),
            }
        )


def tie_digest(tenant: str, kind: str, value: str) -> str:
    """Key of a tie: what two agents of a tenant share if it is the same."""
    return hashlib.sha256(msgspec.json.encode((tenant, kind, value))).hexdigest()[:40]


class OpenCases:
    """All open cases that some changes of level may belong to."""

    def __init__(self, connection: Connection, changes: Sequence[AlertedLevelChange], window_s: float) -> None:
        self._connection = connection
        self._since_ms = min(change.at_ms for change in changes) - window_s * 1000
        self._neighbours = self._find_neighbours(changes)
        self._ties: dict[str, dict[str, int]] = {}
        """Last time by case, by digest of a tie."""
        self._cases: dict[str, OpenCase] = {}
        self._cases_of_agent: dict[int, list[OpenCase]] = {}
        self._looked_at: set[str] = set()
        self._new_decisions: list[dict[str, Any]] = []
        self._new_ties: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._load(changes)

    # Look-ups.

    def of_agent(self, agent: AgentName) -> OpenCase | None:
        """The newest case that the agent is in."""
        cases = self._cases_of_agent.get(agent.key, ())
        return _opened_last(case for case in cases if case.agents[agent.key].agent.identity == agent.identity)

    def neighbours_of(self, agent: AgentName) -> Sequence[int]:
        """Keys of the agents that it delegated to or was delegated by, the latest first."""
        return self._neighbours.get(agent.key, ())

    def with_neighbour(self, key: int, tenant: str, since_ms: float, max_agents: int) -> OpenCase | None:
        """The newest case with room in which an agent rose since a time."""
        cases = self._cases_of_agent.get(key, ())
        near = (case for case in cases if case.row["tenant"] == tenant and case.agents[key].last_ms >= since_ms)
        return _opened_last(case for case in near if len(case.agents) < max_agents)

    def with_tie(self, digest: str, since_ms: float, max_agents: int) -> OpenCase | None:
        """The newest case with room in which a tie was seen since a time."""
        times = self._ties.get(digest, {})
        cases = (
            self._cases[case_id] for case_id, at_ms in times.items() if at_ms >= since_ms and case_id in self._cases
        )
        return _opened_last(case for case in cases if len(case.agents) < max_agents)

    # Changes.

    def open(self, change: AlertedLevelChange) -> OpenCase:
        """Open a case for a rise, as yet without its agent."""
        row: dict[str, Any] = {column.name: 0 for column in CASES.columns}
        row |= {
            "case_id": f"case-{change.decision_id}",
            "tenant": change.agent.tenant,
            "status": "open",
            "verdict": "",
            "lead_decision_id": change.decision_id,
            "opened_ms": change.at_ms,
            "owner": "",
            "merged_into": "",
        }
        case = OpenCase(row, {}, is_new=True)
        self._cases[case.case_id] = case
        case.add_entry(change.at_ms, "opened", {"agent": change.agent.agent_id, "decision": change.decision_id})
        return case

    def join(self, case: OpenCase, agent: CaseAgent) -> None:
        """Add an agent to a case."""
        case.put_agent(agent)
        self._cases_of_agent.setdefault(agent.agent.key, []).append(case)

    def add_ties(self, case: OpenCase, change: AlertedLevelChange) -> None:
        """Remember the new names of a rise, which tie others to its case."""
        for kind, value in change.ties:
            digest = tie_digest(change.agent.tenant, kind, value)
            times = self._ties.setdefault(digest, {})
            times[case.case_id] = max(change.at_ms, times.get(case.case_id, 0))
            self._new_ties[digest, case.case_id, change.agent.key] = {
                "digest": digest,
                "case_id": case.case_id,
                "agent_key": codec.to_signed(change.agent.key),
                "tenant": change.agent.tenant,
                "kind": kind,
                "value": value,
                "last_ms": times[case.case_id],
            }

    def add_decision(self, case: OpenCase, change: AlertedLevelChange) -> None:
        """Note that the decision of a change belongs to a case."""
        case.is_changed = True
        self._new_decisions.append(
            {
                "decision_id": change.decision_id,
                "case_id": case.case_id,
                "agent_key": codec.to_signed(change.agent.key),
                "tenant": change.agent.tenant,
                "decided_ms": change.at_ms,
            }
        )

    def write(self) -> None:
        """Write all that has changed."""
        changed = [case for case in self._cases.values() if case.is_changed]
        if not changed:
            return
        connection = self._connection
        _write_cases(connection, changed)
        agents = [CASE_AGENT_ROWS.params(case.agents[key]) for case in changed for key in sorted(case.changed_agents)]
        _UPSERT_AGENT.execute(connection, agents)
        _UPSERT_TIE.execute(connection, list(self._new_ties.values()))
        _INSERT_DECISION.execute(connection, self._new_decisions)

    # Reading.

    def _find_neighbours(self, changes: Sequence[AlertedLevelChange]) -> dict[int, list[int]]:
        """Keys of agents that each rising agent delegated to or was delegated by lately."""
        rising = {codec.to_signed(change.agent.key): change.agent for change in changes if change.rises}
        neighbours: dict[int, list[int]] = {}
        for keys in chunked(rising, MAX_IN_LIST):
            ends = or_(EDGES.c.source_key.in_(keys), EDGES.c.target_key.in_(keys))
            query = select(EDGES.c.source_key, EDGES.c.target_key, EDGES.c.tenant).where(
                ends, EDGES.c.kind == "delegated", EDGES.c.last_ms >= self._since_ms - _EDGE_SLACK_MS
            )
            for source, target, tenant in self._connection.execute(query.order_by(EDGES.c.last_ms.desc())):
                for mine, other in ((source, target), (target, source)):
                    if mine in rising and rising[mine].tenant == tenant:
                        neighbours.setdefault(codec.to_unsigned(mine), []).append(codec.to_unsigned(other))
        return neighbours

    def _load(self, changes: Sequence[AlertedLevelChange]) -> None:
        """Every open case that a change may belong to, with all of its agents.

        Looked for again once they are locked: a person may have merged one of them into another meanwhile.
        """
        while missing := sorted(self._candidates(changes) - self._looked_at):
            self._looked_at.update(missing)
            for part in chunked(missing, MAX_IN_LIST):
                self._load_cases(part)

    def _candidates(self, changes: Sequence[AlertedLevelChange]) -> set[str]:
        """Ids of the cases that agents of *changes* are in, or may join."""
        own = {change.agent.key for change in changes}
        near = {key for neighbours in self._neighbours.values() for key in neighbours} - own
        is_open = (CASES.c.case_id == CASE_AGENTS.c.case_id, CASES.c.status != "closed")
        ids: set[str] = set()
        for keys, more in ((own, ()), (near, (CASE_AGENTS.c.last_ms >= self._since_ms,))):
            for part in chunked(sorted(map(codec.to_signed, keys)), MAX_IN_LIST):
                query = select(CASE_AGENTS.c.case_id).where(CASE_AGENTS.c.agent_key.in_(part), *is_open, *more)
                ids.update(self._connection.scalars(query))
        digests = {tie_digest(change.agent.tenant, *tie) for change in changes for tie in change.ties}
        return ids | self._cases_with_ties(digests)

    def _cases_with_ties(self, digests: Iterable[str]) -> set[str]:
        """Ids of the cases in which these ties were seen lately; the times are remembered."""
        is_open = (CASES.c.case_id == CASE_TIES.c.case_id, CASES.c.status != "closed")
        ids: set[str] = set()
        for part in chunked(sorted(digests), MAX_IN_LIST):
            query = select(CASE_TIES.c.digest, CASE_TIES.c.case_id, CASE_TIES.c.last_ms)
            recent = query.where(CASE_TIES.c.digest.in_(part), CASE_TIES.c.last_ms >= self._since_ms, *is_open)
            for digest, case_id, last_ms in self._connection.execute(recent):
                times = self._ties.setdefault(digest, {})
                times[case_id] = max(last_ms, times.get(case_id, 0))
                ids.add(case_id)
        return ids

    def _load_cases(self, ids: Sequence[str]) -> None:
        is_open = and_(CASES.c.case_id.in_(ids), CASES.c.status != "closed")
        for row in self._connection.execute(select(CASES).where(is_open).order_by(CASES.c.case_id).with_for_update()):
            self._cases[row.case_id] = OpenCase(dict(row._mapping), {})
        mine = CASE_AGENTS.c.case_id.in_([case_id for case_id in ids if case_id in self._cases])
        for row in self._connection.execute(select(CASE_AGENTS).where(mine)):
            agent = CASE_AGENT_ROWS.read(row)
            case = self._cases[agent.case_id]
            case.agents[agent.agent.key] = agent
            self._cases_of_agent.setdefault(agent.agent.key, []).append(case)


def _opened_last(cases: Iterable[OpenCase]) -> OpenCase | None:
    return max(cases, key=lambda case: (case.row["opened_ms"], case.case_id), default=None)


def _write_cases(connection: Connection, cases: Sequence[OpenCase]) -> None:
    """Rows of cases and their new entries, in as few statements as there are kinds."""
    for case in cases:
        case.row["revision"] += 1
    new, stored = [case for case in cases if case.is_new], [case for case in cases if not case.is_new]
    _INSERT_CASE.execute(connection, [case.row for case in new])
    if stored:
        connection.execute(_UPDATE_CASE, [{"id_of_case": case.case_id, **case.row} for case in stored])
    numbers = last_entries(connection, [case.case_id for case in cases if case.entries])
    entries = [
        row | {"sequence": numbers.get(case.case_id, 0) + number}
        for case in cases
        for number, row in enumerate(case.entries, 1)
    ]
    if entries:
        connection.execute(insert(CASE_ENTRIES), entries)


def last_entries(connection: Connection, case_ids: Sequence[str]) -> dict[str, int]:
    """Sequence number of the last entry of each case, whose rows are locked; one without entries is left out."""
    numbers: dict[str, int] = {}
    for part in chunked(case_ids, MAX_IN_LIST):
        query = select(CASE_ENTRIES.c.case_id, func.max(CASE_ENTRIES.c.sequence)).group_by(CASE_ENTRIES.c.case_id)
        rows = connection.execute(query.where(CASE_ENTRIES.c.case_id.in_(part)))
        numbers.update({case_id: last for case_id, last in rows})
    return numbers


# Changes of level, as the alerts of the outbox report them.


TYING_KINDS: Final[Mapping[str, CaseTie]] = {"target": "target", "key": "key", "network": "network"}
"""Indicators that tie agents together if they are new; others are too common, or an agent's own."""
_NEW: Final = frozenset({"new", "with_new"})
MAX_TIES_OF_RISE: Final = 20
"""New names of one rise that tie it: an agent chooses how many it has."""


class _AlertData(msgspec.Struct):
    """Members of an alert that report a change of level."""

    decision_id: str
    tenant: str
    issuer: str
    agent_id: str
    agent_type: str
    previous_level: str
    risk_level: str
    indicators: tuple[dict[str, Any], ...] = ()


class _AlertPayload(msgspec.Struct):
    data: _AlertData


_payload_decoder = msgspec.json.Decoder(_AlertPayload)
_LEVELS = {level.label: level for level in RiskLevel}


class AlertedLevelChange(NamedTuple):
    """A change of an agent's level.

    Attributes:
        seq: of its row in the outbox.
        before: level before it.
        ties: new names that its events came with, by which agents are tied together.
    """

    seq: int
    at_ms: int
    agent: AgentName
    agent_type: str
    decision_id: str
    before: int
    level: int
    ties: tuple[tuple[CaseTie, str], ...]

    @property
    def rises(self) -> bool:
        """True if people are to look at it."""
        return self.level > self.before and self.level >= RiskLevel.MEDIUM


def read_level_change(row: AnyRow) -> AlertedLevelChange | None:
    """Read a change of level from an outbox row; None if it is about something else."""
    if not row.key.startswith(ALERT_KEY_PREFIX):
        return None
    try:
        data = _payload_decoder.decode(row.payload).data
    except msgspec.DecodeError:
        return None
    agent = AgentName(codec.to_unsigned(row.agent_key), data.tenant, data.issuer, data.agent_id)
    before, level = _LEVELS.get(data.previous_level), _LEVELS.get(data.risk_level)
    if before is None or level is None:
        return None
    ties = tuple(dict.fromkeys(_ties(data.indicators)))[:MAX_TIES_OF_RISE]
    return AlertedLevelChange(row.seq, row.created_ms, agent, data.agent_type, data.decision_id, before, level, ties)


def _ties(indicators: Iterable[dict[str, Any]]) -> Iterable[tuple[CaseTie, str]]:
    for members in indicators:
        try:
            indicator = msgspec.convert(members, Indicator)
        except msgspec.ValidationError:
            continue
        kind = TYING_KINDS.get(indicator.kind)
        is_new = indicator.status in _NEW if indicator.kind == "key" else indicator.status == "new"
        if kind is not None and is_new and indicator.value:
            yield kind, indicator.value
