"""Models: versions, their history, the switch of each partition to a version, and what shadow runs counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select, update

from ..records.commits import OutboxRow
from ..records.models import ModelHistoryEntry, ModelSwitch, ModelVersion, PeerGroupDay
from .codec import RowCodec
from .database import MAX_PAGE, Page, TableStore, Tenants, visible, with_values
from .dialects.statements import insert_or_skip, upsert
from .outbox_store import insert_outbox_rows
from .sql_schema import MODEL_DAYS, MODEL_HISTORY, MODEL_SWITCHES, MODEL_VERSIONS

_VERSION_ROWS = RowCodec(ModelVersion, MODEL_VERSIONS)
_ENTRY_ROWS = RowCodec(ModelHistoryEntry, MODEL_HISTORY)
_SWITCH_ROWS = RowCodec(ModelSwitch, MODEL_SWITCHES)
_DAY_ROWS = RowCodec(PeerGroupDay, MODEL_DAYS)
_INSERT_VERSION = insert_or_skip(MODEL_VERSIONS, "version")
_INSERT_ENTRY = insert_or_skip(MODEL_HISTORY, "entry_id")
_UPSERT_SWITCH = upsert(MODEL_SWITCHES, ("partition", "epoch", "offset"))
_UPSERT_DAY = upsert(MODEL_DAYS, ("version", "day", "tenant", "agent_type"))


class ModelStore(TableStore):
    """Reads and writes model versions, their history, switches to them, and what shadow runs counted."""

    def add(self, model: ModelVersion, entry: ModelHistoryEntry) -> bool:
        """Write a new version with its first history entry; return False and write nothing if the version exists."""
        with self._database.write() as connection:
            added = _INSERT_VERSION.adds(connection, _VERSION_ROWS.params(model))
            if added:
                _INSERT_ENTRY.execute(connection, _ENTRY_ROWS.params(entry))
        return added

    def update(
        self,
        changed: Sequence[ModelVersion],
        entries: Sequence[ModelHistoryEntry] = (),
        outbox: Sequence[OutboxRow] = (),
    ) -> None:
        """Overwrite existing versions, and add history entries and outbox rows, in one transaction."""
        with self._database.write() as connection:
            for model in changed:
                mine = MODEL_VERSIONS.c.version == model.version
                connection.execute(update(MODEL_VERSIONS).where(mine).values(_VERSION_ROWS.params(model)))
            _INSERT_ENTRY.execute(connection, list(map(_ENTRY_ROWS.params, entries)))
            insert_outbox_rows(connection, outbox)

    def save_shadow_metrics(self, version: str, figures: dict[str, Any], at_ms: int) -> None:
        """Overwrite the figures of a version in shadow."""
        values = {"figures": msgspec.json.encode(figures), "changed_ms": at_ms}
        self._database.change(update(MODEL_VERSIONS).where(MODEL_VERSIONS.c.version == version).values(values))

    def get(self, version: str) -> ModelVersion | None:
        """Return one version."""
        return self._database.get(_VERSION_ROWS, MODEL_VERSIONS.c.version == version)

    def page(self, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[ModelVersion]:
        """List versions, newest first. Raises BadCursor."""
        query = with_values(_VERSION_ROWS.select(), {MODEL_VERSIONS.c.status: status})
        order = (MODEL_VERSIONS.c.created_ms, MODEL_VERSIONS.c.version)
        return self._database.newest(query, order, limit, cursor, _VERSION_ROWS.read)

    def history(
        self, version: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelHistoryEntry]:
        """List history entries, newest first. Raises BadCursor."""
        query = with_values(_ENTRY_ROWS.select(), {MODEL_HISTORY.c.version: version})
        order = (MODEL_HISTORY.c.at_ms, MODEL_HISTORY.c.entry_id)
        return self._database.newest(query, order, limit, cursor, _ENTRY_ROWS.read)

    def current_switch(self, partition: int) -> ModelSwitch | None:
        """Return the switch to the version that is active in *partition*; None if there was no switch yet."""
        order = (MODEL_SWITCHES.c.epoch.desc(), MODEL_SWITCHES.c.offset.desc())
        mine = MODEL_SWITCHES.c.partition == partition
        return next(iter(self._database.find(_SWITCH_ROWS, mine, order=order, limit=1)), None)

    def list_switches(self, limit: int = MAX_PAGE) -> list[ModelSwitch]:
        """List switches of all partitions, newest first."""
        order = (MODEL_SWITCHES.c.at_ms.desc(), MODEL_SWITCHES.c.partition)
        return self._database.find(_SWITCH_ROWS, order=order, limit=limit)

    def save_days(self, days: Sequence[PeerGroupDay], outbox: Sequence[OutboxRow] = ()) -> None:
        """Overwrite days of peer groups and add outbox rows; an outbox row whose key exists is skipped."""
        with self._database.write() as connection:
            _UPSERT_DAY.execute(connection, list(map(_DAY_ROWS.params, days)))
            insert_outbox_rows(connection, outbox)

    def agent_days(self, from_day: int, tenants: Tenants = None) -> dict[int, int]:
        """Count the agents that were scored on each day since *from_day*."""
        group = (MODEL_DAYS.c.day, MODEL_DAYS.c.tenant, MODEL_DAYS.c.agent_type)
        most = func.max(MODEL_DAYS.c.agent_days)  # several versions may have counted the same day
        query = visible(select(*group, most).where(MODEL_DAYS.c.day >= from_day), MODEL_DAYS.c.tenant, tenants)
        counted: Counter[int] = Counter()
        with self._database.read() as connection:
            for day, _, _, agents in connection.execute(query.group_by(*group)):
                counted[day] += agents
        return dict(counted)

    def list_days(self, from_day: int, tenants: Tenants = None, version: str | None = None) -> list[PeerGroupDay]:
        """List days of peer groups since *from_day*, by day, tenant, type and version."""
        query = with_values(_DAY_ROWS.select(tenants, MODEL_DAYS.c.day >= from_day), {MODEL_DAYS.c.version: version})
        order = (MODEL_DAYS.c.day, MODEL_DAYS.c.tenant, MODEL_DAYS.c.agent_type, MODEL_DAYS.c.version)
        return self._database.fetch_all(query.order_by(*order), _DAY_ROWS.read)


def write_switches(connection: Connection, switches: Sequence[ModelSwitch]) -> None:
    """Write the switches that a commit brings."""
    _UPSERT_SWITCH.execute(connection, list(map(_SWITCH_ROWS.params, switches)))
