"""Events as Parquet files, for analysts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .about import SettingsPart, setting


class ArchiveSettings(SettingsPart, frozen=True):
    """Where and for how long events and feature vectors are kept as files. Needs the extra `archive`."""

    directory: Annotated[Path | None, setting("where the archive of events is; null keeps none")] = None
    retention_days: Annotated[
        int, setting("dates older than this are removed, of events and of vectors, days", ge=1, le=36_500)
    ] = 365
    interval_s: Annotated[
        float, setting("events are in the archive after at most about this long, s; shorter makes more files", gt=0)
    ] = 300.0
    merge_after_h: Annotated[
        float, setting("small files of a date are merged so long after its end, hours", ge=0, le=876_000)
    ] = 6.0
    vectors: Annotated[
        Path | None,
        setting(
            "where feature vectors and scores of events are kept, a folder beside that of the events; null keeps none"
        ),
    ] = None
    spool_mb: Annotated[
        int, setting("room for vectors that wait to become files; what comes beyond is dropped and counted, MiB", ge=16)
    ] = 1024
