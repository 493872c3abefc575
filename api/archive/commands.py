"""`trustwatch archive`: what is archived."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import require_extra

from ..cli.terminal import JsonOption, SettingsFileOption, print_message, readable, write_json, write_table
from ..settings.loading import load_process_settings

_SHOWN_DAYS = 31


def archive_command(
    directory: Annotated[
        Path | None, typer.Argument(help="folder of the archive of events; default: that of the settings")
    ] = None,
    vectors: Annotated[Path | None, typer.Option(help="folder of the vectors; default: that of the settings")] = None,
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an archive holds: dates, events, feature vectors, files, and the offset that it reaches."""
    require_extra("archive", "`trustwatch archive` reads Parquet")
    from trustwatch.ingest.archive.archive_reader import count_archive

    configured = load_process_settings(settings).archive
    where = directory or configured.directory
    if where is None:
        raise ConfigError("name the folder of the archive, or set archive.directory")
    beside = vectors or (configured.vectors if directory is None else None)
    totals = count_archive(where, beside)
    if json:
        write_json(msgspec.to_builtins(totals))
        return
    shown = [msgspec.to_builtins(day) for day in totals.days[-_SHOWN_DAYS:]]
    columns = {"date": "date", "events": "events", "files": "files", "bytes": "bytes"}
    write_table(shown, {**columns, "vectors": "vectors"} if beside else columns)
    if len(totals.days) > len(shown):
        print_message(f"the last {len(shown)} of {len(totals.days)} dates; --json has all")
    events, kept = (sum(getattr(day, name) for day in totals.days) for name in ("events", "vectors"))
    position = ", ".join(f"offset {offset} of partition {partition}" for partition, offset in totals.positions.items())
    if list(totals.positions) == ["0"]:
        position = f"offset {totals.positions['0']} of the log"
    print_message(f"{readable(events)} events of {readable(totals.tenants)} tenants, up to {position}")
    if beside:
        print_message(f"{readable(kept)} feature vectors; {readable(max(events - kept, 0))} events have none")
