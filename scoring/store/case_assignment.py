"""Assignment of alerts to cases, in the transaction that routes them.

A rise to medium or above belongs to the first open case of this list, else it opens one:

1. the case of its agent, of any age;
2. the case of an agent that it delegated to or was delegated by, if that one rose within the window;
3. the case of an agent that had the same new target, key or network, if that one rose within the window.

A fall belongs to the open case of its agent, if there is one. Agents of different tenants never share a case. One
process routes at a time. Open cases are read and locked, since people may change them, changed in memory, and written
at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS

from ..records.agents import AgentName, RiskLevel, indicators_of_plain
from ..records.cases import BY_SERVICE, CaseAction, CaseAgent, CaseOfAlert, CaseStatus, CaseTie
from ..records.commits import ALERT_KEY_PREFIX
from . import codec
from .codec import RowCodec
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip, upsert
from .sql_schema import CASE_AGENTS, CASE_DECISIONS, CASE_ENTRIES, CASE_TIES, CASES, EDGES

if TYPE_CHECKING:
    from .codec import AnyRow

CASE_WINDOW_MS = DAY_MS
"""Two rises with a tie belong together if they are no more apart than this."""
MAX_CASE_AGENTS = 200
"""Agents of one case; further ones open another case, since no person reads a longer list."""
_EDGE_SLACK_MS: Final = HOUR_MS
"""Time by which a delegation may be newer than its row states."""
TYING_KINDS: Final[Mapping[str, CaseTie]] = {"target": "target", "key": "key", "network": "network"}
"""Indicators that tie agents together if they are new; others are too common, or an agent's own."""
MAX_TIES_OF_RISE: Final = 20
"""New names of one rise that tie it. This is bounded because an agent chooses how many it has."""

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


class _AlertData(msgspec.Struct):
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


class _LevelChange(NamedTuple):
    """A change of an agent's level, read from an alert in the outbox.

    Attributes:
        seq: of its row in the outbox.
        rises: whether the level is higher than before, and medium or above.
        ties: new names that its events came with, by which agents are tied together.
    """

    seq: int
    at_ms: int
    agent: AgentName
    agent_type: str
    decision_id: str
    level: int
    rises: bool
    ties: list[tuple[CaseTie, str]]


def _read_level_change(row: AnyRow) -> _LevelChange | None:
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
    ties: dict[tuple[CaseTie, str], None] = {}
    for indicator in indicators_of_plain(data.indicators):
        kind = TYING_KINDS.get(indicator.kind)
        is_new = indicator.status == "new" or (kind == "key" and indicator.status == "with_new")
        if kind is not None and is_new and indicator.value:
            ties[kind, indicator.value] = None
    rises = level > before and level >= RiskLevel.MEDIUM
    what = (data.agent_type, data.decision_id, level, rises, list(ties)[:MAX_TIES_OF_RISE])
    return _LevelChange(row.seq, row.created_ms, agent, *what)


@dataclass
class _OpenCase:
    """An open case in memory: its row, its agents and what must be written.

    Attributes:
        changed_agents: keys of the agents to write.
        entries: time, action and detail of the entries to add.
        wakes: the last change ended its containment.
    """

    row: dict[str, Any]
    agents: dict[int, CaseAgent] = field(default_factory=dict)
    is_new: bool = False
    changed_agents: set[int] = field(default_factory=set)
    entries: list[tuple[int, CaseAction, dict[str, str]]] = field(default_factory=list)
    is_changed: bool = False
    wakes: bool = False

    @property
    def case_id(self) -> str:
        return str(self.row["case_id"])

    def put_agent(self, agent: CaseAgent) -> None:
        self.agents[agent.agent.key] = agent
        self.changed_agents.add(agent.agent.key)

    def add_growth(self, change: _LevelChange, action: CaseAction, detail: Mapping[str, str]) -> None:
        """Add an entry about an agent that joined or rose. A contained case then waits for a person again."""
        entry = {"agent": change.agent.agent_id, **detail, "decision": change.decision_id}
        if self.row["status"] == "contained":
            status: CaseStatus = "acknowledged" if self.row["owner"] else "open"
            self.row |= {"status": status, "held_until_ms": 0, "snoozed_until_ms": 0}
            self.wakes = True
            entry["status"] = status
        self.entries.append((change.at_ms, action, entry))


