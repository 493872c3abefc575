"""Keys of the store's meta table by which people and the keeper talk about training. Each has one writer."""

from __future__ import annotations

import msgspec

TRAINING_WISH = "lifecycle.train"
"""Written by who orders: the newest wish as JSON (`id`, `by`, `why`, `at_ms`)."""
LAST_TRAINING = "lifecycle.trained_ms"
"""Written by the keeper: when a training was begun last, UTC milliseconds."""
TRAINING_WORK = "lifecycle.training"
"""Written by the keeper: `TrainingWork` as JSON."""


class TrainingWork(msgspec.Struct, frozen=True):
    """What the keeper trains, or trained last. A keeper that finds it not ended goes on with it: the one before died.

    `wish` is the last wish that was taken on, as it was written; one that reads otherwise is a new one.
    """

    wish: str = ""
    version: str = ""
    by: str = ""
    why: str = ""
    at_ms: int = 0
    tries: int = 0  # begun so often without a word of how it ended
    ended: bool = True


def work_from(stored: str | None) -> TrainingWork:
    """What was stored; nothing before the first."""
    return msgspec.json.decode(stored, type=TrainingWork) if stored else TrainingWork()


def work_text(work: TrainingWork) -> str:
    """For the store."""
    return msgspec.json.encode(work).decode()
