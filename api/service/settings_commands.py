"""Commands that need the settings alone until they start something: `init`, `settings`, `serve`."""

from __future__ import annotations

import json as json_format
import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from trustwatch.ingest.durable_files import write_file_atomically
from trustwatch.ingest.errors import ConfigError, TrustwatchError

from ..cli.terminal import JsonOption, SettingsFileOption, fail, not_available, print_message, write_json, write_line
from ..settings.effective import settings_schema, settings_yaml
from ..settings.loading import load_process_settings, read_settings

settings_app = typer.Typer(
    name="settings",
    no_args_is_help=True,
    help="Settings: check a file, show the effective ones, or a schema for editors.",
)


@settings_app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="settings file; default: $TRUSTWATCH_SETTINGS", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say whether a service would start with a file and this environment: members, values, secrets. Starts nothing."""
    try:
        warnings = read_settings(file).warnings
    except ConfigError as error:
        if not json:
            raise
        write_json({"valid": False, "problem": str(error), "warnings": []})
        raise typer.Exit(1) from None
    if json:
        write_json({"valid": True, "problem": None, "warnings": warnings})
        return
    for warning in warnings:
        print_message(f"warning: {warning}")
    write_line(f"{file or 'settings'} is valid")


@settings_app.command()
def show(
    settings: SettingsFileOption = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="print the JSON Schema of settings files instead: editors complete and explain members by it",
        ),
    ] = False,
) -> None:
    """Print the effective settings as YAML: file, environment and defaults together. Secrets are ***."""
    if schema:
        sys.stdout.write(json_format.dumps(settings_schema(), indent=2) + "\n")
        return
    sys.stdout.write(settings_yaml(load_process_settings(settings)))


def init(file: Annotated[Path, typer.Argument(help="settings file to write")] = Path("trustwatch.yaml")) -> None:
    """Write a first settings file with comments: a trial on one machine, and what a deployment may need."""
    if file.exists():
        raise fail(ConfigError(f"{file} exists already: remove it, or name another file"))
    content = files(__package__).joinpath("first_settings.yaml").read_bytes()
    write_file_atomically(file, content, mode=0o600)  # a symbolic link there is replaced, never followed
    print_message(f"wrote {file}")
    print_message("next:")
    for step in (
        f"export TRUSTWATCH_SETTINGS={shlex.quote(str(file.absolute()))}",
        "trustwatch serve",
        "trustwatch token    # signs in programs; trustwatch console-link signs you in",
    ):
        print_message(f"  {step}")


def serve(
    settings: SettingsFileOption = None,
    workers_only: Annotated[
        bool, typer.Option("--workers-only", help="only score events: a member of the consumer group")
    ] = False,
    api_only: Annotated[bool, typer.Option("--api-only", help="only answer and take events in: a replica")] = False,
    archiver_only: Annotated[
        bool, typer.Option("--archiver-only", help="only keep the archive of the events topic; one of a deployment")
    ] = False,
) -> None:
    """Run API, ingest and pipeline until Ctrl-C: all of it, or one part of the distributed form."""
    if workers_only + api_only + archiver_only > 1:
        raise typer.BadParameter(
            "--workers-only, --api-only and --archiver-only exclude each other; without any, all of it runs"
        )
    read = read_settings(settings)
    configured = read.settings
    try:  # only now: settings that are refused do not wait for the libraries of the service
        from .backends import ServiceRoles
        from .serve import run_service
    except ImportError as error:
        raise not_available("serve", error) from None
    alone = workers_only or api_only or archiver_only
    roles = ServiceRoles(
        api=api_only or not alone, workers=workers_only or not alone, archiver=archiver_only or not alone
    )
    if roles.api and not configured.issuers:
        print_message(
            "no issuers are configured: no caller can be authenticated, so every call except health checks is refused"
        )
    try:
        run_service(configured, settings, roles, read.removed)
    except BaseExceptionGroup as group:
        errors, rest = group.split(TrustwatchError)
        if rest is not None or errors is None:
            raise
        raise fail(errors.exceptions[0]) from None
