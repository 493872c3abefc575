"""Assignment of alerts to cases, in the transaction that routes them.

A rise to medium or above belongs, in this order, to the open case

1. of its agent, however old;
2. of an agent that it delegated to or was delegated by, if that one rose within the window;
3. of an agent that had the same new target, key or network, if that one rose within the window;

else it opens one. A fall belongs to the open case of its agent, if there is one. Cases of different tenants never meet.
One process routes at a time, so what it decides here nobody else decides otherwise meanwhile; people may change a case
at once, and its row is locked against that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, update

from ...ingest.timestamps import HOUR_MS
from ..records.agents import AgentName, RiskLevel
from ..records.cases import BY_SERVICE, CaseAction, CaseAgent, CaseOfAlert, CaseStatus, CaseTie
from ..records.commits import ALERT_KEY_PREFIX
from ..records.indicators import Indicator
from . import codec
from .case_settings import CaseSettings
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip, upsert
from .sql_schema import CASE_AGENTS, CASE_DECISIONS, CASE_ENTRIES, CASE_TIES, CASES, EDGES

if TYPE_CHECKING:
    from .codec import AnyRow

TYING_KINDS: Final[Mapping[str, CaseTie]] = {"target": "target", "key": "key", "network": "network"}
"""Indicators that tie agents together where they are new; others are too common, or an agent's own."""
_NEW: Final = frozenset({"new", "with_new"})
MAX_TIES_OF_RISE: Final = 20
"""New names of one rise that tie it: an agent chooses how many it has."""
_EDGE_SLACK_MS: Final = HOUR_MS
"""By which a delegation may be newer than its row says."""

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
    """Members of an alert that tell of a change of level."""

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
    """One alert, as far as it matters here."""

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
        return self.level > self.before and self.level >= RiskLevel.MEDIUM


@dataclass
class _OpenCase:
    """An open case while alerts are assigned: its row, its agents, and what has to be written."""

    row: dict[str, Any]
    agents: dict[int, CaseAgent]
    is_new: bool = False
    changed: set[int] = field(default_factory=set)
    entries: list[dict[str, Any]] = field(default_factory=list)
    is_changed: bool = False
    wakes: bool = False

    @property
    def case_id(self) -> str:
        return str(self.row["case_id"])


def tie_digest(tenant: str, kind: str, value: str) -> str:
    """Key of a tie: what two agents of a tenant share where it is the same."""
    return hashlib.sha256(msgspec.json.encode((tenant, kind, value))).hexdigest()[:40]


def assign_cases(connection: Connection, rows: Sequence[AnyRow], rule: CaseSettings) -> dict[int, CaseOfAlert]:
    """Put the alerts among *rows* (of the outbox, in order) into cases, and write these.

    Returns:
        The case of each row that has one, by its sequence number, as it is after that alert.
    """
    changes = [change for row in rows if (change := _level_change(row)) is not None]
    if not changes:
        return {}
    assignment = _Assignment(connection, changes, rule)
    found = {change.seq: case for change in changes if (case := assignment.assign(change)) is not None}
    assignment.write()
    return found


def _level_change(row: AnyRow) -> _LevelChange | None:
    """Read a change of level from an outbox row; None where it is about something else."""
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
    return _LevelChange(row.seq, row.created_ms, agent, data.agent_type, data.decision_id, before, level, ties)


def _ties(indicators: Iterable[dict[str, Any]]) -> Iterable[tuple[CaseTie, str]]:
    for given in indicators:
        try:
            one = msgspec.convert(given, Indicator)
        except msgspec.ValidationError:
            continue
        kind = TYING_KINDS.get(one.kind)
        is_new = one.status in _NEW if one.kind == "key" else one.status == "new"
        if kind is not None and is_new and one.value:
            yield kind, one.value


def _opened_last(cases: Iterable[_OpenCase]) -> _OpenCase | None:
    return max(cases, key=lambda case: (case.row["opened_ms"], case.case_id), default=None)


