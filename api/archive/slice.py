"""The archive: what the slice adds to the application."""

from __future__ import annotations

from ..http.prometheus_metrics import MetricValues
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from .archive_status import ArchiveStatus


def _metric_values(services: ServiceRegistry) -> MetricValues:
    archive = services.find(ArchiveStatus)
    if archive is None:
        return {}
    report = archive.reports.get("events")
    return {"trustwatch_archive_lag_seconds": {} if report is None else {(): report.lag_s}}


SLICE = Slice("archive", metrics=_metric_values)
