"""Commands that are known by name and in a sentence, and loaded when they are run: help waits for no library."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import typer
from typer.core import MarkupMode, TyperCommand, TyperGroup
from typer.main import get_group

from .terminal import not_available, print_message

# `python -m scripts.write_reference` writes the index: commands need neither the document nor the service's libraries.

OPERATIONS_FILE: Final = Path(__file__).with_name("operations.json")


class Member(msgspec.Struct, frozen=True):
    """A parameter of an operation, or a member of its JSON body."""

    name: str
    place: Literal["path", "query", "body"]
    kind: str = "string"
    required: bool = False
    many: bool = False
    choices: tuple[str, ...] = ()
    default: Any = None
    help: str = ""


class Operation(msgspec.Struct, frozen=True):
    """What one call of the API takes, and what it answers with."""

    method: str
    path: str
    summary: str
    description: str = ""
    members: tuple[Member, ...] = ()
    paged: bool = False


@cache
def operations() -> dict[str, Operation]:
    """Operations by the id that the OpenAPI document gives them."""
    return msgspec.json.decode(OPERATIONS_FILE.read_bytes(), type=dict[str, Operation])


class ServiceCommand(NamedTuple):
    """A command that calls an operation.

    Attributes:
        operation: its id in the OpenAPI document.
        columns: members that the table of a list has.
        arguments: members that are given by position, behind those of the path.
        defaults: what the command sends if an option is not given.
        parts: operations whose answers are added to the first one's, by the member that they become.
        main: member under which the first answer is printed; "" prints its members.
        holds: member of the answer that is true; else the command ends with status 1.
        if_empty: what is printed for an empty member of the first answer.
    """

    operation: str
    columns: str = ""
    arguments: tuple[str, ...] = ()
    defaults: Mapping[str, str] = {}
    parts: Mapping[str, str] = {}
    main: str = ""
    holds: str = ""
    if_empty: Mapping[str, str] = {}


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
        """Write the commands by panel, if help is plain text."""
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
    """All that are installed, by panel. An unreadable list is skipped and reported on stderr."""
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
