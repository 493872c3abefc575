"""Climbs: the steps in which one agent rose, put together for people. What is stored and sent stays one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.scoring.records.decisions import Decision

T = TypeVar("T")
MAX_STEP_INTERVAL_MS: Final = HOUR_MS  # Longest time between two steps of one climb


class LevelStep(NamedTuple):
    """A change of an agent's level; *agent* is whatever names it, *at_ms* UTC."""

    agent: object
    before: int
    after: int
    at_ms: int


class Escalation(NamedTuple, Generic[T]):
    """One entry of a list: an item alone, or the steps of one climb, newest first."""

    steps: tuple[T, ...]

    @property
    def newest(self) -> T:
        """What it has come to."""
        return self.steps[0]

    @property
    def oldest(self) -> T:
        """Step with which the escalation began."""
        return self.steps[-1]


def group_escalations(items: Sequence[T], step_of: Callable[[T], LevelStep | None]) -> list[Escalation[T]]:
    """*items* (newest first) with the steps of each climb together, at the place of the newest.

    A climb is rises of one agent, each from the level at which the one before it ended and within
    `MAX_STEP_INTERVAL_MS` of it; what other agents do meanwhile does not end it, a fall of the agent itself does. Of a
    climb that goes on before the oldest item, the steps that are here count. An item of which *step_of* knows no step
    stands alone.
    """
    entries: list[list[T]] = []
    rising: dict[object, tuple[LevelStep, list[T]]] = {}
    for item in items:
        step, entry = step_of(item), list[T]()
        if step is not None:
            later, climb = rising.get(step.agent, (None, entry))
            if later is not None and _leads_to(step, later):
                entry = climb
            rising[step.agent] = step, entry
        if not entry:
            entries.append(entry)
        entry.append(item)
    return [Escalation(tuple(steps)) for steps in entries]


def _leads_to(step: LevelStep, later: LevelStep) -> bool:
    rises = step.before < step.after == later.before < later.after
    return rises and later.at_ms - step.at_ms <= MAX_STEP_INTERVAL_MS


def level_step_of(decision: Decision) -> LevelStep:
    """The step that a decision is."""
    return LevelStep(decision.agent.key, decision.previous_level, decision.level, decision.event_time_ms)
