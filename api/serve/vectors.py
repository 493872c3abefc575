"""Where the pipeline leaves feature vectors for the archive, and the process that makes files of them:
`python -m trustwatch.api.serve.vectors`, started by the service where `archive.vectors` is set.
"""

from __future__ import annotations

import gc
from collections.abc import MutableMapping
from pathlib import Path

from ...ingest.archive.spool import SpoolWriter, waiting_bytes
from ...scoring.records import RiskLevel
from ...scoring.vectors import VectorCollector
from .. import clock
from ..edge.archived import ArchiveReport, encode_archive_report
from ..settings import Settings
from .child import Child, run_child

SPOOL = "vectors-spool"
LONGEST_ROLL_S = 60.0
POLL_S, TELL_EVERY_S = 0.5, 2.0


def spool_directory(settings: Settings) -> Path:
    """Folder between pipeline and archive, on the pipeline's own disk."""
    return settings.data_dir / SPOOL


def open_spool(settings: Settings) -> SpoolWriter | None:
    """The pipeline's side; None where no vectors are kept."""
    if settings.archive.vectors is None:
        return None
    return SpoolWriter(
        spool_directory(settings),
        settings.archive.spool_mb << 20,
        clock.monotonic,
        roll_s=min(settings.archive.interval_s, LONGEST_ROLL_S),
    )


def take_over(
    spool: SpoolWriter | None, collectors: MutableMapping[int, VectorCollector], partition: int
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


def archive_vectors(child: Child) -> None:
    """Turn what is handed on into files until told to end."""
    from ...ingest.archive.vectors import VectorArchive
    from .upkeep import ArchiveUpkeep

    settings = child.settings
    directory, spool = settings.archive.vectors, spool_directory(settings)
    assert directory is not None
    archive = VectorArchive(
        directory, spool, [level.label for level in RiskLevel], named=bool(settings.kafka.bootstrap_servers)
    )
    archive.start()
    upkeep = ArchiveUpkeep(directory, "vectors", settings.archive)
    told_at = float("-inf")
    gc.freeze()
    while not child.ending:
        busy = archive.step()
        if not busy or upkeep.overdue:
            busy = upkeep.step() or busy
        if clock.monotonic() - told_at >= TELL_EVERY_S:
            told_at = clock.monotonic()
            report = ArchiveReport(
                rows=archive.rows, files=archive.files, merged=upkeep.merged, waiting_bytes=waiting_bytes(spool)
            )
            child.send(encode_archive_report(report))
        if not busy:
            clock.sleep(POLL_S)


if __name__ == "__main__":
    raise SystemExit(run_child(archive_vectors))
