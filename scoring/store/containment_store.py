"""Containment: interventions of people, actuations, and edges between agents."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    case,
    cast,
    func,
    or_,
    select,
    tuple_,
    update,
)

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.timestamps import HOUR_MS

from ..records.agents import EDGE_RISK_STEP_MS, EDGE_RISK_STEPS, AgentEdge, AgentIdentity, AgentName
from ..records.commits import OutboxRow
from ..records.containment import OPEN_INTERVENTION_STATUSES, Actuation, Intervention
from . import codec
from .codec import RowCodec
from .database import Page, TableStore, Tenants, with_values
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_merge, insert_or_skip
from .outbox_store import insert_outbox_rows
from .sql_schema import ACTUATIONS, EDGES, INTERVENTIONS

_INSERT_INTERVENTION = insert_or_skip(INTERVENTIONS, "intervention_id")
_INSERT_ACTUATION = insert_or_skip(ACTUATIONS, "target", "agent_key")


def _merged_edge(new: Any) -> dict[str, ColumnElement[Any]]:
    """Return columns as `records.agents.merge_edges` computes them, so rows do not depend on the order of writes."""
    old = EDGES.c
    is_last = or_(
        _hour(new.last_ms) > _hour(old.last_ms),
        and_(_hour(new.last_ms) == _hour(old.last_ms), new.last_ms < old.last_ms),
    )
    is_worst = tuple_(*_risk_rank(new)) > tuple_(*_risk_rank(old))
    return {
        "last_ms": case((is_last, new.last_ms), else_=old.last_ms),
        "first_ms": case((old.first_ms > new.first_ms, new.first_ms), else_=old.first_ms),
        "risk": case((is_worst, new.risk), else_=old.risk),
        "risk_ms": case((is_worst, new.risk_ms), else_=old.risk_ms),
    }


def _hour(time_ms: ColumnElement[int]) -> ColumnElement[int]:
    return time_ms - time_ms % HOUR_MS


def _risk_rank(edge: Any) -> tuple[ColumnElement[Any], ...]:
    steps = cast(func.round(edge.risk * EDGE_RISK_STEPS), BigInteger)
    return steps * EDGE_RISK_STEP_MS + _hour(edge.risk_ms), edge.risk, -edge.risk_ms


_MERGE_EDGES = insert_or_merge(EDGES, ("edge_id",), _merged_edge)
_encode = msgspec.json.Encoder().encode
_INTERVENTION_ROWS = RowCodec(Intervention, INTERVENTIONS)
_ACTUATION_ROWS = RowCodec(Actuation, ACTUATIONS)


class InterventionStore(TableStore):
    """Pins set by people, and approvals requested from them."""

    def add(self, intervention: Intervention, outbox: Sequence[OutboxRow] = ()) -> bool:
        """Write a new intervention with its outbox rows; return False and write nothing if its id exists."""
        with self._database.write() as connection:
            if not _INSERT_INTERVENTION.adds(connection, _INTERVENTION_ROWS.params(intervention)):
                return False
            insert_outbox_rows(connection, outbox)
        return True

    def update(self, intervention: Intervention, was: str, outbox: Sequence[OutboxRow] = ()) -> bool:
        """Overwrite an intervention if its status is still *was*, with its outbox rows; return whether it was."""
        mine = (INTERVENTIONS.c.intervention_id == intervention.intervention_id, INTERVENTIONS.c.status == was)
        values = _INTERVENTION_ROWS.params(intervention)
        with self._database.write() as connection:
            if connection.execute(update(INTERVENTIONS).where(*mine).values(values)).rowcount == 0:
                return False
            insert_outbox_rows(connection, outbox)
        return True

    def get(self, intervention_id: str, tenants: Tenants = None) -> Intervention | None:
        """Return one intervention."""
        mine = INTERVENTIONS.c.intervention_id == intervention_id
        return self._database.get(_INTERVENTION_ROWS, mine, tenants=tenants)

    def list_open(self) -> list[Intervention]:
        """List the interventions that have an effect or wait for a person."""
        return self._database.find(_INTERVENTION_ROWS, INTERVENTIONS.c.status.in_(sorted(OPEN_INTERVENTION_STATUSES)))

    def changed_since(self, updated_ms: int) -> list[Intervention]:
        """List the interventions that changed at *updated_ms* or later, oldest change first."""
        changed_ms = INTERVENTIONS.c.updated_ms
        return self._database.find(_INTERVENTION_ROWS, changed_ms >= updated_ms, order=(changed_ms,))

    def page(
        self,
        tenants: Tenants = None,
        kind: str | None = None,
        status: str | None = None,
        agent: AgentName | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Intervention]:
        """List interventions, newest first. Raises BadCursor."""
        query = with_values(
            _INTERVENTION_ROWS.select(tenants), {INTERVENTIONS.c.kind: kind, INTERVENTIONS.c.status: status}
        )
        if agent is not None:
            query = query.where(codec.is_about(INTERVENTIONS, agent))
        order = (INTERVENTIONS.c.asked_ms, INTERVENTIONS.c.intervention_id)
        return self._database.newest(query, order, limit, cursor, _INTERVENTION_ROWS.read)


class ActuationStore(TableStore):
    """Desired and confirmed states of agents at the servers of actuators."""

    def request(self, actuation: Actuation) -> Actuation | None:
        """Write a desired state and return the stored row; None if a newer state is already desired.

        The state before anything was restricted (`original`) stays.
        """
        values = _ACTUATION_ROWS.params(actuation)
        mine = _actuation_of(actuation.target, actuation.agent)
        with self._database.write() as connection:
            _INSERT_ACTUATION.execute(connection, values | {"version": -1})
            fixed = ("target", "agent_key", "original", "tenant", "issuer", "agent_id")
            changed = {name: value for name, value in values.items() if name not in fixed}
            older = (*mine, ACTUATIONS.c.version <= actuation.version)
            if connection.execute(update(ACTUATIONS).where(*older).values(changed)).rowcount == 0:
                return None
            return _ACTUATION_ROWS.read(connection.execute(select(ACTUATIONS).where(*mine)).one())

    def get(self, target: str, agent: AgentName) -> Actuation | None:
        """Return the actuation of one agent at one target."""
        return self._database.get(_ACTUATION_ROWS, *_actuation_of(target, agent))

    def keep_original(self, target: str, agent: AgentName, original: bytes) -> bytes:
        """Store the original state of the server unless one is stored already; return the stored one."""
        mine = _actuation_of(target, agent)
        with self._database.write() as connection:
            unset = (*mine, ACTUATIONS.c.original == b"")
            connection.execute(update(ACTUATIONS).where(*unset).values(original=original))
            kept: bytes = connection.execute(select(ACTUATIONS.c.original).where(*mine)).scalar_one()
        return kept

    def settle(self, actuation: Actuation) -> bool:
        """Write the outcome; return False and write nothing if a newer state is desired meanwhile."""
        mine = (*_actuation_of(actuation.target, actuation.agent), ACTUATIONS.c.version == actuation.version)
        names = ("status", "confirmed_ms", "updated_ms", "error", "original")
        values = {name: getattr(actuation, name) for name in names}
        return self._database.change(update(ACTUATIONS).where(*mine).values(values)) > 0

    def page(
        self,
        tenants: Tenants = None,
        agent: AgentName | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Actuation]:
        """List actuations, last changed first. Raises BadCursor."""
        query = with_values(_ACTUATION_ROWS.select(tenants), {ACTUATIONS.c.target: target})
        if agent is not None:
            query = query.where(codec.is_about(ACTUATIONS, agent))
        order = (ACTUATIONS.c.updated_ms, ACTUATIONS.c.target, ACTUATIONS.c.agent_key)
        return self._database.newest(query, order, limit, cursor, _ACTUATION_ROWS.read, tuple[int, str, int])

    def targets_with_original(self, subject: ErasureSubject) -> list[str]:
        """List targets whose server restricts an agent and whose original state is stored only here."""
        mine = codec.is_about(ACTUATIONS, codec.agent_of(subject, self._database.known_identities()))
        return sorted(self._database.scalars(select(ACTUATIONS.c.target).where(mine, ACTUATIONS.c.original != b"")))


class EdgeStore(TableStore):
    """Edges between two agents, or between an agent and a principal."""

    def agent_name(self, tenant: str, issuer: str, agent_id: str) -> AgentName:
        """Return the name of an agent with its key in this database."""
        identities = self._database.known_identities()
        return AgentName(identities.agent_key(tenant, issuer, agent_id), tenant, issuer, agent_id)

    def find(
        self,
        nodes: Collection[AgentIdentity],
        *,
        outgoing: bool,
        kinds: Collection[str],
        since_ms: int = 0,
        until_ms: int = 0,
        limit: int = 1_000,
        principals: bool = False,
    ) -> list[AgentEdge]:
        """List edges that leave (or reach) nodes, last seen first within a chunk of nodes."""
        column = EDGES.c.source_key if outgoing else EDGES.c.target_key
        identities = self._database.known_identities()
        key_of = identities.principal_key if principals else identities.agent_key
        keys = [key_of(*node) for node in nodes]
        tenants = sorted({tenant for tenant, _, _ in nodes})
        edges: list[AgentEdge] = []
        with self._database.read() as connection:
            for part in chunked(keys, MAX_IN_LIST):
                query = codec.EDGE_ROWS.select(tenants, column.in_([codec.to_signed(key) for key in part]))
                query = query.where(EDGES.c.kind.in_(sorted(kinds)), EDGES.c.last_ms >= since_ms)
                if until_ms:
                    query = query.where(EDGES.c.first_ms < until_ms)
                rows = connection.execute(query.order_by(EDGES.c.last_ms.desc()).limit(limit - len(edges)))
                edges += map(codec.EDGE_ROWS.read, rows)
                if len(edges) >= limit:
                    break
        # A key is a hash: edges of other nodes with that key are left out.
        named = frozenset(nodes)
        return [
            edge
            for edge in edges
            if _is_principal(edge, outgoing) == principals
            and (edge.tenant, edge.issuer, edge.source if outgoing else edge.target) in named
        ]


def write_edges(connection: Connection, edges: Sequence[AgentEdge], identities: IdentityHasher) -> None:
    """Add the edges of a commit, ordered by id so that two commits with the same edges never deadlock."""
    waiting = sorted((edge_params(edge, identities) for edge in edges), key=itemgetter("edge_id"))
    while waiting:  # commits of several partitions may bring the same edge
        firsts: dict[str, dict[str, Any]] = {}
        others = [row for row in waiting if firsts.setdefault(row["edge_id"], row) is not row]
        _MERGE_EDGES.execute(connection, list(firsts.values()))
        waiting = others


def _is_principal(edge: AgentEdge, source: bool) -> bool:
    return edge.kind == "acts_for" and not source


def edge_params(edge: AgentEdge, identities: IdentityHasher) -> dict[str, Any]:
    """Return the parameters of an insert into `edges`."""
    # As a JSON array: two different lists of names never become the same text.
    full_name = _encode((edge.tenant, edge.issuer, edge.kind, edge.source, edge.target))
    # A principal has a separate key.
    key_of_target = identities.principal_key if _is_principal(edge, source=False) else identities.agent_key
    return {
        **codec.EDGE_ROWS.params(edge),
        "edge_id": hashlib.sha256(full_name).hexdigest()[:40],
        "source_key": codec.to_signed(identities.agent_key(edge.tenant, edge.issuer, edge.source)),
        "target_key": codec.to_signed(key_of_target(edge.tenant, edge.issuer, edge.target)),
    }


def _actuation_of(target: str, agent: AgentName) -> tuple[Any, Any]:
    return ACTUATIONS.c.target == target, codec.is_about(ACTUATIONS, agent)
