"""Thread-safe named counters."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Counters:
    """Counts by name, from any thread; they start at 0 and never fall."""

    def __init__(self, *names: str) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))

    def increment(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def as_dict(self) -> Mapping[str, int]:
        """A copy."""
        with self._lock:
            return dict(self._counts)


class Counted:
    """Base of what counts."""

    _counters: Counters

    def counts(self) -> Mapping[str, int]:
        """Counters by name; docs/client.md lists them."""
        return self._counters.as_dict()
