"""The side of the model lifecycle: versions, their history, switches, and what shadow runs counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, Integer, cast, delete, func, select, update

from ...ingest.timestamps import DAY_MS
from ..records.agents import RiskLevel
from ..records.commits import OutboxRow
from ..records.models import AgentLifespans, DailyAlertCount, ModelHistoryEntry, ModelSwitch, ModelVersion, PeerGroupDay
from . import codec
from .database import Paged, visible
from .dialects.statements import insert_or_skip, upsert
from .interface import MAX_PAGE, Page, Tenants
from .outbox_store import INSERT_OUTBOX
from .sql_schema import AGENTS, DECISIONS, MODEL_DAYS, MODEL_HISTORY, MODEL_SWITCHES, MODEL_VERSIONS

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

MAX_CLOCK_SKEW_MS = 600_000
"""A decision is made when its event arrives, at most some minutes before a clock that is ahead says that it happens."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_JSON_COLUMNS = frozenset({"trained", "figures", "detail", "alerts", "p_values", "drift"})
_ADD_VERSION = insert_or_skip(MODEL_VERSIONS, "version")
_ADD_ENTRY = insert_or_skip(MODEL_HISTORY, "entry_id")
_UPSERT_SWITCH = upsert(MODEL_SWITCHES, ("partition", "epoch", "offset"))
_UPSERT_DAY = upsert(MODEL_DAYS, ("version", "day", "tenant", "agent_type"))


