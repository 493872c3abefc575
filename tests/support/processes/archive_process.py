"""Archives a log until it is killed or has seen all of it: arguments DATA_DIR and ARCHIVE."""

from __future__ import annotations

import sys
from pathlib import Path

from trustwatch.api.archive import worker
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.log.log_reader import LogReader


def main(data_dir: Path, directory: Path) -> None:
    worker.MAX_PENDING_RECORDS, worker.POLL_RECORDS, worker.POLL_S = 40, 40, 0.0
    with LogReader(data_dir / "log") as reader:
        end = reader.end_offset(0)
    run = worker.EventArchiver(Settings(data_dir=data_dir, archive=ArchiveSettings(directory=directory)))
    run.start()
    print("started", flush=True)  # noqa: T201
    while run.partitions[0].next_offset < end:
        run.step()
    run.flush()
    run.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
