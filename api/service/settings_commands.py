"""`trustwatch settings`: is a file right, what holds and where it comes from, and a schema for editors."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import typer

from trustwatch.ingest.errors import ConfigError

from ..cli.terminal import JsonOption, SettingsFileOption, print_message, write_json, write_line, write_table
from ..settings.effective import DEFAULT, effective_members, settings_schema
from ..settings.loading import read_process_settings

settings_app = typer.Typer(
    name="settings", no_args_is_help=True, help="Settings: check a file, show what holds, write a schema for editors."
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
        warnings = read_process_settings(file).warnings
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
    write_line(f"{file or 'settings'}: right")


@settings_app.command()
def show(
    settings: SettingsFileOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="leave out what is the default")] = False,
    json: JsonOption = False,
) -> None:
    """Show the settings that hold, member by member, and whether file, variable or default says so. Secrets are ***."""
    members = [member._asdict() for member in effective_members(read_process_settings(settings))]
    shown = [member for member in members if not (changed and member["origin"] == DEFAULT)]
    if json:
        write_json({"members": shown})
        return
    rows = [{**member, "value": json_format.dumps(member["value"], ensure_ascii=False)} for member in shown]
    write_table(rows, {"member": "member", "value": "value", "origin": "from"}, prose=("value",))


@settings_app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="file to write; default: stdout")] = None,
) -> None:
    """Print the JSON Schema of the settings file: editors complete members, explain them and mark what is wrong."""
    text = json_format.dumps(settings_schema(), indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
        return
    out.write_text(text, encoding="utf-8")
    print_message(f"wrote {out}; first line of a settings file: # yaml-language-server: $schema={out}")
