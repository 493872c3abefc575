"""What was told last about whom, so that a retried alert never undoes a newer one.

For receivers that keep state: an incident that is triggered again after it was resolved would stay open. It is memory
of this process alone; after a restart the first alert about an agent is taken as the newest.
"""

from __future__ import annotations

from collections import OrderedDict

from .facts import Facts

KEPT = 10_000
"""Agents that are remembered per process; beyond them the ones told least recently are forgotten."""


class Newest:
    """Times of the newest change that was delivered, by target and agent."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._times: OrderedDict[tuple[str, ...], tuple[str, int]] = OrderedDict()

    def is_older(self, target: str, alert: Facts) -> bool:
        """Whether a newer change of the same agent has been delivered to *target*."""
        return alert.kind == "level" and _order(alert) < self._times.get(_key(target, alert), ("", -1))

    def note(self, target: str, alert: Facts) -> None:
        """Remember that *alert* was delivered to *target*."""
        if alert.kind != "level":
            return
        key = _key(target, alert)
        self._times[key] = max(_order(alert), self._times.pop(key, ("", -1)))
        if len(self._times) > self._kept:
            self._times.popitem(last=False)


def _key(target: str, alert: Facts) -> tuple[str, ...]:
    return (target, *alert.identity)


def _order(alert: Facts) -> tuple[str, int]:
    """Time of the decision (all are written alike, in UTC with milliseconds), then its place in the log."""
    version = alert.data.get("version")
    offset = version.get("offset") if isinstance(version, dict) else None
    return alert.time, offset if isinstance(offset, int) else 0
