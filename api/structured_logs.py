"""Structured logs on stderr: JSON lines, or plain text on a terminal. Tracebacks never show local variables."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from trustwatch.ingest.printable_text import escaped_text

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]


def configure_structured_logs(level: LogLevel = "info", form: LogFormat = "auto") -> None:
    """Send all log lines of this process to stderr."""
    renderer: structlog.types.Processor
    shown: list[structlog.types.Processor] = []
    if form == "text" or (form == "auto" and sys.stderr.isatty()):
        shown = [_escape_values]
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _keep_members,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *shown,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # 2 µs a line: who logged before the settings were read follows them, too
    )


def _keep_members(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Rename members whose names the line itself uses, so that they are not lost."""
    return {f"{name}_told" if name in ("level", "timestamp") else name: value for name, value in event.items()}


def _escape_values(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape control characters for a terminal, each text to one line; tracebacks keep their lines.

    Values that are not text are shown by `repr`.
    """
    escaped = dict(event)
    for name, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if name in ("exception", "stack") else [value]
            escaped[name] = "\n".join(map(escaped_text, lines))
    return escaped
