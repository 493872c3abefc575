"""Events that a model has learned from already: they are in the state that it gives its agents.

A history that warms up is often the one that the model was trained on. Its events, applied once more, would make every
agent look twice as busy and twice as well known.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from trustwatch.ingest.timestamps import EPOCH


def history_end(last_ms: int) -> datetime:
    """The first time of which a model knows nothing, whose last event was at *last_ms*."""
    return EPOCH + timedelta(milliseconds=last_ms + 1)


def first_applied(last_ms: int, since: datetime | None, after: datetime | None) -> datetime | None:
    """Time from which events are applied: nothing warms up that the model has learned from.

    Args:
        last_ms: time of the last event of the model's history, UTC milliseconds.
        since: events from then on are looked at, and all of them applied; None = all events are.
        after: what happened before it is left out in any case; None = nothing is.
    """
    if since is None:
        return after
    model_end = min(history_end(last_ms), since)
    return model_end if after is None else max(after, model_end)


def overlap_warning(version: str, last_ms: int, first: datetime | None) -> str | None:
    """Advice where a model is judged by events that it has learned from; *first* is the first that is looked at."""
    end = history_end(last_ms)
    if first is None or first >= end:
        return None
    return (
        f"model {version} learned from events up to {end:%Y-%m-%d %H:%M:%S}, some of which are looked at here: that is "
        "no test on new events, and they are applied to its state a second time; give --from "
        f"{end + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}, or a model trained with --to {first:%Y-%m-%dT%H:%M:%S}"
    )
