"""Spans: pieces of work with their time and what is known of them, for whoever follows traces.

Who makes them knows nothing of where they go. Nobody records them unless the settings name a collector; then
`api/opentelemetry_spans.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol

SpanValue = str | bool | int | float | list[int]
SpanKind = Literal["internal", "server", "client"]


class Span(Protocol):
    """One piece of work under way."""

    @property
    def recorded(self) -> bool:
        """True if somebody will read it: else nothing need be gathered for it."""

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        """Add what is known of the work: never names of agents, tokens, or texts of others."""

    def rename(self, name: str) -> None:
        """Call the work by what it turned out to be."""

    def mark_failed(self, error: str) -> None:
        """Say that the work failed: by the kind of error, not its message, which may hold names."""


class Spans(Protocol):
    """Makes spans. Safe to use from several threads; never waits."""

    def span(self, name: str, kind: SpanKind = "internal") -> AbstractContextManager[Span]:
        """A span of the block, below the span around it."""

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        """Add to the span around what calls."""


class RecordedSpans(Spans, Protocol):
    """Spans of a process that somebody gets."""

    @property
    def dropped(self) -> int:
        """Spans that nobody got."""

    def request_span(self, name: str, traceparent: str) -> AbstractContextManager[Span]:
        """The span of a request, below that of its caller; *traceparent* as W3C Trace Context has it, "" = none."""

    def close(self) -> None:
        """Send what waits, for a moment at most."""


class _Unrecorded:
    """Span that nobody records."""

    recorded = False

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        """Nothing."""

    def rename(self, name: str) -> None:
        """Nothing."""

    def mark_failed(self, error: str) -> None:
        """Nothing."""

    def __enter__(self) -> _Unrecorded:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


_UNRECORDED: Final = _Unrecorded()


class NoSpans:
    """`Spans` where nothing is traced."""

    def span(self, name: str, kind: SpanKind = "internal") -> AbstractContextManager[Span]:  # noqa: ARG002
        """A span that nobody records; always the same."""
        return _UNRECORDED

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        """Nothing."""


UNTRACED: Final = NoSpans()