class ModelStore(Paged):
    """Part of the store that the lifecycle uses.

    `trustwatch.scoring.store.interface` says what each method promises.
    """

    def add_model(self, made: ModelVersion, entry: ModelHistoryEntry) -> bool:
        with self.write() as connection:
            add = _ADD_VERSION.for_connection(connection).returning(MODEL_VERSIONS.c.version)
            added = connection.execute(add, _model_params(made)).first() is not None
            if added:
                connection.execute(_ADD_ENTRY.for_connection(connection), _model_params(entry))
        return added

    def change_models(
        self,
        changed: Sequence[ModelVersion],
        entries: Sequence[ModelHistoryEntry] = (),
        outbox: Sequence[OutboxRow] = (),
    ) -> None:
        with self.write() as connection:
            for one in changed:
                mine = MODEL_VERSIONS.c.version == one.version
                connection.execute(update(MODEL_VERSIONS).where(mine).values(_model_params(one)))
            if entries:
                connection.execute(_ADD_ENTRY.for_connection(connection), [_model_params(entry) for entry in entries])
            if outbox:
                connection.execute(
                    INSERT_OUTBOX.for_connection(connection), [codec.outbox_params(row) for row in outbox]
                )

    def note_figures(self, version: str, figures: dict[str, Any], at_ms: int) -> None:
        values = {"figures": _encode(figures), "changed_ms": at_ms}
        with self.write() as connection:
            connection.execute(update(MODEL_VERSIONS).where(MODEL_VERSIONS.c.version == version).values(values))

    def model(self, version: str) -> ModelVersion | None:
        with self.read() as connection:
            row = connection.execute(select(MODEL_VERSIONS).where(MODEL_VERSIONS.c.version == version)).one_or_none()
        return None if row is None else _to_model_version(row)

    def models(self, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[ModelVersion]:
        query = select(MODEL_VERSIONS)
        if status is not None:
            query = query.where(MODEL_VERSIONS.c.status == status)
        return self.newest(
            query, (MODEL_VERSIONS.c.created_ms, MODEL_VERSIONS.c.version), limit, cursor, _to_model_version
        )

    def model_history(
        self, version: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelHistoryEntry]:
        query = select(MODEL_HISTORY)
        if version is not None:
            query = query.where(MODEL_HISTORY.c.version == version)
        order = (MODEL_HISTORY.c.at_ms, MODEL_HISTORY.c.entry_id)
        return self.newest(query, order, limit, cursor, lambda row: ModelHistoryEntry(**_model_values(row)))

    def model_switch(self, partition: int) -> ModelSwitch | None:
        order = (MODEL_SWITCHES.c.epoch, MODEL_SWITCHES.c.offset)
        query = select(MODEL_SWITCHES).where(MODEL_SWITCHES.c.partition == partition)
        with self.read() as connection:
            row = connection.execute(query.order_by(*(one.desc() for one in order)).limit(1)).one_or_none()
        return None if row is None else ModelSwitch(**row._mapping)

    def model_switches(self, limit: int = MAX_PAGE) -> list[ModelSwitch]:
        query = select(MODEL_SWITCHES).order_by(MODEL_SWITCHES.c.at_ms.desc(), MODEL_SWITCHES.c.partition)
        with self.read() as connection:
            return [ModelSwitch(**row._mapping) for row in connection.execute(query.limit(limit))]

    def note_days(self, days: Sequence[PeerGroupDay], outbox: Sequence[OutboxRow] = ()) -> None:
        with self.write() as connection:
            if days:
                connection.execute(_UPSERT_DAY.for_connection(connection), [_model_params(day) for day in days])
            if outbox:
                connection.execute(
                    INSERT_OUTBOX.for_connection(connection), [codec.outbox_params(row) for row in outbox]
                )

    def model_days(self, from_day: int, tenants: Tenants = None, version: str | None = None) -> list[PeerGroupDay]:
        query = visible(select(MODEL_DAYS).where(MODEL_DAYS.c.day >= from_day), MODEL_DAYS.c.tenant, tenants)
        if version is not None:
            query = query.where(MODEL_DAYS.c.version == version)
        order = (MODEL_DAYS.c.day, MODEL_DAYS.c.tenant, MODEL_DAYS.c.agent_type, MODEL_DAYS.c.version)
        with self.read() as connection:
            return [_to_group_day(row) for row in connection.execute(query.order_by(*order))]

    def alert_counts(self, from_day: int, tenants: Tenants = None) -> list[DailyAlertCount]:
        day = cast(DECISIONS.c.event_time_ms.op("/")(DAY_MS), Integer)  # of whole numbers: it rounds down
        group = (day, DECISIONS.c.tenant, DECISIONS.c.agent_type)
        counts = [_count_escalations(level) for level in (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)]
        first = from_day * DAY_MS
        since = (
            DECISIONS.c.decided_ms >= first - MAX_CLOCK_SKEW_MS,  # which the index knows
            DECISIONS.c.event_time_ms >= first,
            DECISIONS.c.level > DECISIONS.c.previous_level,
        )
        query = select(*group, *counts).where(*since, DECISIONS.c.level >= RiskLevel.MEDIUM).group_by(*group)
        with self.read() as connection:
            rows = connection.execute(visible(query, DECISIONS.c.tenant, tenants)).all()
        return sorted((DailyAlertCount(*row) for row in rows), key=lambda one: (one.day, one.tenant, one.agent_type))

    def known_agents(self, from_day: int, tenants: Tenants = None) -> list[AgentLifespans]:
        first, last = (
            cast(column.op("/")(DAY_MS), Integer) for column in (AGENTS.c.first_seen_ms, AGENTS.c.last_seen_ms)
        )
        group = (AGENTS.c.tenant, AGENTS.c.agent_type, first, last)
        query = select(*group, func.count()).where(AGENTS.c.last_seen_ms >= from_day * DAY_MS).group_by(*group)
        with self.read() as connection:
            rows = connection.execute(visible(query, AGENTS.c.tenant, tenants)).all()
        return [AgentLifespans(*row) for row in rows]

    def purge_models(self, before_day: int) -> int:
        with self.write() as connection:
            return connection.execute(delete(MODEL_DAYS).where(MODEL_DAYS.c.day < before_day)).rowcount


def write_switches(connection: Connection, switches: Sequence[ModelSwitch]) -> None:
    """Models that a commit brings into force."""
    connection.execute(_UPSERT_SWITCH.for_connection(connection), [msgspec.structs.asdict(one) for one in switches])


def _count_escalations(level: RiskLevel) -> ColumnElement[int]:
    return func.count().filter(DECISIONS.c.level >= level, DECISIONS.c.previous_level < level)


def _model_params(made: msgspec.Struct) -> dict[str, Any]:
    values = msgspec.structs.asdict(made)
    return {name: _encode(value) if name in _JSON_COLUMNS else value for name, value in values.items()}


def _model_values(row: Any) -> dict[str, Any]:
    return {name: _decode(value) if name in _JSON_COLUMNS else value for name, value in row._mapping.items()}


def _to_model_version(row: Any) -> ModelVersion:
    return ModelVersion(**_model_values(row))


def _to_group_day(row: Any) -> PeerGroupDay:
    values = _model_values(row)
    return PeerGroupDay(**values | {"alerts": tuple(values["alerts"]), "p_values": tuple(values["p_values"])})
