"""What the life of models asks: versions, history, switches, days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ...lifecycle.records import (
    AgentLifespans,
    DailyAlertCount,
    ModelHistoryEntry,
    ModelSwitch,
    ModelVersion,
    PeerGroupDay,
)
from ...records import OutboxRow
from .paging import Page, Tenants


class ModelStore(Protocol):
    """Versions of models, their history, where each came into force, and what shadow runs counted."""

    def add_model(self, made: ModelVersion, entry: ModelHistoryEntry) -> bool:
        """Write a new version with the line of history that says so; False = known already, and nothing is written."""

    def change_models(
        self,
        changed: Sequence[ModelVersion],
        entries: Sequence[ModelHistoryEntry] = (),
        outbox: Sequence[OutboxRow] = (),
    ) -> None:
        """Overwrite versions that are known, add lines of history and what has to leave, all or nothing."""

    def note_figures(self, version: str, figures: dict[str, Any], at_ms: int) -> None:
        """Overwrite how a version fares in shadow."""

    def model(self, version: str) -> ModelVersion | None:
        """One version."""

    def models(self, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[ModelVersion]:
        """Versions, newest first. Raises BadCursor."""

    def model_history(
        self, version: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelHistoryEntry]:
        """What happened to versions, newest first. Raises BadCursor."""

    def model_switch(self, partition: int) -> ModelSwitch | None:
        """What is in force in *partition*; None = nothing was ever written of it."""

    def model_switches(self, limit: int = 500) -> list[ModelSwitch]:
        """Switches of all partitions, newest first."""

    def note_days(self, days: Sequence[PeerGroupDay], outbox: Sequence[OutboxRow] = ()) -> None:
        """Overwrite what groups did on days, and add what has to leave (rows whose key is there change nothing)."""

    def model_days(self, from_day: int, tenants: Tenants = None, version: str | None = None) -> list[PeerGroupDay]:
        """What groups did since *from_day*, by day, tenant, type and version."""

    def alert_counts(self, from_day: int, tenants: Tenants = None) -> list[DailyAlertCount]:
        """Decisions that raised an agent to medium or above, by day of their event since *from_day*, tenant, type."""

    def known_agents(self, from_day: int, tenants: Tenants = None) -> list[AgentLifespans]:
        """Agents that were seen since *from_day*, by group, first and last day."""

    def purge_models(self, before_day: int) -> int:
        """Remove days before *before_day*; versions, history and switches stay. Returns the number of rows."""
