"""What every part of the lab stands on: settings, store, model, a folder of its own, and how agents are named."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ...ingest.errors import ConfigError
from ...scoring.engine import EngineSettings
from ...scoring.records import AgentSummary, Decision
from ...scoring.store import SqlStore
from ..serve.wiring import engine_settings
from ..settings import Settings
from . import learned, stored
from .history import EventFilter, EventHistory, HistoryEvent, parse_time_ms
from .learned import LabModel
from .opening import LabError, LabWarning, open_read_only_store

DEFAULT_ROW_LIMIT = 100_000
"""Rows of a frame unless told otherwise; more are cut with a `LabWarning`."""

AgentReference = Any
"""An agent: its id, or a row of a frame that has `agent_id`, `tenant` and `issuer`."""


class SessionBase:
    """A service's store and events, open to be read.

    Args:
        settings: of the service.
        tenants: nothing of others is shown; None = all.
    """

    def __init__(self, settings: Settings, tenants: frozenset[str] | None = None) -> None:
        self.settings = settings
        self.tenants = tenants
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._models: dict[Path, LabModel] = {}

    def __repr__(self) -> str:
        store = "SQLite" if self.settings.store.url is None else "PostgreSQL"
        shown = "all tenants" if self.tenants is None else f"tenants {', '.join(sorted(self.tenants))}"
        return f"<lab of {self.settings.data_dir} ({store}), {shown}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the store, and remove the models and files that were made meanwhile."""
        if "_store" in self.__dict__:
            self._store.close()
            del self.__dict__["_store"]
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._models.clear()

    def model(self, directory: str | Path | None = None) -> LabModel:
        """A model: that of the settings, or another directory's. Has features, groups, calibration and promise."""
        path = Path(directory) if directory is not None else self.settings.model_dir
        if path not in self._models:
            self._models[path] = learned.load_lab_model(path, self.engine_settings, self._agent_types())
        return self._models[path]

    @cached_property
    def _store(self) -> SqlStore:
        return open_read_only_store(self.settings)

    @property
    def work_folder(self) -> Path:
        """A folder of this lab alone."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="trustwatch-lab-")
        return Path(self._folder.name)

    @property
    def engine_settings(self) -> EngineSettings:
        return engine_settings(self.settings, capacity=50_000)

    def _agent_types(self) -> list[tuple[str, str]]:
        """Tenants and agent types that the store knows; none where there is no store."""
        try:
            return sorted(
                {(one.name.tenant, one.agent_type) for one in stored.agent_summaries(self._store, self.tenants)}
            )
        except ConfigError:
            return []

    def _find_agent(self, agent: AgentReference, tenant: str | None) -> AgentSummary:
        tenant, issuer, agent_id = agent_identity(agent, tenant)
        return stored.find_agent_summary(self._store, self.tenants, agent_id, tenant, issuer)

    def _decisions(self, agent: AgentReference, tenant: str | None) -> Iterator[Decision]:
        key = None if agent is None else self._find_agent(agent, tenant).name.key
        return stored.iterate_decisions(self._store, self.tenants, key)

    def _find_decision(self, decision: Any) -> Decision:
        wanted = decision if isinstance(decision, str) else getattr(decision, "decision_id", None)
        if not isinstance(wanted, str) or not wanted:
            raise LabError("no decision: pass an id, or a row of `lab.decisions()` such as `lab.worst()`")
        found = self._store.decision(wanted, self.tenants)
        if found is None:
            raise LabError(f"no decision {wanted!r} in the store; `lab.decisions()` lists them")
        return found

    def _event_filter(self, agent: AgentReference, tenant: str | None, since: Any, until: Any) -> EventFilter:
        return EventFilter(
            None if agent is None else agent_identity(agent, tenant),
            parse_time_ms(since),
            parse_time_ms(until),
            self.tenants if tenant is None or agent is not None else self._allowed_tenants(tenant),
        )

    def _allowed_tenants(self, tenant: str) -> frozenset[str]:
        return frozenset({tenant}) & (self.tenants if self.tenants is not None else {tenant})

    def _matching_events(self, wanted: EventFilter) -> Iterator[HistoryEvent]:
        return EventHistory(self.settings).events(wanted)

    def _events_to_replay(self, model: LabModel, wanted: EventFilter) -> Iterator[bytes]:
        """All events since the model's history ended, or since the window begins where that is earlier."""
        learned_ms = model.trained.window_ms[1]
        since_ms = learned_ms + 1
        if wanted.since_ms is not None and wanted.since_ms <= learned_ms:
            since_ms = wanted.since_ms
            warn_incomplete(
                f"model {model.version} has learned from events up to {model.window[1]:%Y-%m-%d %H:%M}: what is "
                "scored before that it has seen"
            )
        return (found.raw for found in self._matching_events(wanted._replace(since_ms=since_ms)))


def agent_identity(agent: AgentReference, tenant: str | None) -> tuple[str | None, str | None, str]:
    """Tenant, issuer and id of an agent that is given as an id or a row; None = any."""
    if isinstance(agent, str):
        return tenant, None, agent
    try:
        return tenant or agent["tenant"], agent.get("issuer"), agent["agent_id"]
    except (KeyError, TypeError, AttributeError):
        raise LabError("no agent: pass its id, or a row of a frame that has `agent_id` and `tenant`") from None


def warn_incomplete(text: str) -> None:
    warnings.warn(text, LabWarning, stacklevel=4)
