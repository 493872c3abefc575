"""`trustwatch backup` and `trustwatch restore`: log and database of the embedded form, together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..cli.terminal import JsonOption, SettingsFileOption, print_message, write_json
from ..settings.loading import load_process_settings
from .backup import BackupContents, take_backup
from .restore import restore_backup

_DONE = (
    "{did} {file}: database at offset {offset:,}, log from {log_first_offset:,} to {log_end_offset:,}, "
    "model {model}; {files:,} files, {bytes:,} bytes"
)


def backup(
    file: Annotated[Path, typer.Argument(help="tar to write; a new file")],
    settings: SettingsFileOption = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="leave key files out: you keep them in another place")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Back up database, log, models and keys of the embedded form into a tar, while the service runs."""
    contents = take_backup(load_process_settings(settings), file, keys=not without_keys)
    if json:
        write_json(_summary(file, contents))
        return
    print_message(_DONE.format(did="backed up to", **_summary(file, contents)))
    print_message("not in it: settings, the files that they name, archives, sessions of the console")
    if contents.keys:
        print_message("it holds keys: whoever reads it can read the service's data and sign in its name")


def restore(
    file: Annotated[Path, typer.Argument(help="tar that `trustwatch backup` wrote, or a folder of an earlier version")],
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Restore a backup into the empty `data_dir` of the settings, after every digest was checked."""
    done = restore_backup(load_process_settings(settings), file)
    needed = None if done.missing_key is None else str(done.missing_key)
    if json:
        write_json(_summary(file, done.contents) | {"needs_identity_key": needed})
        return
    print_message(_DONE.format(did="restored", **_summary(file, done.contents)))
    if needed is not None:
        print_message(f"before the service starts, put the identity key at {needed}, mode 0600")


def _summary(file: Path, contents: BackupContents) -> dict[str, Any]:
    return {"file": str(file), **contents._asdict()}
