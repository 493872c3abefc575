"""The archive: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Iterable

from ..http.prometheus_metrics import LabelledValues, MetricValues
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from .archive_status import ArchiveStatus


def _metric_values(services: ServiceRegistry) -> MetricValues:
    archive = services.find(ArchiveStatus)
    if archive is None:
        return {}
    reports = archive.reports.items()
    events = [report for kind, report in reports if kind == "events"]
    vectors = [report for kind, report in reports if kind == "vectors"]
    return {
        "trustwatch_archive_alive": {(kind,): float(alive) for kind, alive in archive.alive.items()},
        "trustwatch_archive_rows_total": {(kind,): report.rows for kind, report in reports},
        "trustwatch_archive_files_total": {(kind,): report.files for kind, report in reports},
        "trustwatch_archive_merged_files_total": {(kind,): report.merged for kind, report in reports},
        "trustwatch_archive_behind": _last_unlabelled(report.behind for report in events),
        "trustwatch_archive_lag_seconds": _last_unlabelled(report.lag_s for report in events),
        "trustwatch_archive_spool_bytes": _last_unlabelled(report.waiting_bytes for report in vectors),
    }


def _last_unlabelled(values: Iterable[float]) -> LabelledValues:
    """The last of *values*, without a label; nothing where there is none."""
    last = list(values)[-1:]
    return {(): last[0]} if last else {}


SLICE = Slice("archive", metrics=_metric_values)
