"""The archive: what the slice adds to the application."""

from __future__ import annotations

import math

from ..http.prometheus_metrics import MetricValues
from ..http.slice import ServiceRegistry, Slice
from .archive_status import ArchiveStatus


def _metric_values(services: ServiceRegistry) -> MetricValues:
    archive = services.find(ArchiveStatus)
    if archive is None:
        return {}
    report = archive.reports.get("events")
    if report is None:
        return {"trustwatch_archive_lag_seconds": {}}
    return {"trustwatch_archive_lag_seconds": {(): report.lag_s if archive.alive.get("events") else math.inf}}


SLICE = Slice("archive", metrics=_metric_values)
