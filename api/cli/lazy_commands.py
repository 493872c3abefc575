"""Commands that are known by name and in a sentence, and loaded when they are run: help waits for no library."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from enum import StrEnum
from importlib.metadata import entry_points
from itertools import groupby
from typing import Any

import typer
from typer.core import MarkupMode, TyperCommand, TyperGroup
from typer.main import get_group

from .terminal import not_available, print_message

COMMANDS_GROUP = "trustwatch.commands"
"""Entry points that add commands: each is a list of `LazyCommand`."""

_SUMMARY_LENGTH = 500
"""Longer than any: help wraps summaries, and cuts none."""


class CommandPanel(StrEnum):
    """Panels of the help, in its order: what commands are for."""

    AGENTS = "Agents and their risk (of a running service)"
    PEOPLE = "Decisions of people (of a running service)"
    HISTORY = "History and models"
    SERVICE = "Run the service"
    PRIVACY = "Data protection (of a running service)"
    TRIAL = "Try out and look into"


class LazyCommand(TyperCommand):
    """A command, or several below one name, as help and completion show it before it is loaded."""

    def __init__(self, name: str, panel: str, summary: str, place: str) -> None:
        super().__init__(name, short_help=summary, help=summary, rich_help_panel=panel)
        self.panel = panel
        self.place = place

    def resolve(self) -> Any:
        """The function, or the `typer.Typer` of a group. Raises ImportError."""
        return pkgutil.resolve_name(self.place)

    def load(self, rich_markup_mode: MarkupMode = None) -> Any:
        """The command itself, as typer makes it; its help is plain text, or marked up. Raises ImportError."""
        loaded = self.resolve()
        app = typer.Typer(rich_markup_mode=rich_markup_mode)
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=self.name, rich_help_panel=self.panel)
        else:
            app.command(self.name, rich_help_panel=self.panel)(loaded)
        return get_group(app).commands[str(self.name)]


class LazyGroup(TyperGroup):
    """The command line over all lists of commands that are installed, those of other packages included."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for command in installed_commands():
            self.add_command(command)

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write the commands by panel, where help is plain text."""
        for panel, commands in groupby(
            self.commands.values(), lambda command: str(getattr(command, "rich_help_panel", ""))
        ):
            with formatter.section(panel):
                formatter.write_dl(
                    [(str(command.name), command.get_short_help_str(_SUMMARY_LENGTH)) for command in commands]
                )

    def before_command(self) -> None:
        """Called before a command is loaded; help needs none of it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load what the command line names, to run it or to complete its options."""
        name, command, rest = super().resolve_command(ctx, args)
        if not isinstance(command, LazyCommand):
            return name, command, rest
        self.before_command()
        try:
            return name, command.load(self.rich_markup_mode), rest
        except ImportError as error:
            raise not_available(command.name or "", error) from None


def installed_commands() -> list[LazyCommand]:
    """All that are installed, by panel. A list that can not be read is left out; stderr says which and why."""
    commands_found: list[LazyCommand] = []
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        try:
            commands: Iterable[LazyCommand] = entry.load()
        except (ImportError, AttributeError) as error:  # what was installed before is of another version
            print_message(f"commands of `{entry.name}` are not available: {error}")
            continue
        commands_found += commands
    panels: list[str] = list(CommandPanel)
    panels += (command.panel for command in commands_found)  # of other packages: behind ours
    return sorted(commands_found, key=lambda command: (panels.index(command.panel), command.name))