def assign_cases(connection: Connection, rows: Sequence[AnyRow]) -> dict[int, CaseOfAlert]:
    """Add the alerts among *rows* (outbox rows, in order) to cases and write these; return the case of each row."""
    changes = [change for row in rows if (change := _read_level_change(row)) is not None]
    if not changes:
        return {}
    assignment = _CaseAssignment(connection, changes)
    case_of_row = {change.seq: case for change in changes if (case := assignment.assign(change)) is not None}
    assignment.write()
    return case_of_row


class _CaseAssignment:
    def __init__(self, connection: Connection, changes: Sequence[_LevelChange]) -> None:
        self._connection = connection
        self._since_ms = min(change.at_ms for change in changes) - CASE_WINDOW_MS
        self._neighbors = self._find_neighbors(changes)
        self._ties: dict[str, dict[str, int]] = {}
        """Last time by case, by digest of a tie."""
        self._cases: dict[str, _OpenCase] = {}
        self._cases_of_agent: dict[int, list[_OpenCase]] = {}
        self._new_decisions: list[dict[str, Any]] = []
        self._new_ties: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._load(changes)

    def assign(self, change: _LevelChange) -> CaseOfAlert | None:
        case, tie, tied_by = self._find(change)
        if case is None:
            if not change.rises:
                return None
            case = self._open(change)
        case.wakes = False
        self._add(case, change, tie, tied_by)
        return CaseOfAlert(
            case.case_id,
            case.row["status"],
            int(case.row["opened_ms"]),
            case.row["decisions"] == 1,
            int(case.row["level"]),
            len(case.agents),
            sum(agent.level >= RiskLevel.MEDIUM for agent in case.agents.values()),
            tie_words(tie, tied_by),
            int(case.row["snoozed_until_ms"]),
            case.wakes,
        )

    def _find(self, change: _LevelChange) -> tuple[_OpenCase | None, CaseTie, str]:
        """Return the open case that a change belongs to, and what ties its agent to it."""
        agent = change.agent
        mine = self._cases_of_agent.get(agent.key, ())
        own = _opened_last(case for case in mine if case.agents[agent.key].agent.identity == agent.identity)
        if own is not None:
            return own, own.agents[agent.key].tie, own.agents[agent.key].tied_by
        if not change.rises:
            return None, "first", ""
        since_ms = change.at_ms - CASE_WINDOW_MS
        for key in self._neighbors.get(agent.key, ()):
            cases = [case for case in self._cases_of_agent.get(key, ()) if case.row["tenant"] == agent.tenant]
            near = _with_room(case for case in cases if case.agents[key].last_ms >= since_ms)
            if near is not None:
                return near, "delegation", near.agents[key].agent.agent_id
        for kind, value in change.ties:
            times = self._ties.get(_tie_digest(agent.tenant, kind, value), {})
            recent = [case_id for case_id, at_ms in times.items() if at_ms >= since_ms]
            sharing = _with_room(self._cases[case_id] for case_id in recent if case_id in self._cases)
            if sharing is not None:
                return sharing, kind, value
        return None, "first", ""

    def _open(self, change: _LevelChange) -> _OpenCase:
        """Open a case for a rise, initially without its agent."""
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
        case = self._cases[row["case_id"]] = _OpenCase(row, is_new=True)
        case.add_growth(change, "opened", {})
        return case

    def _add(self, case: _OpenCase, change: _LevelChange, tie: CaseTie, tied_by: str) -> None:
        row, key, level, at_ms = case.row, change.agent.key, change.level, change.at_ms
        if (case_agent := case.agents.get(key)) is not None:
            _move(case, change, case_agent)
        else:
            what = (len(case.agents) + 1, level, level, at_ms, at_ms, change.decision_id, tie, tied_by)
            case.put_agent(CaseAgent(case.case_id, change.agent, change.agent_type, *what))
            self._cases_of_agent.setdefault(key, []).append(case)
            if tie != "first":
                case.add_growth(change, "joined", {"tie": tie, "tied_by": tied_by})
        if level > row["level"]:
            row |= {"level": level, "lead_decision_id": change.decision_id, "snoozed_until_ms": 0}
        row["updated_ms"] = max(row["updated_ms"], at_ms)
        same = {"case_id": case.case_id, "agent_key": codec.to_signed(key), "tenant": change.agent.tenant}
        if change.rises:
            row["risen_ms"] = max(row["risen_ms"], at_ms)
            for kind, value in change.ties:
                digest = _tie_digest(change.agent.tenant, kind, value)
                times = self._ties.setdefault(digest, {})
                times[case.case_id] = max(at_ms, times.get(case.case_id, 0))
                of_tie = {"digest": digest, "kind": kind, "value": value, "last_ms": times[case.case_id]}
                self._new_ties[digest, case.case_id, key] = same | of_tie
        row |= {"agents": len(case.agents), "decisions": row["decisions"] + 1}
        case.is_changed = True
        self._new_decisions.append(same | {"decision_id": change.decision_id, "decided_ms": at_ms})

    def write(self) -> None:
        """Write all changes, with one statement for each kind of row."""
        changed = [case for case in self._cases.values() if case.is_changed]
        if not changed:
            return
        connection = self._connection
        for case in changed:
            case.row["revision"] += 1
        _INSERT_CASE.execute(connection, [case.row for case in changed if case.is_new])
        if stored := [{"id_of_case": case.case_id, **case.row} for case in changed if not case.is_new]:
            connection.execute(_UPDATE_CASE, stored)
        numbers = last_entries(connection, [case.case_id for case in changed if case.entries])
        entries = [
            {
                "case_id": case.case_id,
                "sequence": numbers.get(case.case_id, 0) + number,
                "tenant": case.row["tenant"],
                "at_ms": at_ms,
                "by": BY_SERVICE,
                "action": action,
                "note": "",
                "detail": msgspec.json.encode(detail),
            }
            for case in changed
            for number, (at_ms, action, detail) in enumerate(case.entries, 1)
        ]
        if entries:
            connection.execute(insert(CASE_ENTRIES), entries)
        agents = [CASE_AGENT_ROWS.params(case.agents[key]) for case in changed for key in sorted(case.changed_agents)]
        _UPSERT_AGENT.execute(connection, agents)
        _UPSERT_TIE.execute(connection, list(self._new_ties.values()))
        _INSERT_DECISION.execute(connection, self._new_decisions)

    def _find_neighbors(self, changes: Sequence[_LevelChange]) -> dict[int, list[int]]:
        """Return keys of agents that each rising agent recently delegated to or was delegated by, latest first."""
        rising = {codec.to_signed(change.agent.key): change.agent for change in changes if change.rises}
        neighbors: dict[int, list[int]] = {}
        for keys in chunked(rising, MAX_IN_LIST):
            ends = or_(EDGES.c.source_key.in_(keys), EDGES.c.target_key.in_(keys))
            query = select(EDGES.c.source_key, EDGES.c.target_key, EDGES.c.tenant).where(
                ends, EDGES.c.kind == "delegated", EDGES.c.last_ms >= self._since_ms - _EDGE_SLACK_MS
            )
            for source, target, tenant in self._connection.execute(query.order_by(EDGES.c.last_ms.desc())):
                for mine, other in ((source, target), (target, source)):
                    if mine in rising and rising[mine].tenant == tenant:
                        neighbors.setdefault(codec.to_unsigned(mine), []).append(codec.to_unsigned(other))
        return neighbors

    def _load(self, changes: Sequence[_LevelChange]) -> None:
        """Load every open case that a change may belong to, with all of its agents.

        The search is repeated once they are locked: a person may have merged one of them into another meanwhile.
        """
        looked_at: set[str] = set()
        while missing := sorted(self._candidates(changes) - looked_at):
            looked_at.update(missing)
            for ids in chunked(missing, MAX_IN_LIST):
                query = select(CASES).where(CASES.c.case_id.in_(ids), CASES.c.status != "closed")
                for row in self._connection.execute(query.order_by(CASES.c.case_id).with_for_update()):
                    self._cases[row.case_id] = _OpenCase(dict(row._mapping))
                mine = CASE_AGENTS.c.case_id.in_([case_id for case_id in ids if case_id in self._cases])
                for agent in map(CASE_AGENT_ROWS.read, self._connection.execute(select(CASE_AGENTS).where(mine))):
                    case = self._cases[agent.case_id]
                    case.agents[agent.agent.key] = agent
                    self._cases_of_agent.setdefault(agent.agent.key, []).append(case)

    def _candidates(self, changes: Sequence[_LevelChange]) -> set[str]:
        """Return the ids of open cases with one of the agents, a neighbor or a tie; note the times of the ties."""
        own = {change.agent.key for change in changes}
        near = {key for neighbors in self._neighbors.values() for key in neighbors} - own
        is_open = CASES.c.status != "closed"
        ids: set[str] = set()
        for keys, more in ((own, ()), (near, (CASE_AGENTS.c.last_ms >= self._since_ms,))):
            for part in chunked(sorted(map(codec.to_signed, keys)), MAX_IN_LIST):
                query = select(CASE_AGENTS.c.case_id).where(CASE_AGENTS.c.agent_key.in_(part), is_open, *more)
                ids.update(self._connection.scalars(query.where(CASES.c.case_id == CASE_AGENTS.c.case_id)))
        digests = {_tie_digest(change.agent.tenant, *tie) for change in changes for tie in change.ties}
        columns = (CASE_TIES.c.digest, CASE_TIES.c.case_id, CASE_TIES.c.last_ms)
        recent = select(*columns).where(CASE_TIES.c.last_ms >= self._since_ms, CASES.c.case_id == CASE_TIES.c.case_id)
        for digests_part in chunked(sorted(digests), MAX_IN_LIST):
            found = recent.where(CASE_TIES.c.digest.in_(digests_part), is_open)
            for digest, case_id, last_ms in self._connection.execute(found):
                times = self._ties.setdefault(digest, {})
                times[case_id] = max(last_ms, times.get(case_id, 0))
                ids.add(case_id)
        return ids


