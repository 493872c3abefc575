"""Containment's side: interventions, actuations and edges."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, Float, bindparam, case, delete, or_, select, update

from ...ingest.hashing import agent_key
from ...ingest.timestamps import DAY_MS
from ..records.agents import AgentEdge, AgentName
from ..records.commits import OutboxRow
from ..records.containment import OPEN_INTERVENTION_STATUSES, Actuation, Intervention
from . import codec
from .database import Paged, visible
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip
from .interface import Page, Tenants
from .outbox_store import INSERT_OUTBOX
from .sql_schema import ACTUATIONS, EDGES, INTERVENTIONS

_ADD_INTERVENTION = insert_or_skip(INTERVENTIONS, "intervention_id")
_ADD_ACTUATION = insert_or_skip(ACTUATIONS, "target", "agent_key")
_ADD_EDGE = insert_or_skip(EDGES, "edge_id")
_EDGE_RISK = bindparam("risk_of", type_=Float(53))
_RISK_APPLIES = or_(EDGES.c.risk <= _EDGE_RISK, EDGES.c.risk_ms < bindparam("risk_before", type_=BigInteger))
"""A new risk counts where it is no lower than what is known, or what is known is a day old."""
_UPDATE_EDGE = (
    update(EDGES)
    .where(EDGES.c.edge_id == bindparam("id"))
    .values(
        last_ms=case((EDGES.c.last_ms < bindparam("last"), bindparam("last")), else_=EDGES.c.last_ms),
        first_ms=case((EDGES.c.first_ms > bindparam("first"), bindparam("first")), else_=EDGES.c.first_ms),
        risk=case((_RISK_APPLIES, _EDGE_RISK), else_=EDGES.c.risk),
        risk_ms=case((_RISK_APPLIES, bindparam("risk_at", type_=BigInteger)), else_=EDGES.c.risk_ms),
    )
)
_scopes_decoder = msgspec.json.Decoder(tuple[str, ...])
_NAMES = ("tenant", "issuer", "agent_id")
_INTERVENTION_PLAIN = tuple(name for name in Intervention.__struct_fields__ if name not in ("agent", "scopes"))
_ACTUATION_PLAIN = tuple(name for name in Actuation.__struct_fields__ if name != "agent")


class ContainmentStore(Paged):
    """Part of the store that containment uses; `trustwatch.scoring.store.interface` says what each method promises."""

    def add_intervention(self, made: Intervention, outbox: Sequence[OutboxRow] = ()) -> bool:
        with self.write() as connection:
            add = _ADD_INTERVENTION.for_connection(connection).returning(INTERVENTIONS.c.intervention_id)
            if connection.execute(add, _intervention_params(made)).first() is None:  # rowcount is not told everywhere
                return False
            _insert_outbox_rows(connection, outbox)
        return True

    def change_intervention(self, made: Intervention, was: str, outbox: Sequence[OutboxRow] = ()) -> bool:
        mine = (INTERVENTIONS.c.intervention_id == made.intervention_id, INTERVENTIONS.c.status == was)
        values = _intervention_params(made)
        del values["intervention_id"]
        with self.write() as connection:
            if connection.execute(update(INTERVENTIONS).where(*mine).values(values)).rowcount == 0:
                return False
            _insert_outbox_rows(connection, outbox)
        return True

    def intervention(self, intervention_id: str, tenants: Tenants = None) -> Intervention | None:
        query = select(INTERVENTIONS).where(INTERVENTIONS.c.intervention_id == intervention_id)
        with self.read() as connection:
            row = connection.execute(visible(query, INTERVENTIONS.c.tenant, tenants)).one_or_none()
        return None if row is None else _to_intervention(row)

    def open_interventions(self) -> list[Intervention]:
        query = select(INTERVENTIONS).where(INTERVENTIONS.c.status.in_(sorted(OPEN_INTERVENTION_STATUSES)))
        with self.read() as connection:
            return [_to_intervention(row) for row in connection.execute(query)]

    def interventions_since(self, updated_ms: int) -> list[Intervention]:
        query = select(INTERVENTIONS).where(INTERVENTIONS.c.updated_ms >= updated_ms)
        with self.read() as connection:
            return [_to_intervention(row) for row in connection.execute(query.order_by(INTERVENTIONS.c.updated_ms))]

    def list_interventions(
        self,
        tenants: Tenants = None,
        kind: str | None = None,
        status: str | None = None,
        agent_key: int | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Intervention]:
        query = visible(select(INTERVENTIONS), INTERVENTIONS.c.tenant, tenants)
        for column, value in ((INTERVENTIONS.c.kind, kind), (INTERVENTIONS.c.status, status)):
            if value is not None:
                query = query.where(column == value)
        if agent_key is not None:
            query = query.where(INTERVENTIONS.c.agent_key == codec.to_signed(agent_key))
        order = (INTERVENTIONS.c.asked_ms, INTERVENTIONS.c.intervention_id)
        return self.newest(query, order, limit, cursor, _to_intervention)

    def enqueue(self, rows: Sequence[OutboxRow]) -> None:
        with self.write() as connection:
            _insert_outbox_rows(connection, rows)

    def want(self, wanted: Actuation) -> Actuation | None:
        values = _actuation_params(wanted)
        mine = _actuation_key(wanted.target, wanted.agent.key)
        with self.write() as connection:
            connection.execute(_ADD_ACTUATION.for_connection(connection), values | {"version": -1})
            kept = ("target", "agent_key", "original", "tenant", "issuer", "agent_id")
            changed = {name: value for name, value in values.items() if name not in kept}
            older = (*mine, ACTUATIONS.c.version <= wanted.version)
            if connection.execute(update(ACTUATIONS).where(*older).values(changed)).rowcount == 0:
                return None
            return _to_actuation(connection.execute(select(ACTUATIONS).where(*mine)).one())

    def actuation(self, target: str, agent_key: int) -> Actuation | None:
        with self.read() as connection:
            row = connection.execute(select(ACTUATIONS).where(*_actuation_key(target, agent_key))).one_or_none()
        return None if row is None else _to_actuation(row)

    def keep_original(self, target: str, agent_key: int, original: bytes) -> bytes:
        mine = _actuation_key(target, agent_key)
        with self.write() as connection:
            unset = (*mine, ACTUATIONS.c.original == b"")
            connection.execute(update(ACTUATIONS).where(*unset).values(original=original))
            kept: bytes = connection.execute(select(ACTUATIONS.c.original).where(*mine)).scalar_one()
        return kept

    def settle_actuation(self, done: Actuation) -> bool:
        mine = (*_actuation_key(done.target, done.agent.key), ACTUATIONS.c.version == done.version)
        values = {name: getattr(done, name) for name in ("status", "confirmed_ms", "updated_ms", "error", "original")}
        with self.write() as connection:
            return connection.execute(update(ACTUATIONS).where(*mine).values(values)).rowcount > 0

    def list_actuations(
        self,
        tenants: Tenants = None,
        agent_key: int | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Actuation]:
        query = visible(select(ACTUATIONS), ACTUATIONS.c.tenant, tenants)
        if agent_key is not None:
            query = query.where(ACTUATIONS.c.agent_key == codec.to_signed(agent_key))
        if target is not None:
            query = query.where(ACTUATIONS.c.target == target)
        order = (ACTUATIONS.c.updated_ms, ACTUATIONS.c.target, ACTUATIONS.c.agent_key)
        return self.newest(query, order, limit, cursor, _to_actuation, tuple[int, str, int])

    def edges(
        self, keys: Collection[int], *, outgoing: bool, kinds: Collection[str], since_ms: int = 0, limit: int = 1_000
    ) -> list[AgentEdge]:
        column = EDGES.c.source_key if outgoing else EDGES.c.target_key
        found: list[AgentEdge] = []
        with self.read() as connection:
            for part in chunked(keys, MAX_IN_LIST):
                query = select(EDGES).where(column.in_([codec.to_signed(key) for key in part]))
                query = query.where(EDGES.c.kind.in_(sorted(kinds)), EDGES.c.last_ms >= since_ms)
                rows = connection.execute(query.order_by(EDGES.c.last_ms.desc()).limit(limit - len(found)))
                found += map(codec.to_edge, rows)
                if len(found) >= limit:
                    break
        return found

    def purge_containment(
        self, before_ms: int, *, actuations_before_ms: int | None = None, edges_before_ms: int | None = None
    ) -> int:
        finished = (
            ~INTERVENTIONS.c.status.in_(sorted(OPEN_INTERVENTION_STATUSES)),
            INTERVENTIONS.c.updated_ms < before_ms,
        )
        undone_ms = before_ms if actuations_before_ms is None else actuations_before_ms
        seen_ms = before_ms if edges_before_ms is None else edges_before_ms
        done = (ACTUATIONS.c.updated_ms < undone_ms, ACTUATIONS.c.original == b"")
        with self.write() as connection:
            return sum(
                connection.execute(delete(table).where(*old)).rowcount
                for table, old in ((INTERVENTIONS, finished), (ACTUATIONS, done), (EDGES, (EDGES.c.last_ms < seen_ms,)))
            )


def node_key(edge: AgentEdge, *, source: bool) -> int:
    """Key (unsigned, 64 bits) of an end of an edge: of agents their agent key, of a principal one of its own."""
    name = edge.source if source else edge.target
    return agent_key(edge.tenant, edge.issuer, f"principal\x1f{name}" if _is_principal(edge, source) else name)


def write_edges(connection: Connection, edges: Sequence[AgentEdge]) -> None:
    """Add what a commit saw, in the order of ids: two that add the same ones never wait for each other in turn."""
    rows = sorted((edge_params(edge) for edge in edges), key=lambda row: str(row["edge_id"]))
    connection.execute(_ADD_EDGE.for_connection(connection), rows)
    connection.execute(
        _UPDATE_EDGE,
        [
            {
                "id": row["edge_id"],
                "last": row["last_ms"],
                "first": row["first_ms"],
                "risk_of": row["risk"],
                "risk_at": row["risk_ms"],
                "risk_before": row["risk_ms"] - DAY_MS,
            }
            for row in rows
        ],
    )


def _is_principal(edge: AgentEdge, source: bool) -> bool:
    return edge.kind == "acts_for" and not source


def edge_params(edge: AgentEdge) -> dict[str, Any]:
    """Parameters of an insert into `edges`."""
    values = msgspec.structs.asdict(edge)
    named = "\x1f".join((edge.tenant, edge.issuer, edge.kind, edge.source, edge.target)).encode()
    return values | {
        "edge_id": hashlib.sha256(named).hexdigest()[:40],
        "source_key": codec.to_signed(node_key(edge, source=True)),
        "target_key": codec.to_signed(node_key(edge, source=False)),
    }


def _insert_outbox_rows(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    if rows:
        connection.execute(INSERT_OUTBOX.for_connection(connection), [codec.outbox_params(row) for row in rows])


def _actuation_key(target: str, agent_key: int) -> tuple[Any, Any]:
    return ACTUATIONS.c.target == target, ACTUATIONS.c.agent_key == codec.to_signed(agent_key)


def _agent_columns(agent: AgentName) -> dict[str, Any]:
    return {"agent_key": codec.to_signed(agent.key), **{name: getattr(agent, name) for name in _NAMES}}


def _intervention_params(made: Intervention) -> dict[str, Any]:
    values = {name: getattr(made, name) for name in _INTERVENTION_PLAIN}
    return values | _agent_columns(made.agent) | {"scopes": msgspec.json.encode(made.scopes)}


def _to_intervention(row: Any) -> Intervention:
    values = row._mapping
    return Intervention(
        agent=_to_agent_name(values),
        scopes=_scopes_decoder.decode(values["scopes"]),
        **{name: values[name] for name in _INTERVENTION_PLAIN},
    )


def _actuation_params(made: Actuation) -> dict[str, Any]:
    return {name: getattr(made, name) for name in _ACTUATION_PLAIN} | _agent_columns(made.agent)


def _to_actuation(row: Any) -> Actuation:
    values = row._mapping
    return Actuation(agent=_to_agent_name(values), **{name: values[name] for name in _ACTUATION_PLAIN})


def _to_agent_name(values: Any) -> AgentName:
    return AgentName(codec.to_unsigned(values["agent_key"]), *(values[name] for name in _NAMES))
