"""Orders about models: promotion by figures or by force, roll-back, training. Blocking work is done in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ...ingest.errors import ModelError, TrustwatchError
from ...models.artifact import peek
from ...scoring.lifecycle.budget import LEVELS
from ...scoring.lifecycle.figures import from_dict
from ...scoring.lifecycle.force import SwitchModel, switch_command
from ...scoring.lifecycle.promotion import Judgement, judge
from ...scoring.lifecycle.records import Act, ModelEntry, ModelVersion
from ...scoring.lifecycle.shelf import ModelShelf
from ...scoring.store import Store
from ..settings import Settings
from .orders import TRAINING_WISH


class NoSuchModel(TrustwatchError):
    """No version of that name, or it lies nowhere."""

    code = "no_such_model"


class NotPromoted(TrustwatchError):
    """A promotion or roll-back that was refused; `reasons` says why, one sentence each."""

    code = "not_promoted"

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Ordering:
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
        shelf: ModelShelf,
        announce: Callable[[bytes], Awaitable[None]],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._store = store
        self._shelf = shelf
        self._announce = announce
        self._now_ms = now_ms
        self._new_id = new_id
        self.version = shelf.installed().version

    def _known(self, version: str) -> ModelVersion:
        found = self._store.model(version)
        if found is None:
            raise NoSuchModel(f"there is no version {version!r}; GET /v1/models lists them")
        return found

    def judgement(self, version: str) -> Judgement:
        """Whether a version may be promoted by its figures. Raises NoSuchModel, Unavailable."""
        found = self._known(version)
        figures = from_dict(found.figures)
        if figures is None:
            return Judgement([], ["it has not run in shadow: nothing is known of it"])
        accepted = self._settings.risk.alert_budget
        budget = {level: float(getattr(accepted, level)) for level in LEVELS}
        return judge(figures, budget, self._settings.lifecycle.min_agent_days)

    async def promote(self, version: str, by: str, why: str, *, force: bool = False) -> None:
        """Order that *version* comes into force; it does where the pipeline meets the command.

        Args:
            by: who orders it, for the history.
            why: needed with *force*, which overrules the figures.

        Raises:
            NoSuchModel: it is not known.
            NotPromoted: it can not come into force, or its figures do not allow it and nobody forces it.
            Unavailable: store or log do not answer; the order may be given again.
        """
        await asyncio.to_thread(self._adopt_from_shelf, version)
        judged = await asyncio.to_thread(self.judgement, version)
        if judged.reasons and not force:
            raise NotPromoted(judged.reasons)
        if force and not why.strip():
            raise NotPromoted(["a promotion against the figures needs a reason"])
        detail = {"forced": bool(judged.reasons), "gains": judged.gains, "against": judged.reasons}
        await self._order(version, "promoted", by, why or "; ".join(judged.gains), detail)

    async def rollback(self, by: str, why: str) -> str:
        """Order that the version that was in force before comes back; returns its name. Raises as `promote`."""
        before = await asyncio.to_thread(self._before)
        await self._order(before, "rolled_back", by, why, {"instead_of": self.version})
        return before

    def _before(self) -> str:
        switches = self._store.model_switches()
        current = switches[0].version if switches else self.version
        for one in switches:
            if one.version != current:
                return one.version
        raise NotPromoted(["no other version was in force before: there is nothing to roll back to"])

    def _adopt_from_shelf(self, version: str) -> None:
        """A version that somebody put on the shelf (trained elsewhere) becomes a challenger like any other."""
        if self._store.model(version) is not None:
            return
        for kept in self._shelf.versions():
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
                self._store.add_model(made, ModelEntry(self._new_id(), now_ms, version, "trained", "operator", "found"))
                return

    async def _order(self, version: str, act: Act, by: str, why: str, detail: dict[str, object]) -> None:
        digest = await asyncio.to_thread(self._fit, version)
        entry = ModelEntry(self._new_id(), self._now_ms(), version, act, by, why, detail)
        await asyncio.to_thread(self._store.change_models, [], [entry])
        await self._announce(switch_command(SwitchModel(version, digest, by, why)))

    def _fit(self, version: str) -> str:
        """Digest of a version that can come into force. Raises NotPromoted where it can not."""
        found = self._known(version)
        if version == self.version:
            raise NotPromoted([f"{version!r} is in force already"])
        try:
            model = self._shelf.load(version, found.digest)
        except ModelError as error:
            raise NotPromoted([str(error)]) from None
        if model.salt.hex() != self._salt():
            raise NotPromoted(
                [
                    f"{version!r} was trained with another salt: what is known of agents could not be carried over; "
                    "train with --salt of the model in force, or put it in `model_dir` and restart, which begins anew"
                ]
            )
        return found.digest

    def _salt(self) -> str:
        for one in (self.version, self._shelf.installed().version):
            known = self._store.model(one)
            try:
                return peek(self._shelf.find(one, None if known is None else known.digest))[0].salt_hex
            except ModelError:
                continue
        raise NotPromoted(["the model in force is not on the shelf: restore it first"])

    async def train(self, by: str, why: str) -> None:
        """Order a training; the next keeper does it if this one dies. Raises NotPromoted (none runs), Unavailable."""
        if not self._settings.lifecycle.enabled:
            raise NotPromoted(["no keeper runs here (`lifecycle.enabled` is false); use `trustwatch train`"])
        wish = msgspec.json.encode({"id": self._new_id(), "by": by, "why": why, "at_ms": self._now_ms()}).decode()
        await asyncio.to_thread(self._store.set_meta, TRAINING_WISH, wish)
