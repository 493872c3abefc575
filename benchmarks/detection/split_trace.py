"""Parts of a set by assistant (agent type): the history does not know the judged one; others are for choosing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .traces import Trace

MIN_UNITS = 20
"""Bad and good units that an assistant's test part must have of each, to be judged by itself."""


class LeftOut(NamedTuple):
    """An assistant left out. Attributes:

    judged: the history without the assistant, and its test part alone.
    others: the same history, and the test part of all other assistants.
    """

    assistant: str
    judged: Trace
    others: Trace


def leave_assistants_out(trace: Trace) -> list[LeftOut]:
    """Each assistant of a set left out; none where there are fewer than two that can be judged."""
    found = [_leave_out(trace, assistant) for assistant in sorted({_assistant(event) for event in trace.test_events})]
    usable = [one for one in found if _judgeable(one.judged)]
    return usable if len(usable) > 1 else []


def split_test_part(trace: Trace) -> list[tuple[str, Trace, NDArray[np.int64]]]:
    """Assistants of a set that can be judged: name, the set with the test part of that one alone and the whole history,
    and the rows of that part."""
    found = []
    for assistant in sorted({_assistant(event) for event in trace.test_events}):
        rows = [row for row, event in enumerate(trace.test_events) if _assistant(event) == assistant]
        part = Trace(trace.name, trace.train, [trace.test[row] for row in rows], [trace.labels[row] for row in rows])
        if _judgeable(part):
            found.append((assistant, part, np.array(rows)))
    return found


def _assistant(event: dict[str, Any]) -> str:
    return str(event["agent"].get("type"))


def _leave_out(trace: Trace, assistant: str) -> LeftOut:
    history = [
        line for line, event in zip(trace.train, trace.train_events, strict=True) if _assistant(event) != assistant
    ]
    return LeftOut(
        assistant,
        _test_part(trace, history, lambda event: _assistant(event) == assistant),
        _test_part(trace, history, lambda event: _assistant(event) != assistant),
    )


def _test_part(trace: Trace, history: list[bytes], wanted: Callable[[dict[str, Any]], bool]) -> Trace:
    rows = [row for row, event in enumerate(trace.test_events) if wanted(event)]
    return Trace(trace.name, history, [trace.test[row] for row in rows], [trace.labels[row] for row in rows])


def _judgeable(trace: Trace) -> bool:
    if not trace.train or not trace.labels:
        return False
    bad = trace.units.bad
    return bool(min(np.sum(bad), np.sum(~bad)) >= MIN_UNITS)
