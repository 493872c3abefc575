"""Tokens already judged. A signature check costs about 120 us, a look-up here about one.

Verified and refused tokens are kept apart, so that a flood of garbage pushes out garbage alone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from .errors import InvalidToken

CachedCaller = TypeVar("CachedCaller")


class TokenCache(Generic[CachedCaller]):
    """Two bounded maps from token digest to judgement, least recently used out first. For one thread.

    Args:
        verified: how many accepted tokens are kept.
        refused: how many refused tokens are kept.
        refused_s: how long a refusal counts.
    """

    def __init__(self, verified: int, refused: int, refused_s: float) -> None:
        self._verified: OrderedDict[bytes, tuple[CachedCaller, float, str]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._max_verified = verified
        self._max_refused = refused
        self._refused_s = refused_s

    def __len__(self) -> int:
        return len(self._verified)

    @property
    def refusals(self) -> int:
        """How many refusals are kept."""
        return len(self._refused)

    def get(self, digest: bytes, now: float) -> CachedCaller | None:
        """The holder of a token verified earlier, or None.

        Raises:
            InvalidToken: the token was refused a moment ago.
        """
        found = self._verified.get(digest)
        if found is not None:
            if now < found[1]:
                self._verified.move_to_end(digest)
                return found[0]
            del self._verified[digest]
        elif digest in self._refused:
            self._raise_if_refused(digest, now)
        return None

    def _raise_if_refused(self, digest: bytes, now: float) -> None:
        reason, until = self._refused[digest]
        if now < until:
            raise InvalidToken(reason)
        del self._refused[digest]

    def accept(self, digest: bytes, holder: CachedCaller, until: float, issuer: str) -> None:
        """Remember *holder* until *until*, or until the keys of *issuer* change."""
        self._verified[digest] = (holder, until, issuer)
        if len(self._verified) > self._max_verified:
            self._verified.popitem(last=False)

    def refuse(self, digest: bytes, error: InvalidToken, now: float) -> None:
        """Remember that the token was refused, unless it may be accepted a moment later."""
        if not error.lasting or not self._refused_s:
            return
        self._refused[digest] = (error.reason, now + self._refused_s)
        if len(self._refused) > self._max_refused:
            self._refused.popitem(last=False)

    def forget_issuer(self, issuer: str) -> None:
        """Drop what was judged with keys of *issuer* that are no longer current, and every refusal."""
        stale = [digest for digest, (_, _, by) in self._verified.items() if by == issuer]
        for digest in stale:
            del self._verified[digest]
        self._refused.clear()
