"""Spool that hands feature vectors from the pipeline to the archive, and the process that makes files of them:
`python -m trustwatch.api.archive.vector_worker`, started by the service if `archive.vectors` is set.
"""

from __future__ import annotations

import gc

import msgspec

from trustwatch.scoring.records.agents import RiskLevel

from .. import clock
from ..child_process import ChildRuntime, run_child
from ..composition import spool_directory
from .archive_status import ArchiveWorkerReport

POLL_S, REPORT_EVERY_S = 0.5, 2.0


def run_vector_archive(child: ChildRuntime) -> None:
    """Write vectors from the spool to files until stopped."""
    from trustwatch.ingest.archive.event_archive import VectorArchive

    from .archive_maintenance import ArchiveMaintenance

    settings = child.settings
    directory, spool = settings.archive.vectors, spool_directory(settings)
    assert directory is not None
    archive = VectorArchive(directory, spool, [level.label for level in RiskLevel], named=settings.distributed)
    archive.start()
    upkeep = ArchiveMaintenance(directory, "vectors", settings.archive)
    reported_at = float("-inf")
    gc.freeze()
    while not child.should_stop:
        busy = archive.archive_next_file()
        if not busy or upkeep.overdue:
            busy = upkeep.step() or busy
        if clock.monotonic() - reported_at >= REPORT_EVERY_S:
            reported_at = clock.monotonic()
            child.send(msgspec.msgpack.encode(ArchiveWorkerReport()))
        if not busy:
            clock.sleep(POLL_S)


if __name__ == "__main__":
    raise SystemExit(run_child(run_vector_archive))
