"""Where the pipeline leaves feature vectors for the archive, and the process that makes files of them:
`python -m trustwatch.api.archive.vector_worker`, started by the service where `archive.vectors` is set.
"""

from __future__ import annotations

import gc
from collections.abc import MutableMapping
from pathlib import Path

from ...ingest.archive.vector_spool import VectorSpoolWriter, waiting_spool_bytes
from ...scoring.pipeline.processor import VectorCollector
from ...scoring.records.agents import RiskLevel
from .. import clock
from ..child_process import ChildRuntime, run_child
from ..settings.root import Settings
from .archive_status import ArchiveWorkerReport, encode_archive_report

SPOOL_FOLDER = "vectors-spool"
MAX_ROLL_S = 60.0
POLL_S, REPORT_EVERY_S = 0.5, 2.0


def spool_directory(settings: Settings) -> Path:
    """Folder between pipeline and archive, on the pipeline's own disk."""
    return settings.data_dir / SPOOL_FOLDER


def open_spool(settings: Settings) -> VectorSpoolWriter | None:
    """The pipeline's side; None where no vectors are kept."""
    if settings.archive.vectors is None:
        return None
    return VectorSpoolWriter(
        spool_directory(settings),
        settings.archive.spool_mb << 20,
        clock.monotonic,
        roll_s=min(settings.archive.interval_s, MAX_ROLL_S),
    )


def start_vector_collector(
    spool: VectorSpoolWriter | None, collectors: MutableMapping[int, VectorCollector], partition: int
) -> VectorCollector | None:
    """The collector of a partition that begins here, in the place of an earlier one; None where no vectors are kept.

    The file that is open is handed on first. A partition that was ours before, and another worker's meanwhile, would
    else have a file that reaches from the one time to the other, over the other's files; and whatever lies within the
    range of another file counts as merged into it.
    """
    if spool is None:
        return None
    spool.roll()
    collectors[partition] = VectorCollector(partition)
    return collectors[partition]


def run_vector_archive(child: ChildRuntime) -> None:
    """Turn what is handed on into files until told to end."""
    from ...ingest.archive.vector_archive import VectorArchive
    from .archive_maintenance import ArchiveMaintenance

    settings = child.settings
    directory, spool = settings.archive.vectors, spool_directory(settings)
    assert directory is not None
    archive = VectorArchive(
        directory, spool, [level.label for level in RiskLevel], named=bool(settings.kafka.bootstrap_servers)
    )
    archive.start()
    upkeep = ArchiveMaintenance(directory, "vectors", settings.archive)
    told_at = float("-inf")
    gc.freeze()
    while not child.should_stop:
        busy = archive.archive_next_file()
        if not busy or upkeep.overdue:
            busy = upkeep.step() or busy
        if clock.monotonic() - told_at >= REPORT_EVERY_S:
            told_at = clock.monotonic()
            report = ArchiveWorkerReport(
                rows=archive.rows_written,
                files=archive.files_written,
                merged=upkeep.merged,
                waiting_bytes=waiting_spool_bytes(spool),
            )
            child.send(encode_archive_report(report))
        if not busy:
            clock.sleep(POLL_S)


if __name__ == "__main__":
    raise SystemExit(run_child(run_vector_archive))
