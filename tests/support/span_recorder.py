"""Spans that stay where they were made, for tests of who makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from trustwatch.ingest.spans import SpanKind, SpanValue


class KeptSpan:
    """One span."""

    recorded = True

    def __init__(self, name: str, kind: str, parent: KeptSpan | None) -> None:
        self.name = name
        self.kind = kind
        self.parent = parent
        self.attributes: dict[str, SpanValue] = {}
        self.error = ""

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        self.attributes.update(attributes)

    def rename(self, name: str) -> None:
        self.name = name

    def mark_failed(self, error: str) -> None:
        self.error = error


class SpanRecorder:
    """`RecordedSpans` that keeps all spans in the order of their beginnings."""

    dropped = 0

    def __init__(self) -> None:
        self.spans: list[KeptSpan] = []
        self._current: ContextVar[KeptSpan | None] = ContextVar("current", default=None)

    @contextmanager
    def span(self, name: str, kind: SpanKind = "internal") -> Iterator[KeptSpan]:
        made = KeptSpan(name, kind, self._current.get())
        self.spans.append(made)
        token = self._current.set(made)
        try:
            yield made
        finally:
            self._current.reset(token)

    @contextmanager
    def request_span(self, name: str, traceparent: str) -> Iterator[KeptSpan]:
        with self.span(name, "server") as made:
            made.note({"traceparent": traceparent})
            yield made

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        if (current := self._current.get()) is not None:
            current.note(attributes)

    def close(self) -> None:
        """Nothing."""

    def named(self, name: str) -> list[KeptSpan]:
        return [span for span in self.spans if span.name == name]
