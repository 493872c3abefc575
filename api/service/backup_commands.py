"""`trustwatch backup` and `trustwatch restore`: log and database of the embedded form, together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import clock
from ..cli.terminal import JsonOption, SettingsFileOption, print_message, write_json
from ..settings.loading import load_process_settings
from .backup import take_backup
from .backup_manifest import BackupManifest
from .restore import restore_backup

_DONE = (
    "{did} {folder}: database at offset {offset:,}, log from {log_first_offset:,} to {log_end_offset:,}, "
    "model {model}; {files:,} files, {bytes:,} bytes, of {created}"
)


def backup(
    folder: Annotated[Path, typer.Argument(help="folder to write; made, or empty")],
    settings: SettingsFileOption = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="leave key files out: you keep them in another place")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Back up database, log, models and keys of the embedded form into a folder, while the service runs."""
    done = take_backup(load_process_settings(settings), folder, clock.now_s, keys=not without_keys)
    summary = _summary(folder, done.manifest) | {
        "keys": done.manifest.keys,
        "left_out": done.manifest.left_out,
        "digest": done.digest,
    }
    if json:
        write_json(summary)
        return
    print_message(_DONE.format(did="backed up to", **summary))
    print_message(f"not in it: {'; '.join(done.manifest.left_out)}")
    if done.manifest.keys:
        print_message("it holds keys: whoever reads it can read the service's data and sign in its name")


def restore(
    folder: Annotated[Path, typer.Argument(help="folder that `trustwatch backup` wrote")],
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Restore a back-up into the empty `data_dir` of the settings, after every digest was checked."""
    done = restore_backup(load_process_settings(settings), folder)
    needed = None if done.missing_key is None else str(done.missing_key)
    summary = _summary(folder, done.manifest) | {"needs_identity_key": needed}
    if json:
        write_json(summary)
        return
    print_message(_DONE.format(did="restored", **summary))
    if needed is not None:
        print_message(f"before the service starts, put the identity key at {needed}, mode 0600")


def _summary(folder: Path, manifest: BackupManifest) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "created": manifest.created,
        "offset": manifest.offset,
        "log_first_offset": manifest.log_first_offset,
        "log_end_offset": manifest.log_end_offset,
        "model": manifest.model,
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
    }
