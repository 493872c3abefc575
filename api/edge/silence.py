"""Notices sources that have fallen silent: an attacker that cuts off the audit trail must not look like a quiet day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import structlog

from .reports import SilenceReport

_log = structlog.get_logger(__name__)


class _SourceSilence:
    def __init__(self, silence_s: float, now: float) -> None:
        self.silence_s = silence_s
        self.quiet_since = now
        self.last_ms = 0
        self.silent = False


class SilenceDetector:
    """Watches the sources that have a bound. After the start each has that long to be heard.

    Args:
        bounds: seconds of silence that are noticed, by name of the source.
        now: seconds on the clock that later calls use; one that never goes back.
    """

    def __init__(self, bounds: Mapping[str, float], now: float) -> None:
        self._sources = {name: _SourceSilence(silence_s, now) for name, silence_s in bounds.items()}

    def note_received(self, name: str, now: float, now_ms: int) -> None:
        """Something came from that source, be it good or bad."""
        source = self._sources.get(name)
        if source is None:
            return
        source.quiet_since, source.last_ms = now, now_ms
        if source.silent:
            source.silent = False
            _log.info("source is heard again", code="source_heard", source=name)

    def note_unreadable(self, name: str, now: float) -> None:
        """That source can not be heard now (its topic is not read): its silence says nothing, and starts anew."""
        source = self._sources.get(name)
        if source is not None and not source.silent:
            source.quiet_since = now

    def check(self, now: float) -> None:
        """Notice who has fallen silent; each is logged once."""
        for name, source in self._sources.items():
            if not source.silent and now - source.quiet_since >= source.silence_s:
                source.silent = True
                _log.warning(
                    "source has fallen silent",
                    code="source_silent",
                    source=name,
                    silence_s=source.silence_s,
                    last_ms=source.last_ms or None,
                )

    def __iter__(self) -> Iterator[SilenceReport]:
        """Every source that is watched."""
        return (SilenceReport(name, source.silent, source.last_ms) for name, source in self._sources.items())
