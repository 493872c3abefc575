"""Operations of the API, as a compact index of its OpenAPI document describes them.

`python -m scripts.write_reference` writes the index: commands need neither the document nor the service's libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

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
        if_empty: what is said of a member of the first answer that has nothing.
    """

    operation: str
    columns: str = ""
    arguments: tuple[str, ...] = ()
    defaults: Mapping[str, str] = {}
    parts: Mapping[str, str] = {}
    main: str = ""
    holds: str = ""
    if_empty: Mapping[str, str] = {}
