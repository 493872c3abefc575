"""The settings as a table: read off the declarations, for the docs and for error messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from .root import Settings
from .secret import Secret

_STEP = re.compile(r"\.(\w+)|(\[[^\]]*\])")
_AT = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_JSON_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path", Secret: "secret"}
_MAPPING = "mapping of text"


def settings_table(root: type = Settings) -> str:
    """Markdown table of every member of *root*: path, type, default, meaning."""
    rows = [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in members(root)]
    return "\n".join(["| member | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def members(part: type, prefix: str = "", given: Any = None) -> Iterator[tuple[str, str, str, str]]:
    """(path, type, default, meaning) of each member of *part*, parts before what they hold.

    *given* is an instance whose values are the defaults of this place, where they differ from those of the class.
    """
    hints = get_type_hints(part, include_extras=True)
    for field in msgspec.structs.fields(part):
        inner, text = _bare(hints[field.name])
        path = f"{prefix}{field.name}"
        value = getattr(given, field.name) if given is not None else _default(field)
        held, suffix = _held(inner)
        nested = isinstance(held, type) and issubclass(held, msgspec.Struct)
        yield path, _kind(inner), "" if nested and not suffix else _shown(value), text
        if nested:
            yield from members(held, f"{path}{suffix}.", value if not suffix else None)


def hint(root: type, message: str) -> str:
    """What the member that *message* complains of may be; empty where nothing is known of it."""
    at = _AT.search(message)
    part, text = _find(root, at.group(1) if at else "")
    if "unknown field" in message and _is_part(part):
        return "; may have " + ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(part))
    missing = _MISSING.search(message)
    if missing and _is_part(part):
        part, text = _find(part, f".{missing.group(1)}")
    allowed = _choices(part)
    told = f"; one of {', '.join(allowed)}" if allowed else ""
    return told + (f" ({text})" if text else "")


def _find(root: Any, path: str) -> tuple[Any, str]:
    """Type and meaning of the member at *path* below *root*; (None, "") where there is none."""
    here, text = root, ""
    for name, index in _STEP.findall(path):
        here, _ = _held(here) if index else (here, "")
        if name and not _is_part(here):
            return None, ""
        if name:
            annotation = get_type_hints(here, include_extras=True).get(name)
            here, text = _bare(annotation)
    return _optional(here), text


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _bare(annotation: Any) -> tuple[Any, str]:
    """The type inside `Annotated`, and the description of the outermost."""
    text = ""
    while get_origin(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        text = next((meta.description for meta in reversed(metas) if getattr(meta, "description", None)), text)
    return annotation, text


def _optional(kind: Any) -> Any:
    kind = _bare(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return _bare(next(arg for arg in get_args(kind) if arg is not type(None)))[0]
    return kind


def _held(kind: Any) -> tuple[Any, str]:
    """What a list or mapping holds, and how its path goes on; a plain member holds itself."""
    kind = _optional(kind)
    if get_origin(kind) is tuple:
        return _bare(get_args(kind)[0])[0], "[]"
    if hasattr(get_origin(kind), "keys"):
        return _bare(get_args(kind)[1])[0], ".NAME"
    return kind, ""


def _choices(kind: Any) -> list[str]:
    held = _held(kind)[0]
    return [str(arg) for arg in get_args(held)] if get_origin(held) is Literal else []


def _kind(kind: Any) -> str:
    held, suffix = _held(kind)
    name = " / ".join(f"`{word}`" for word in _choices(held)) or _JSON_NAMES.get(
        held, _MAPPING if hasattr(get_origin(held), "keys") else "part"
    )
    null = " or null" if _bare(kind)[0] is not _optional(kind) else ""
    return {"": "", "[]": "list of ", ".NAME": "mapping of "}[suffix] + name + null


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _shown(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "**required**"
    return f"`{msgspec.json.encode(value, enc_hook=str).decode()}`"
