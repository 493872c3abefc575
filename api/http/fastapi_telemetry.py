"""FastAPI's own telemetry, which is off: what a collector gets is ours to say (`traced_path.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # versions before it ignore the argument
    from fastapi.telemetry import TelemetryConfig

FASTAPI_TELEMETRY_OFF: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""Else paths and queries of requests and messages of errors, with agents' names in them, go to whatever collector the
environment names, and to whatever provider another library of the process has set."""
