"""Reads what the agents note, as they note it, and Trustwatch's decisions; tells both to whoever listens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ActivityEntry = dict[str, Any]
INTERVAL_S = 0.1


class ActivityFeed:
    """Follows logs and decisions in a thread of its own.

    Args:
        logs: of the agents.
        decisions: gives Trustwatch's decisions, newest first.
        tell: called with each fact, in order of appearance.

    Attributes:
        facts: all of them so far. A decision has `what` = "decision".
    """

    def __init__(
        self, logs: list[Path], decisions: Callable[[], list[ActivityEntry]], tell: Callable[[ActivityEntry], None]
    ) -> None:
        self.facts: list[ActivityEntry] = []
        self._read = dict.fromkeys(logs, 0)
        self._decisions, self._tell = decisions, tell
        self._known: set[str] = set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="diaries")

    def __enter__(self) -> ActivityFeed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def read_new(self) -> None:
        """Take in what is new, now."""
        with self._lock:
            for path in self._read:
                for line in self._new_lines(path):
                    self._note(json.loads(line))
            for decision in reversed(self._decisions()):
                if decision["decision_id"] not in self._known:
                    self._known.add(decision["decision_id"])
                    self._note({"what": "decision", **decision})

    def entries_of(self, agent: str, what: str, since: int = 0) -> list[ActivityEntry]:
        """What one agent noted, from the fact number *since* on."""
        return [one for one in self.facts[since:] if one["what"] == what and one.get("agent") == agent]

    def note(self, agent: str, what: str, **facts: Any) -> None:
        """What the front desk notes, which has no process of its own."""
        self._note({"agent": agent, "what": what, **facts})

    def _note(self, fact: ActivityEntry) -> None:
        self.facts.append(fact)
        self._tell(fact)

    def _new_lines(self, path: Path) -> list[bytes]:
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read[path])
            whole, _, _ = file.read().rpartition(b"\n")
        if whole:
            self._read[path] += len(whole) + 1
        return [line for line in whole.splitlines() if line.startswith(b"{")]

    def _follow(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self.read_new()
