"""The settings as they hold, member by member with where each value comes from, and as a JSON Schema for editors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec

from trustwatch.ingest.settings import Secret

from .environment import SetVariable
from .loading import ReadSettings
from .root import Settings

DEFAULT = "default"
_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SECRET_IN_URL = re.compile(r"(://)[^/\s?#]*(?=@)|([?&#][^=&#\s]*=)[^&#\s]+")
"""Parts of a URL that may be a secret: what stands before the host, and the values of query and fragment."""
_NAME_OR_PATH = {"type": "string", "minLength": 1}


class EffectiveMember(NamedTuple):
    """A member that holds a value.

    Attributes:
        member: its path, such as `listen.port` or `webhooks[0].url`.
        value: as JSON; secrets are `***`.
        origin: `default`, the settings file, or the variable that set it; for a secret with where it is kept.
    """

    member: str
    value: Any
    origin: str


def effective_members(read: ReadSettings) -> Iterator[EffectiveMember]:
    """All of them in the order of the declarations, lists and mappings entry by entry."""
    for path, value in _leaves(shown_settings(read.settings)):
        yield EffectiveMember(_path_text(path), value, _origin(path, read))


def shown_settings(settings: Settings) -> dict[str, Any]:
    """The settings as JSON: secrets are `***`, also those that somebody wrote into a URL."""
    shown: dict[str, Any] = _without_secrets(msgspec.to_builtins(settings, enc_hook=str))
    return shown


def settings_yaml(settings: Settings) -> str:
    """The settings that hold as YAML, as `shown_settings`."""
    return msgspec.yaml.encode(shown_settings(settings)).decode()


def _without_secrets(value: Any) -> Any:
    """
    >>> _without_secrets(["https://ann:hunter2@as.example/?sig=abc&page=2", "https://TOKEN@as.example/a", 3])
    ['https://***@as.example/?sig=***&page=***', 'https://***@as.example/a', 3]
    """
    if isinstance(value, dict):
        return {name: _without_secrets(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(below) for below in value]
    return _SECRET_IN_URL.sub(lambda found: f"{found[1] or found[2]}***", value) if isinstance(value, str) else value


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    entries: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(entry, dict) for entry in value):
        entries = enumerate(value)
    if not value or not entries:
        yield path, value
        return
    for step, below in entries:
        yield from _leaves(below, (*path, step))


def _path_text(path: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _origin(path: tuple[str | int, ...], read: ReadSettings) -> str:
    variable = _last_variable(path, read.variables)
    if variable is not None:
        return variable.name + _kept_in(_at(variable.value, path[len(variable.path) :]))
    given = _at(read.in_file, path)
    return DEFAULT if given is _ABSENT else f"{read.file}{_kept_in(given)}"


def _last_variable(path: tuple[str | int, ...], variables: Iterable[SetVariable]) -> SetVariable | None:
    """The one that wins: they are applied in their order."""
    found = None
    for variable in variables:
        if path[: len(variable.path)] == variable.path:
            found = variable
    return found


_ABSENT = object()


def _at(value: Any, path: Iterable[str | int]) -> Any:
    """Value that a file or a variable holds at a place; `_ABSENT` where it holds nothing."""
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else _ABSENT
        else:
            value = value.get(step, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _kept_in(given: Any) -> str:
    """Place where a secret is kept, if it is given by reference."""
    if isinstance(given, dict) and len(given) == 1 and {*given} <= {"env", "file"}:
        ((kind, name),) = given.items()
        return f" ({kind} {name})"
    return ""


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the settings file: members, types, limits, meanings and defaults."""
    schema = msgspec.json.schema(_with_plain_defaults(Settings), schema_hook=_schema_of)
    members = schema["$defs"][Settings.__name__]["properties"]
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.default, Path):
            members[field.name]["default"] = str(field.default)
    return {"$schema": _SCHEMA_DIALECT, "title": "Settings of Trustwatch", **schema}


def _with_plain_defaults(part: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same declarations without defaults that are paths: msgspec takes no hook for defaults."""
    hints = get_type_hints(part, include_extras=True)
    fields = [
        (field.name, hints[field.name], msgspec.field(default_factory=partial(Path, field.default)))
        if isinstance(field.default, Path)
        else (field.name, hints[field.name], _declared_default(field))
        for field in msgspec.structs.fields(part)
    ]
    return msgspec.defstruct(part.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _declared_default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return msgspec.field() if field.default is msgspec.NODEFAULT else msgspec.field(default=field.default)


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Path:
        return dict(_NAME_OR_PATH)
    if kind is Secret:
        kept = [
            {"type": "object", "properties": {key: _NAME_OR_PATH}, "required": [key], "additionalProperties": False}
            for key in ("env", "file")
        ]
        return {"anyOf": [*kept, dict(_NAME_OR_PATH)]}
    raise NotImplementedError(f"no schema for {kind.__name__}")
