"""Identifiers of proofs that were shown lately to this process, so that none is taken twice."""

from __future__ import annotations

from collections import Counter
from typing import Final

SHARE: Final = 10
"""Part of what is remembered that one holder of tokens may take up: one of so many."""


class ProofWindow:
    """Proofs that were shown, by second and holder.

    Bounded: a holder who shows too many has its own oldest forgotten; where all together are too many, the oldest of
    all are. Proofs as old as those are refused from then on, of that holder or of all. So no proof is ever taken twice;
    under that load clients have less time to show theirs. Nothing is known of proofs from before the process began.
    """

    def __init__(self, max_age_s: float, most: int, began: float) -> None:
        self._max_age_s = max_age_s
        self._most = most
        self._most_of_one = max(1, most // SHARE)
        self._by_second: dict[int, dict[bytes, set[bytes]]] = {}
        self._count = 0
        self._counts: Counter[bytes] = Counter()
        self._floors: dict[bytes, int] = {}
        self._floor = int(began) - 1
        """Second of `iat` up to which every proof is refused; those beside it are of one holder each."""
        self._forgotten = self._floor

    def __len__(self) -> int:
        return self._count

    def remembers(self, holder: bytes, iat: float) -> bool:
        """True if it would be known of a proof of *holder* with that `iat` whether it was shown before."""
        floor = max(self._floor, self._floors.get(holder, self._floor))
        return int(iat) > floor and int(iat) >= self._forgotten  # what is forgotten stays so where a clock is set back

    def add(self, holder: bytes, digest: bytes, iat: float, now: float) -> bool:
        """Remember a proof; False = it was shown before, or is as old as some that were forgotten."""
        self._forget_before(int(now - self._max_age_s) - 1)
        if not self.remembers(holder, iat):
            return False
        shown = self._by_second.setdefault(int(iat), {}).setdefault(holder, set())
        if digest in shown:
            return False
        shown.add(digest)
        self._count += 1
        self._counts[holder] += 1
        while self._counts[holder] > self._most_of_one:
            self._floors[holder] = min(second for second, shown in self._by_second.items() if holder in shown)
            self._drop(self._floors[holder], holder)
        while self._count > self._most:
            self._floor = min(self._by_second)
            self._drop_all(self._floor)
        return True

    def _forget_before(self, second: int) -> None:
        """Forget what is too old to be shown, once a second."""
        if second <= self._forgotten:
            return
        self._forgotten = second
        for old in [known for known in self._by_second if known < second]:
            self._drop_all(old)
        self._floors = {holder: floor for holder, floor in self._floors.items() if floor >= second}

    def _drop_all(self, second: int) -> None:
        for holder in list(self._by_second[second]):
            self._drop(second, holder)

    def _drop(self, second: int, holder: bytes) -> None:
        shown = self._by_second[second]
        dropped = len(shown.pop(holder))
        self._count -= dropped
        self._counts[holder] -= dropped
        if not self._counts[holder]:
            del self._counts[holder]
        if not shown:
            del self._by_second[second]
