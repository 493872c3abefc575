"""Events as Parquet files, for analysts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .about import Part, about


class ArchiveSettings(Part, frozen=True):
    """Where and for how long events are kept as files. Needs the extra `archive`; on the embedded log alone."""

    directory: Annotated[Path | None, about("where the archive is; null keeps none")] = None
    retention_days: Annotated[int, about("dates older than this are removed, days", ge=1, le=36_500)] = 365
    interval_s: Annotated[
        float, about("events are in the archive after at most about this long, s; shorter makes more files", gt=0)
    ] = 300.0
