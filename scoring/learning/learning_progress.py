"""Progress towards the first training: how much history a service without a model has, and how much it needs."""

from __future__ import annotations

from typing import NamedTuple

from trustwatch.ingest.timestamps import DAY_MS

from ..records.agents import HistoryExtent


class LearningProgress(NamedTuple):
    """History that there is, and that is needed.

    Attributes:
        events: that counted for agents, ever.
        days: between the first and the last of them, by their own time, without a twentieth at each end.
        needed_events, needed_days: both are needed.
        over_budget: version that was trained and breaks the alert budget on its own history; "" = there is none.
        held: a person went back to learning, so that nothing is trained before somebody orders it.
    """

    events: int
    days: float
    needed_events: int
    needed_days: float
    over_budget: str = ""
    held: bool = False

    @property
    def is_enough(self) -> bool:
        """True if a first model can be trained."""
        return self.events >= self.needed_events and self.days >= self.needed_days

    def describe(self) -> str:
        """Two sentences for people."""
        if self.held:
            return "Somebody went back to learning. Promote a version, or train another one, to end that."
        if self.over_budget:
            return (
                f"The service learns: it trained {self.over_budget}, which breaks the alert budget on its own history. "
                "It trains again with more history, or a person promotes that one."
            )
        has = f"{self.events:,} of {self.needed_events:,} events, and {self.days:.1f} of {self.needed_days:g} days"
        then = (
            "The first model is trained now, or next" if self.is_enough else "Until it has both, every agent is unknown"
        )
        return f"The service learns: it has {has}. {then}."


def learning_progress(
    extent: HistoryExtent, needed_events: int, needed_days: float, over_budget: str = "", *, held: bool = False
) -> LearningProgress:
    """Progress of a store with this *extent*; the rest as in `LearningProgress`."""
    days = max(extent.last_ms - extent.first_ms, 0) / DAY_MS
    return LearningProgress(extent.events, days, needed_events, needed_days, over_budget, held)
