"""Commands on the data directory: `backup`, `restore`, `token`, `console-link`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trustwatch.ingest.errors import ConfigError

from .. import clock
from ..cli.terminal import JsonOption, SettingsFileOption, fail, print_message, print_summary, write_json
from ..composition import require_whole_data
from ..console.console_sessions import issue_login_code
from ..http.auth.callers import ALL_SCOPES
from ..http.auth.signing import LOCAL_ISSUER, issue_local_token
from ..settings.loading import load_process_settings
from .backup import restore_backup, take_backup


def token(
    settings: SettingsFileOption = None,
    client_id: Annotated[
        str, typer.Option(help="client the token is for; must be one of the settings' callers")
    ] = "demo",
    scope: Annotated[list[str] | None, typer.Option(help=f"again for more; default: {' '.join(ALL_SCOPES)}")] = None,
    audience: Annotated[str, typer.Option(help="audience of this service")] = "trustwatch",
    lifetime: Annotated[int, typer.Option(help="seconds")] = 3600,
    json: JsonOption = False,
) -> None:
    """Print a token signed with the local development key (only accepted where the settings trust it)."""
    configured = load_process_settings(settings)
    require_whole_data(configured.data_dir)
    if not any(issuer.issuer == LOCAL_ISSUER for issuer in configured.issuers):
        print_message(
            f"note: these settings do not trust {LOCAL_ISSUER}, so a service that runs with them will refuse the token"
        )
    if client_id not in {caller.client_id for caller in configured.callers}:
        print_message(
            f"note: no caller of these settings has the client id {client_id}, so a service that runs with them will "
            "refuse the token; name one with --client-id"
        )
    scopes = scope or list(ALL_SCOPES)
    issued = issue_local_token(configured.data_dir, client_id, scopes, audience, lifetime)
    if json:
        write_json({"access_token": issued, "expires_in": lifetime, "scope": " ".join(scopes)})
    else:
        sys.stdout.write(issued + "\n")


def console_link(settings: SettingsFileOption = None, json: JsonOption = False) -> None:
    """Print a link that signs in at the console once (where the settings allow a development login)."""
    configured = load_process_settings(settings)
    if not (configured.console.enabled and configured.console.development_login):
        raise fail(
            ConfigError(
                "these settings allow no development login: it needs `console.enabled` and `console.development_login`"
            )
        )
    require_whole_data(configured.data_dir)
    code = issue_login_code(configured.data_dir, clock.now_s())
    link = f"{configured.listen.url()}/console/dev-login?code={code}"
    if json:
        write_json({"url": link})
    else:
        sys.stdout.write(link + "\n")


_DONE = (
    "{file}: database at offset {offset}, log from {log_first_offset} to {log_end_offset}, model {model}; {files} "
    "files, {bytes} bytes"
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
    text = f"backed up to {_DONE}\nnot in it: settings, the files that they name, archives, sessions of the console"
    if contents.keys:
        text += "\nit holds keys: anyone who can read it can read the service's data and sign as the service"
    print_summary({"file": str(file), **contents._asdict()}, json, text)


def restore(
    file: Annotated[Path, typer.Argument(help="tar that `trustwatch backup` wrote")],
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Restore a backup into the empty `data_dir` of the settings, after every digest was checked."""
    done = restore_backup(load_process_settings(settings), file)
    needed = None if done.missing_key is None else str(done.missing_key)
    text = f"restored {_DONE}"
    if needed is not None:
        text += "\nbefore the service starts, put the identity key at {needs_identity_key}, mode 0600"
    print_summary({"file": str(file), **done.contents._asdict(), "needs_identity_key": needed}, json, text)
