"""Keys of the store's meta table by which people and the model worker talk about training. Each has one writer."""

from __future__ import annotations

import msgspec

TRAINING_REQUEST_KEY = "lifecycle.train"
"""Written by who orders: the newest request as JSON (`id`, `by`, `why`, `at_ms`)."""
LAST_TRAINING_KEY = "lifecycle.trained_ms"
"""Written by the model worker: when a training was begun last, UTC milliseconds."""
TRAINING_STATE_KEY = "lifecycle.training"
"""Written by the model worker: `TrainingState` as JSON."""


class TrainingState(msgspec.Struct, frozen=True):
    """The training that goes on, or the last one.

    A model worker that finds it not ended goes on with it: the one before died.

    `request` is the last one that was taken on, as it was written; one that reads otherwise is a new one. It is stored
    as `wish`, its name in stores that are there.
    """

    request: str = msgspec.field(default="", name="wish")
    version: str = ""
    by: str = ""
    why: str = ""
    at_ms: int = 0
    tries: int = 0  # begun so often without a word of how it ended
    ended: bool = True


def decode_training_state(stored: str | None) -> TrainingState:
    """Decode the stored state; the empty one before the first training."""
    return msgspec.json.decode(stored, type=TrainingState) if stored else TrainingState()


def encode_training_state(state: TrainingState) -> str:
    """Encode the state for the store."""
    return msgspec.json.encode(state).decode()
