"""One model after another in a partition: the one it is taken over with, and the switches that are met in its log."""

from __future__ import annotations

from ...ingest.errors import MalformedEvent
from ..records import Position
from ..residence import Residence
from .force import Chosen, ModelsInForce, SwitchModel
from .records import ModelSwitch


class Succession:
    """Which model judges a partition.

    Args:
        residence: resident agents; a switch moves them over to the other model.
        models: versions to switch to; None where there is one model alone.
    """

    def __init__(self, residence: Residence, models: ModelsInForce | None) -> None:
        self._residence = residence
        self._models = models
        self._in_force = ("", "")
        self.switches: list[ModelSwitch] = []
        """Models that came into force since the last commit; the pipeline takes them."""

    def resume(self, last: ModelSwitch | None, position: Position) -> None:
        """Score with what is in force at *position*, behind the switch *last*. Raises ModelError."""
        if self._models is None:
            return
        chosen = self._models.choose(last)
        if (chosen.version, chosen.digest) != self._in_force:
            self._residence.switch(self._models.load(chosen.version, chosen.digest))
            self._in_force = (chosen.version, chosen.digest)
        if chosen.anew or (last is not None and last.partition != position.partition):
            self.switches.append(self._models.switch((position.partition, position.epoch, position.offset), chosen))

    def switch(self, wish: SwitchModel, partition: int, offset: int, at_ms: int) -> None:
        """Another model from the record behind *offset* on, ordered at *at_ms*.

        Raises:
            MalformedEvent: there is one model alone.
            ModelError: as `ModelsInForce.successor`.
        """
        if self._models is None:
            raise MalformedEvent(f"this pipeline can not switch to model {wish.version!r}: it was given one alone")
        if (wish.version, wish.digest) == self._in_force:
            return
        self._residence.switch(self._models.successor(wish, self._residence.engine.model))
        self._in_force = (wish.version, wish.digest)
        self.switches.append(self._models.switch((partition, 0, offset + 1), Chosen(*self._in_force, True), at_ms))
