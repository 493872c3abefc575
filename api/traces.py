"""Opens what makes spans, where the settings name a collector: else OpenTelemetry is not even imported."""

from __future__ import annotations

import uuid
from pathlib import Path

from trustwatch.ingest.spans import RecordedSpans

from .settings.service_settings import TraceSettings


def open_spans(settings: TraceSettings, role: str, ca_file: Path | None = None) -> RecordedSpans | None:
    """Spans of this process; None where nothing is traced. Close them at its end.

    Args:
        settings: of traces.
        role: what this process does: `service`, or the name of the work of a process beside it.
        ca_file: `outgoing.ca_file` of the settings.
    """
    if settings.endpoint is None:
        return None
    from .opentelemetry_spans import OtlpSpans

    return OtlpSpans(settings, role, uuid.uuid4().hex, ca_file)