class _Assignment:
    """One walk over changes of level, with all cases that they may belong to in memory.

    Args:
        connection: in the transaction that routes.
        changes: in order.
        rule: of cases.
    """

    def __init__(self, connection: Connection, changes: Sequence[_LevelChange], rule: CaseSettings) -> None:
        self._connection = connection
        self._rule = rule
        self._neighbours = self._find_neighbours(changes)
        self._ties: dict[str, dict[str, int]] = {}
        """Last time by case, by digest of a tie."""
        self._cases: dict[str, _OpenCase] = {}
        self._cases_of_agent: dict[int, list[_OpenCase]] = {}
        self._looked_at: set[str] = set()
        self._new_decisions: list[dict[str, Any]] = []
        self._new_ties: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._load(changes)

    def assign(self, change: _LevelChange) -> CaseOfAlert | None:
        """The case of one change, with the change in it; None for a fall of an agent without one."""
        case, tie, tied_by = self._find(change)
        if case is None:
            if not change.rises:
                return None
            case, tie, tied_by = self._open(change), "first", ""
        case.wakes = False
        tie_text = self._add(case, change, tie, tied_by)
        above = sum(agent.level >= RiskLevel.MEDIUM for agent in case.agents.values())
        return CaseOfAlert(
            case.case_id,
            case.row["status"],
            int(case.row["opened_ms"]),
            case.row["decisions"] == 1,
            int(case.row["level"]),
            len(case.agents),
            above,
            tie_text,
            int(case.row["snoozed_until_ms"]),
            case.wakes,
        )

    def _find(self, change: _LevelChange) -> tuple[_OpenCase | None, CaseTie, str]:
        own = self._own_case(change.agent)
        if own is not None:
            mine = own.agents[change.agent.key]
            return own, mine.tie, mine.tied_by
        if not change.rises:
            return None, "first", ""
        since = change.at_ms - self._rule.window_s * 1000
        for key in self._neighbours.get(change.agent.key, ()):
            near = self._case_of_neighbour(key, change.agent.tenant, since)
            if near is not None:
                return near, "delegation", near.agents[key].agent.agent_id
        for kind, value in change.ties:
            sharing = self._case_with_tie(tie_digest(change.agent.tenant, kind, value), since)
            if sharing is not None:
                return sharing, kind, value
        return None, "first", ""

    def _own_case(self, agent: AgentName) -> _OpenCase | None:
        cases = self._cases_of_agent.get(agent.key, ())
        return _opened_last(case for case in cases if case.agents[agent.key].agent.identity == agent.identity)

    def _case_of_neighbour(self, key: int, tenant: str, since_ms: int) -> _OpenCase | None:
        cases = self._cases_of_agent.get(key, ())
        near = (case for case in cases if case.row["tenant"] == tenant and case.agents[key].last_ms >= since_ms)
        return _opened_last(case for case in near if self._has_room(case))

    def _case_with_tie(self, digest: str, since_ms: int) -> _OpenCase | None:
        times = self._ties.get(digest, {})
        cases = (
            self._cases[case_id] for case_id, at_ms in times.items() if at_ms >= since_ms and case_id in self._cases
        )
        return _opened_last(case for case in cases if self._has_room(case))

    def _has_room(self, case: _OpenCase) -> bool:
        return len(case.agents) < self._rule.max_agents

    def _open(self, change: _LevelChange) -> _OpenCase:
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
        case = _OpenCase(row, {}, is_new=True)
        self._cases[case.case_id] = case
        self._note(case, change.at_ms, "opened", {"agent": change.agent.agent_id, "decision": change.decision_id})
        return case

    def _add(self, case: _OpenCase, change: _LevelChange, tie: CaseTie, tied_by: str) -> str:
        """Write a change into the case; returns what tied its agent to the case, in words."""
        known = case.agents.get(change.agent.key)
        if known is None:
            self._join(case, change, tie, tied_by)
        else:
            self._move(case, change, known)
        row = case.row
        if change.level > row["level"]:
            row |= {"level": change.level, "lead_decision_id": change.decision_id, "snoozed_until_ms": 0}
        row["updated_ms"] = max(row["updated_ms"], change.at_ms)
        if change.rises:
            row["risen_ms"] = max(row["risen_ms"], change.at_ms)
            self._remember_ties(case, change)
        row |= {"agents": len(case.agents), "decisions": row["decisions"] + 1}
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
        return tie_words(tie, tied_by)

    def _join(self, case: _OpenCase, change: _LevelChange, tie: CaseTie, tied_by: str) -> None:
        agent = CaseAgent(
            case.case_id,
            change.agent,
            change.agent_type,
            len(case.agents) + 1,
            change.level,
            change.level,
            change.at_ms,
            change.at_ms,
            change.decision_id,
            tie,
            tied_by,
        )
        case.agents[change.agent.key] = agent
        case.changed.add(change.agent.key)
        self._cases_of_agent.setdefault(change.agent.key, []).append(case)
        if tie != "first":
            detail = {"agent": change.agent.agent_id, "tie": tie, "tied_by": tied_by, "decision": change.decision_id}
            self._note(case, change.at_ms, "joined", detail | self._wake(case))

    def _move(self, case: _OpenCase, change: _LevelChange, known: CaseAgent) -> None:
        higher = change.level > known.peak
        last_ms = max(known.last_ms, change.at_ms) if change.rises else known.last_ms
        moved: dict[str, Any] = {"level": change.level, "last_ms": last_ms}
        if higher:
            moved |= {"peak": change.level, "decision_id": change.decision_id}
        case.agents[change.agent.key] = msgspec.structs.replace(known, **moved)
        case.changed.add(change.agent.key)
        held_until_ms = int(case.row["held_until_ms"])
        if change.level > case.row["level"] or (change.rises and held_until_ms and change.at_ms > held_until_ms):
            detail = {
                "agent": change.agent.agent_id,
                "level": RiskLevel(change.level).label,
                "decision": change.decision_id,
            }
            self._note(case, change.at_ms, "rose", detail | self._wake(case))

    def _wake(self, case: _OpenCase) -> dict[str, str]:
        """A contained case that grows is not contained any more: it waits for a person again, and is told of."""
        if case.row["status"] != "contained":
            return {}
        status: CaseStatus = "acknowledged" if case.row["owner"] else "open"
        case.row |= {"status": status, "held_until_ms": 0, "snoozed_until_ms": 0}
        case.wakes = True
        return {"status": status}

    def _remember_ties(self, case: _OpenCase, change: _LevelChange) -> None:
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

    def _note(self, case: _OpenCase, at_ms: int, action: CaseAction, detail: Mapping[str, str]) -> None:
        case.entries.append(
            {
                "case_id": case.case_id,
                "sequence": 0,  # known when it is written
                "tenant": case.row["tenant"],
                "at_ms": at_ms,
                "by": BY_SERVICE,
                "action": action,
                "note": "",
                "detail": msgspec.json.encode(detail),
            }
        )

    # Reading and writing.

    def _find_neighbours(self, changes: Sequence[_LevelChange]) -> dict[int, list[int]]:
        """Keys of agents that each rising agent delegated to or was delegated by lately."""
        rising = {codec.to_signed(change.agent.key): change.agent for change in changes if change.rises}
        if not rising:
            return {}
        since = min(change.at_ms for change in changes) - self._rule.window_s * 1000 - _EDGE_SLACK_MS
        found: dict[int, list[int]] = {}
        for keys in chunked(rising, MAX_IN_LIST):
            ends = or_(EDGES.c.source_key.in_(keys), EDGES.c.target_key.in_(keys))
            query = select(EDGES.c.source_key, EDGES.c.target_key, EDGES.c.tenant).where(
                ends, EDGES.c.kind == "delegated", EDGES.c.last_ms >= since
            )
            for source, target, tenant in self._connection.execute(query.order_by(EDGES.c.last_ms.desc())):
                for mine, other in ((source, target), (target, source)):
                    if mine in rising and rising[mine].tenant == tenant:
                        found.setdefault(codec.to_unsigned(mine), []).append(codec.to_unsigned(other))
        return found

    def _load(self, changes: Sequence[_LevelChange]) -> None:
        """Every open case that a change may belong to, with all of its agents.

        Looked for again once they are locked: a person may have merged one of them into another meanwhile.
        """
        while missing := sorted(self._candidates(changes) - self._looked_at):
            self._looked_at.update(missing)
            for part in chunked(missing, MAX_IN_LIST):
                self._load_cases(part)

    def _candidates(self, changes: Sequence[_LevelChange]) -> set[str]:
        """Ids of the cases that agents of *changes* are in, or may join."""
        since = min(change.at_ms for change in changes) - self._rule.window_s * 1000
        own = {change.agent.key for change in changes}
        near = {key for neighbours in self._neighbours.values() for key in neighbours} - own
        is_open = (CASES.c.case_id == CASE_AGENTS.c.case_id, CASES.c.status != "closed")
        ids: set[str] = set()
        for keys, more in ((own, ()), (near, (CASE_AGENTS.c.last_ms >= since,))):
            for part in chunked(sorted(map(codec.to_signed, keys)), MAX_IN_LIST):
                query = select(CASE_AGENTS.c.case_id).where(CASE_AGENTS.c.agent_key.in_(part), *is_open, *more)
                ids.update(self._connection.scalars(query))
        digests = {tie_digest(change.agent.tenant, *tie) for change in changes for tie in change.ties}
        is_open = (CASES.c.case_id == CASE_TIES.c.case_id, CASES.c.status != "closed")
        for some in chunked(sorted(digests), MAX_IN_LIST):
            query = select(CASE_TIES.c.digest, CASE_TIES.c.case_id, CASE_TIES.c.last_ms)
            recent = query.where(CASE_TIES.c.digest.in_(some), CASE_TIES.c.last_ms >= since, *is_open)
            for digest, case_id, last_ms in self._connection.execute(recent):
                times = self._ties.setdefault(digest, {})
                times[case_id] = max(last_ms, times.get(case_id, 0))
                ids.add(case_id)
        return ids

    def _load_cases(self, ids: Sequence[str]) -> None:
        is_open = and_(CASES.c.case_id.in_(ids), CASES.c.status != "closed")
        for row in self._connection.execute(select(CASES).where(is_open).order_by(CASES.c.case_id).with_for_update()):
            self._cases[row.case_id] = _OpenCase(dict(row._mapping), {})
        mine = CASE_AGENTS.c.case_id.in_([case_id for case_id in ids if case_id in self._cases])
        for row in self._connection.execute(select(CASE_AGENTS).where(mine)):
            agent = to_case_agent(row)
            case = self._cases[agent.case_id]
            case.agents[agent.agent.key] = agent
            self._cases_of_agent.setdefault(agent.agent.key, []).append(case)

    def write(self) -> None:
        """Write all that has changed."""
        changed = [case for case in self._cases.values() if case.is_changed]
        if not changed:
            return
        connection = self._connection
        _write_cases(connection, changed)
        agents = [case_agent_params(case.agents[key]) for case in changed for key in sorted(case.changed)]
        connection.execute(_UPSERT_AGENT.for_connection(connection), agents)
        if self._new_ties:
            connection.execute(_UPSERT_TIE.for_connection(connection), list(self._new_ties.values()))
        connection.execute(_INSERT_DECISION.for_connection(connection), self._new_decisions)


