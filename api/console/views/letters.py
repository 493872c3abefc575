"""Dead letters for people: grouped by who sent them and what was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ....scoring.store import StoredDeadLetter


class DeadLetterGroup(NamedTuple):
    """Letters of one source with one reason.

    Attributes:
        waiting: those that were not sent in again.
        newest_ms: when the last one came.
    """

    source: str
    reason: str
    letters: int
    waiting: int
    newest_ms: int


def group_dead_letters(letters: Sequence[StoredDeadLetter]) -> list[DeadLetterGroup]:
    """*letters* by source and reason, the largest group first."""
    found: dict[tuple[str, str], list[StoredDeadLetter]] = {}
    for stored in letters:
        found.setdefault((stored.letter.source, stored.letter.reason), []).append(stored)
    groups = [
        DeadLetterGroup(
            source,
            reason,
            len(mine),
            sum(not one.replayed_ms for one in mine),
            max(one.letter.received_ms for one in mine),
        )
        for (source, reason), mine in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.letters, group.source, group.reason))


def filter_dead_letters(letters: Sequence[StoredDeadLetter], source: str, reason: str) -> list[StoredDeadLetter]:
    """Those of that source and reason; "" = any."""
    return [one for one in letters if source in ("", one.letter.source) and reason in ("", one.letter.reason)]
