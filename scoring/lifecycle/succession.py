"""One model after another in a partition: the one it is taken over with, and the switches that are met in its log."""

from __future__ import annotations

from ...ingest.errors import MalformedEvent
from ..records import Position
from ..residence import AgentStateCache
from .force import ActiveModels, ModelChoice, SwitchModel
from .records import ModelSwitch


class ModelSwitcher:
    """Which model judges a partition.

    Args:
        residence: resident agents; a switch moves them over to the other model.
        models: versions to switch to; None where there is one model alone.
    """

    def __init__(self, residence: AgentStateCache, models: ActiveModels | None) -> None:
        self._agent_cache = residence
        self._models = models
        self._active = ("", "")
        self.pending_switches: list[ModelSwitch] = []
        """Models that came into force since the last commit; the pipeline takes them."""

    def resume(self, last: ModelSwitch | None, position: Position) -> None:
        """Score with what is in force at *position*, behind the switch *last*. Raises ModelError."""
        if self._models is None:
            return
        chosen = self._models.choose(last)
        if (chosen.version, chosen.digest) != self._active:
            self._agent_cache.switch_model(self._models.load(chosen.version, chosen.digest))
            self._active = (chosen.version, chosen.digest)
        if chosen.newly_active or (last is not None and last.partition != position.partition):
            self.pending_switches.append(
                self._models.switch_record((position.partition, position.epoch, position.offset), chosen)
            )

    def switch(self, wish: SwitchModel, partition: int, offset: int, at_ms: int) -> None:
        """Another model from the record behind *offset* on, ordered at *at_ms*.

        Raises:
            MalformedEvent: there is one model alone.
            ModelError: as `ActiveModels.load_next`.
        """
        if self._models is None:
            raise MalformedEvent(f"this pipeline can not switch to model {wish.version!r}: it was given one alone")
        if (wish.version, wish.digest) == self._active:
            return
        self._agent_cache.switch_model(self._models.load_next(wish, self._agent_cache.engine.model))
        self._active = (wish.version, wish.digest)
        self.pending_switches.append(
            self._models.switch_record((partition, 0, offset + 1), ModelChoice(*self._active, True), at_ms)
        )
