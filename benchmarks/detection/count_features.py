"""Plain features for the detectors of other libraries: counts per session, one-hot per event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Event = dict[str, Any]
_MOST = 200
"""Different actions and kinds that get a column of their own; the rest share one."""


def _traits(event: Event) -> list[str]:
    """What an event is, as words that can be counted."""
    kind = (event.get("resource") or {}).get("type") or "none"
    return [
        f"action {event['action']}",
        f"effect {event.get('effect')}",
        f"outcome {event.get('outcome')}",
        f"resource {kind}",
        f"type {event['agent'].get('type')}",
    ]


class Vocabulary:
    """The words of a history; words that it does not hold share one column."""

    def __init__(self, events: list[Event]) -> None:
        common = Counter(word for event in events for word in _traits(event)).most_common(_MOST)
        self._column = {word: at for at, (word, _) in enumerate(common)}
        self.width = len(common) + 1

    def rows(self, events: list[Event]) -> NDArray[np.float64]:
        """Counts of the words of each event, (n, width)."""
        out = np.zeros((len(events), self.width))
        for row, event in enumerate(events):
            for word in _traits(event):
                out[row, self._column.get(word, self.width - 1)] += 1.0
        return out


def by_event(train: list[Event]) -> Callable[[list[Event]], tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """A function from events to one-hot rows, and the row of each event."""
    words = Vocabulary(train)
    return lambda events: (words.rows(events), np.arange(len(events)))


def by_session(train: list[Event]) -> Callable[[list[Event]], tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """A function from events to rows of counts per session, and the row of each event."""
    words = Vocabulary(train)

    def table(events: list[Event]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        at = session_rows(events)
        number = int(at.max()) + 1
        counted, sizes = np.zeros((number, words.width)), np.zeros((number, 4))
        np.add.at(counted, at, words.rows(events))
        distinct: list[set[str]] = [set() for _ in range(number)]
        for row, event in zip(at, events, strict=True):
            distinct[row].add(str((event.get("resource") or {}).get("id")))
            sizes[row, :3] += 1.0, event.get("bytes_in") or 0.0, event.get("bytes_out") or 0.0
        sizes[:, 3] = [len(names) for names in distinct]
        return np.concatenate([counted, np.log1p(sizes)], axis=1), at

    return table


def session_rows(events: list[Event]) -> NDArray[np.int64]:
    """Number of each event's session in order of appearance, (n,)."""
    number: dict[tuple[str, str], int] = {}
    return np.array([number.setdefault((e["agent"]["id"], e["session"]), len(number)) for e in events])
