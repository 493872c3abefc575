"""Orders about models: promotion by figures or by force, roll-back, training. Blocking work is done in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ...ingest.errors import ModelError, TrustwatchError
from ...models.artifact import read_manifest
from ...scoring.lifecycle.budget import ALERT_LEVEL_NAMES
from ...scoring.lifecycle.figures import comparison_from_dict
from ...scoring.lifecycle.force import SwitchModel, encode_model_switch
from ...scoring.lifecycle.promotion import PromotionAssessment, assess_promotion
from ...scoring.lifecycle.records import ModelAction, ModelHistoryEntry, ModelVersion
from ...scoring.lifecycle.shelf import ModelRegistry
from ...scoring.store import Store
from ..settings import Settings
from .orders import TRAINING_REQUEST_KEY


class UnknownModelVersion(TrustwatchError):
    """No version of that name, or it lies nowhere."""

    code = "no_such_model"


class PromotionRefused(TrustwatchError):
    """A promotion or roll-back that was refused; `reasons` says why, one sentence each."""

    code = "not_promoted"

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class ModelOrders:
    """The part of the desk that changes something.

    Args:
        settings: of the service.
        store: of versions and what was counted.
        shelf: where versions lie.
        announce: makes a command durable in every partition of the log, as `Door.control` does in one.
        now_ms: UTC milliseconds.
        new_id: text that never repeats.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        shelf: ModelRegistry,
        announce: Callable[[bytes], Awaitable[None]],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = shelf
        self._write_control = announce
        self._now_ms = now_ms
        self._new_id = new_id
        self.version = shelf.installed_model().version

    def _require_version(self, version: str) -> ModelVersion:
        found = self._store.model(version)
        if found is None:
            raise UnknownModelVersion(f"there is no version {version!r}; GET /v1/models lists them")
        return found

    def judgement(self, version: str) -> PromotionAssessment:
        """Whether a version may be promoted by its figures. Raises UnknownModelVersion, Unavailable."""
        found = self._require_version(version)
        figures = comparison_from_dict(found.figures)
        if figures is None:
            return PromotionAssessment([], ["it has not run in shadow: nothing is known of it"])
        accepted = self._settings.risk.alert_budget
        budget = {level: float(getattr(accepted, level)) for level in ALERT_LEVEL_NAMES}
        return assess_promotion(figures, budget, self._settings.lifecycle.min_agent_days)

    async def promote(self, version: str, by: str, why: str, *, force: bool = False) -> None:
        """Order that *version* comes into force; it does where the pipeline meets the command.

        Args:
            by: who orders it, for the history.
            why: needed with *force*, which overrules the figures.

        Raises:
            UnknownModelVersion: it is not known.
            PromotionRefused: it can not come into force, or its figures do not allow it and nobody forces it.
            Unavailable: store or log do not answer; the order may be given again.
        """
        await asyncio.to_thread(self._adopt_from_registry, version)
        judged = await asyncio.to_thread(self.judgement, version)
        if judged.reasons and not force:
            raise PromotionRefused(judged.reasons)
        if force and not why.strip():
            raise PromotionRefused(["a promotion against the figures needs a reason"])
        detail = {"forced": bool(judged.reasons), "gains": judged.gains, "against": judged.reasons}
        await self._write_order(version, "promoted", by, why or "; ".join(judged.gains), detail)

    async def rollback(self, by: str, why: str) -> str:
        """Order that the version that was in force before comes back; returns its name. Raises as `promote`."""
        before = await asyncio.to_thread(self._previous_version)
        await self._write_order(before, "rolled_back", by, why, {"instead_of": self.version})
        return before

    def _previous_version(self) -> str:
        switches = self._store.model_switches()
        current = switches[0].version if switches else self.version
        for one in switches:
            if one.version != current:
                return one.version
        raise PromotionRefused(["no other version was in force before: there is nothing to roll back to"])

    def _adopt_from_registry(self, version: str) -> None:
        """A version that somebody put on the shelf (trained elsewhere) becomes a challenger like any other."""
        if self._store.model(version) is not None:
            return
        for kept in self._registry.versions():
            if kept.version == version:
                window, now_ms = kept.manifest.window, self._now_ms()
                made = ModelVersion(
                    version,
                    "challenger",
                    kept.digest,
                    window.from_ms,
                    window.to_ms,
                    kept.manifest.created_ms,
                    0,
                    now_ms,
                    trained={
                        "source": "put on the shelf",
                        "events": window.events,
                        "agents": window.agents,
                        "sessions": window.sessions,
                    },
                )
                self._store.add_model(
                    made, ModelHistoryEntry(self._new_id(), now_ms, version, "trained", "operator", "found")
                )
                return

    async def _write_order(self, version: str, act: ModelAction, by: str, why: str, detail: dict[str, object]) -> None:
        digest = await asyncio.to_thread(self._check_usable, version)
        entry = ModelHistoryEntry(self._new_id(), self._now_ms(), version, act, by, why, detail)
        await asyncio.to_thread(self._store.change_models, [], [entry])
        await self._write_control(encode_model_switch(SwitchModel(version, digest, by, why)))

    def _check_usable(self, version: str) -> str:
        """Digest of a version that can come into force. Raises PromotionRefused where it can not."""
        found = self._require_version(version)
        if version == self.version:
            raise PromotionRefused([f"{version!r} is in force already"])
        try:
            model = self._registry.load(version, found.digest)
        except ModelError as error:
            raise PromotionRefused([str(error)]) from None
        if model.salt.hex() != self._active_salt():
            raise PromotionRefused(
                [
                    f"{version!r} was trained with another salt: what is known of agents could not be carried over; "
                    "train with --salt of the model in force, or put it in `model_dir` and restart, which begins anew"
                ]
            )
        return found.digest

    def _active_salt(self) -> str:
        for one in (self.version, self._registry.installed_model().version):
            known = self._store.model(one)
            try:
                return read_manifest(self._registry.find_directory(one, None if known is None else known.digest))[
                    0
                ].salt_hex
            except ModelError:
                continue
        raise PromotionRefused(["the model in force is not on the shelf: restore it first"])

    async def request_training(self, by: str, why: str) -> None:
        """Order a training; the next keeper does it if this one dies.

        Raises PromotionRefused (none runs), Unavailable.
        """
        if not self._settings.lifecycle.enabled:
            raise PromotionRefused(["no keeper runs here (`lifecycle.enabled` is false); use `trustwatch train`"])
        wish = msgspec.json.encode({"id": self._new_id(), "by": by, "why": why, "at_ms": self._now_ms()}).decode()
        await asyncio.to_thread(self._store.set_meta, TRAINING_REQUEST_KEY, wish)