def _write_cases(connection: Connection, cases: Sequence[_OpenCase]) -> None:
    """Rows of cases and their new entries, in as few statements as there are kinds."""
    for case in cases:
        case.row["revision"] += 1
    new, known = [case for case in cases if case.is_new], [case for case in cases if not case.is_new]
    if new:
        connection.execute(_INSERT_CASE.for_connection(connection), [case.row for case in new])
    if known:
        connection.execute(_UPDATE_CASE, [{"id_of_case": case.case_id, **case.row} for case in known])
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
    found: dict[str, int] = {}
    for part in chunked(case_ids, MAX_IN_LIST):
        query = select(CASE_ENTRIES.c.case_id, func.max(CASE_ENTRIES.c.sequence)).group_by(CASE_ENTRIES.c.case_id)
        found.update({one: last for one, last in connection.execute(query.where(CASE_ENTRIES.c.case_id.in_(part)))})
    return found


def tie_words(tie: CaseTie, tied_by: str) -> str:
    """Words for what put an agent into a case; "" for the first.

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


def to_case_agent(row: AnyRow) -> CaseAgent:
    """An agent of a case, from its row."""
    values = row._mapping
    plain = {name: values[name] for name in CaseAgent.__struct_fields__ if name != "agent"}
    return CaseAgent(agent=codec.to_agent_name(values), **plain)


def case_agent_params(agent: CaseAgent) -> dict[str, Any]:
    """Parameters of an upsert into `case_agents`."""
    name = agent.agent
    values = {field: getattr(agent, field) for field in CaseAgent.__struct_fields__ if field != "agent"}
    return values | {
        "agent_key": codec.to_signed(name.key),
        "tenant": name.tenant,
        "issuer": name.issuer,
        "agent_id": name.agent_id,
    }
