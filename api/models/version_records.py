"""Versions in the store: kept in step with what lies in the registry, and with what the pipeline switched to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trustwatch.models.model_registry import ModelRegistry, RegisteredModel
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelStatus, ModelSwitch, ModelVersion
from trustwatch.scoring.store.sql_store import SqlStore

ORDER_ACTS = ("promoted", "rolled_back")


class VersionRecords:
    """Writes rows of versions and lines of their history. Every call blocks, and raises Unavailable.

    Args:
        store: has them.
        registry: where versions lie.
        now_ms: UTC milliseconds.
        new_id: text that never repeats.
    """

    def __init__(
        self, store: SqlStore, registry: ModelRegistry, now_ms: Callable[[], int], new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._registry = registry
        self._now_ms = now_ms
        self._new_id = new_id

    def adopt_from_registry(self, version: str) -> None:
        """Make a version that was trained elsewhere and put into the registry a challenger like any other."""
        if self._store.models.get(version) is not None:
            return
        registered = next((candidate for candidate in self._registry.versions() if candidate.version == version), None)
        if registered is None:
            return
        now_ms = self._now_ms()
        model = _version_of(registered, "challenger", "put into the registry", promoted_ms=0, now_ms=now_ms)
        entry = ModelHistoryEntry(self._new_id(), now_ms, version, "trained", "operator", "found")
        self._store.models.add(model, entry)

    def note_switch(self, switch: ModelSwitch) -> None:
        """Mark the version in force as champion. Every process that sees the switch does, and all write the same."""
        model = self._store.models.get(switch.version)
        if model is None:
            return
        earlier_champions = [
            other for other in self._store.models.page("champion").items if other.version != switch.version
        ]
        if model.status == "champion" and not earlier_champions:
            return
        now_ms = self._now_ms()
        orders = [entry.act for entry in self._store.models.history(switch.version).items if entry.act in ORDER_ACTS]
        status: ModelStatus = "rejected" if orders[:1] == ["rolled_back"] else "retired"
        replaced = [msgspec.structs.replace(other, status=status, changed_ms=now_ms) for other in earlier_champions]
        champion = msgspec.structs.replace(model, status="champion", promoted_ms=switch.at_ms, changed_ms=now_ms)
        self._store.models.update([*replaced, champion], [_switch_entry(switch, now_ms)])

    def note_installed(self) -> RegisteredModel:
        """The operator's model is a version like any other; the history says when it came."""
        installed, now_ms = self._registry.installed_model(), self._now_ms()
        stored = self._store.models.get(installed.version)
        if stored is not None and stored.digest == installed.digest:
            return installed
        learns = installed.manifest.learns
        source, why = ("nothing", "no model was in model_dir") if learns else ("trustwatch train", "found in model_dir")
        model = _version_of(installed, "champion", source, promoted_ms=now_ms, now_ms=now_ms)
        entry = ModelHistoryEntry(
            self._new_id(), now_ms, installed.version, "installed", "service" if learns else "operator", why
        )
        retired = [
            msgspec.structs.replace(other, status="retired", changed_ms=now_ms)
            for other in self._store.models.page("champion").items
            if other.version != installed.version
        ]
        if stored is None:
            self._store.models.add(model, entry)
            self._store.models.update(retired)
        else:
            self._store.models.update([*retired, model], [entry])
        return installed


def _version_of(
    registered: RegisteredModel, status: ModelStatus, source: str, *, promoted_ms: int, now_ms: int
) -> ModelVersion:
    """A version that the registry has and the store has not."""
    window = registered.manifest.window
    return ModelVersion(
        registered.version,
        status,
        registered.digest,
        window.from_ms,
        window.to_ms,
        registered.manifest.created_ms,
        promoted_ms,
        now_ms,
        trained={
            "source": source,
            "events": window.events,
            "agents": window.agents,
            "sessions": window.sessions,
        },
    )


def _switch_entry(switch: ModelSwitch, now_ms: int) -> ModelHistoryEntry:
    return ModelHistoryEntry(
        f"switch-{switch.partition}-{switch.epoch}-{switch.offset}",
        now_ms,
        switch.version,
        "switched",
        "pipeline",
        f"in force from offset {switch.offset} of partition {switch.partition} on",
        {"partition": switch.partition, "epoch": switch.epoch, "offset": switch.offset},
    )