def _with_room(cases: Iterable[_OpenCase]) -> _OpenCase | None:
    return _opened_last(case for case in cases if len(case.agents) < MAX_CASE_AGENTS)


def _opened_last(cases: Iterable[_OpenCase]) -> _OpenCase | None:
    return max(cases, key=lambda case: (case.row["opened_ms"], case.case_id), default=None)


def _tie_digest(tenant: str, kind: str, value: str) -> str:
    return hashlib.sha256(msgspec.json.encode((tenant, kind, value))).hexdigest()[:40]


def last_entries(connection: Connection, case_ids: Sequence[str]) -> dict[str, int]:
    """Return the sequence number of the last entry of each case, whose rows are locked; omits cases without entries."""
    numbers: dict[str, int] = {}
    for part in chunked(case_ids, MAX_IN_LIST):
        query = select(CASE_ENTRIES.c.case_id, func.max(CASE_ENTRIES.c.sequence)).group_by(CASE_ENTRIES.c.case_id)
        rows = connection.execute(query.where(CASE_ENTRIES.c.case_id.in_(part)))
        numbers.update({case_id: last for case_id, last in rows})
    return numbers


def _move(case: _OpenCase, change: _LevelChange, case_agent: CaseAgent) -> None:
    last_ms = max(case_agent.last_ms, change.at_ms) if change.rises else case_agent.last_ms
    moved: dict[str, Any] = {"level": change.level, "last_ms": last_ms}
    if change.level > case_agent.peak:
        moved |= {"peak": change.level, "decision_id": change.decision_id}
    case.put_agent(msgspec.structs.replace(case_agent, **moved))
    held_until_ms = int(case.row["held_until_ms"])
    if change.level > case.row["level"] or (change.rises and held_until_ms and change.at_ms > held_until_ms):
        case.add_growth(change, "rose", {"level": RiskLevel(change.level).label})


def tie_words(tie: CaseTie, tied_by: str) -> str:
    """Describe what put an agent into a case; "" for the first agent.

    >>> tie_words("target", "https://evil.example"), tie_words("first", "")
    ('the same new target https://evil.example', '')
    """
    if tie == "first":
        return ""
    if tie == "delegation":
        return f"delegation between it and {tied_by}"
    if tie in ("merge", "split"):
        return f"{tied_by} put it there"
    return f"the same new {tie} {tied_by}"
