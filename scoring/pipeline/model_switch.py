"""Choice of the model that judges a partition: the newest switch's, unless the operator installed another since."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trustwatch.ingest.errors import MalformedEvent, ModelError
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.models.trained_model import TrainedModel

from ..engine.engine import Engine
from ..records.commits import Position
from ..records.models import ModelSwitch, SwitchModel

MAX_CACHED_MODELS = 2
"""Models that stay in memory for other partitions: the one before a switch, and the one after it."""


class ModelChoice(NamedTuple):
    """A version, and whether it becomes active when the partition is taken over."""

    version: str
    digest: str
    newly_active: bool


class ActiveModels:
    """Chooses and loads models for the partitions of one worker. Raises ModelError, OSError."""

    def __init__(self, registry: ModelRegistry, now_ms: Callable[[], int]) -> None:
        self._registry = registry
        self._now_ms = now_ms
        self._installed = registry.register_installed()
        self._loaded: dict[str, TrainedModel] = {}

    def choose(self, last: ModelSwitch | None) -> ModelChoice:
        """Choose the active model after the switch *last*; None if there never was a switch."""
        if last is None or last.installed != self._installed.digest:
            return ModelChoice(self._installed.version, self._installed.digest, True)
        return ModelChoice(last.version, last.digest, False)

    def load(self, version: str, digest: str) -> TrainedModel:
        """Read a version. Raises ModelError."""
        model = self._loaded.pop(digest, None) or self._registry.load(version, digest)
        self._loaded[digest] = model
        while len(self._loaded) > MAX_CACHED_MODELS:
            del self._loaded[next(iter(self._loaded))]
        return model

    def switch_record(
        self, position: tuple[int, int, int], chosen: ModelChoice, at_ms: int | None = None
    ) -> ModelSwitch:
        """Return the row of a switch at (partition, epoch, offset); without *at_ms*, now."""
        at = self._now_ms() if at_ms is None else at_ms
        return ModelSwitch(*position, chosen.version, chosen.digest, self._installed.digest, at)


class ModelSwitcher:
    """Switches between the models that judge a partition."""

    def __init__(self, engine: Engine, models: ActiveModels | None) -> None:
        self._engine = engine
        self._models = models
        self._active = ("", "")
        self.pending_switches: list[ModelSwitch] = []
        """Models that became active since the last commit; the pipeline takes them."""

    def resume(self, last: ModelSwitch | None, position: Position) -> None:
        """Score with the model that is active at *position*, after the switch *last*. Raises ModelError."""
        if self._models is None:
            return
        chosen = self._models.choose(last)
        if (chosen.version, chosen.digest) != self._active:
            self._engine.use_model(self._models.load(chosen.version, chosen.digest))
            self._active = (chosen.version, chosen.digest)
        if chosen.newly_active or (last is not None and last.partition != position.partition):
            self.pending_switches.append(
                self._models.switch_record((position.partition, position.epoch, position.offset), chosen)
            )

    def switch(self, command: SwitchModel, partition: int, offset: int, at_ms: int) -> None:
        """Use another model from the record after *offset* on, ordered at *at_ms*.

        Raises MalformedEvent, ModelError.
        """
        if self._models is None:
            raise MalformedEvent(
                f"this pipeline cannot switch to model {command.version!r}: it was given one model only"
            )
        if (command.version, command.digest) == self._active:
            return
        successor, model = self._models.load(command.version, command.digest), self._engine.model
        if successor.salt != model.salt:
            raise ModelError(
                f"model {command.version!r} has another salt than {model.version!r}: what is known of agents could not "
                "be carried over; it should not have been promoted"
            )
        self._engine.use_model(successor)
        self._active = (command.version, command.digest)
        switch = self._models.switch_record((partition, 0, offset + 1), ModelChoice(*self._active, True), at_ms)
        self.pending_switches.append(switch)
