"""Structured logs on stderr: JSON lines, or plain text on a terminal. Tracebacks never show local variables."""

from __future__ import annotations

import logging
import sys

import structlog

from ..ingest.printable_text import escaped_text


def configure_structured_logs(level: int = logging.INFO) -> None:
    """Send everything that this process logs to stderr."""
    renderer: structlog.types.Processor
    shown: list[structlog.types.Processor] = []
    if sys.stderr.isatty():
        shown = [_escape_values]
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *shown,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _escape_values(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Have a terminal show what names hold, and obey none of it. Values that are no text are shown by `repr`."""
    return {name: _escape(name, value) if isinstance(value, str) else value for name, value in event.items()}


def _escape(name: str, text: str) -> str:
    """One line, but for tracebacks."""
    if name not in ("exception", "stack"):
        return escaped_text(text)
    return "\n".join(map(escaped_text, text.split("\n")))
