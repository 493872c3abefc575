"""The settings as a table: read off the declarations, for the docs and for error messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import FieldInfo

from ...ingest.settings import AFTER_KEY, Secret
from .root import Settings

_PATH_STEP = re.compile(r"\.(\w+)|(\[[^\]]*\])")
_ERROR_PATH = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_MISSING_FIELD = re.compile(r"missing required field `(\w+)`")
_TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path", Secret: "secret"}
_TEXT_MAPPING = "mapping of text"


def settings_table(root: type = Settings) -> str:
    """Markdown table of every member of *root*: path, type, default, meaning."""
    rows = [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in table_rows(root)]
    return "\n".join(["| member | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def table_rows(part: type, prefix: str = "", given: Any = None) -> Iterator[tuple[str, str, str, str]]:
    """(path, type, default, meaning) of each member of *part*, parts before what they hold.

    *given* is an instance whose values are the defaults of this place, where they differ from those of the class.
    """
    hints = get_type_hints(part, include_extras=True)
    for field in documented_fields(part, hints):
        inner, text = _without_annotation(hints[field.name])
        path = f"{prefix}{field.name}"
        value = getattr(given, field.name) if given is not None else _default_of(field)
        held, suffix = _element_type(inner)
        nested = isinstance(held, type) and issubclass(held, msgspec.Struct)
        yield path, _type_text(inner), "" if nested and not suffix else _default_text(value), text
        if nested:
            yield from table_rows(held, f"{path}{suffix}.", value if not suffix else None)


def documented_fields(part: type, hints: Mapping[str, Any]) -> list[FieldInfo]:
    """Members of *part* in the order in which people read them: as declared, but for those with `after`."""
    ordered: list[FieldInfo] = []
    for field in msgspec.structs.fields(part):
        after = _predecessor(hints[field.name])
        names = [earlier.name for earlier in ordered]
        ordered.insert(names.index(after) + 1 if after else len(ordered), field)
    return ordered


def _predecessor(annotation: Any) -> str:
    """The member that one with this annotation stands behind; "" where nothing is said."""
    metas = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((meta.extra[AFTER_KEY] for meta in metas if getattr(meta, "extra", None)), "")


def error_hint(root: type, message: str) -> str:
    """What the member that *message* complains of may be; empty where nothing is known of it."""
    at = _ERROR_PATH.search(message)
    part, text = _find_member(root, at.group(1) if at else "")
    if "unknown field" in message and _is_struct(part):
        hints = get_type_hints(part, include_extras=True)
        return "; may have " + ", ".join(f"`{field.name}`" for field in documented_fields(part, hints))
    missing = _MISSING_FIELD.search(message)
    if missing and _is_struct(part):
        part, text = _find_member(part, f".{missing.group(1)}")
    allowed = _choices(part)
    told = f"; one of {', '.join(allowed)}" if allowed else ""
    return told + (f" ({text})" if text else "")


def _find_member(root: Any, path: str) -> tuple[Any, str]:
    """Type and meaning of the member at *path* below *root*; (None, "") where there is none."""
    here, text = root, ""
    for name, index in _PATH_STEP.findall(path):
        here, _ = _element_type(here) if index else (here, "")
        if name and not _is_struct(here):
            return None, ""
        if name:
            annotation = get_type_hints(here, include_extras=True).get(name)
            here, text = _without_annotation(annotation)
    return _without_none(here), text


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _without_annotation(annotation: Any) -> tuple[Any, str]:
    """The type inside `Annotated`, and the description of the outermost."""
    text = ""
    while get_origin(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        text = next((meta.description for meta in reversed(metas) if getattr(meta, "description", None)), text)
    return annotation, text


def _without_none(kind: Any) -> Any:
    kind = _without_annotation(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return _without_annotation(next(arg for arg in get_args(kind) if arg is not type(None)))[0]
    return kind


def _element_type(kind: Any) -> tuple[Any, str]:
    """What a list or mapping holds, and how its path goes on; a plain member holds itself."""
    kind = _without_none(kind)
    if get_origin(kind) is tuple:
        return _without_annotation(get_args(kind)[0])[0], "[]"
    if hasattr(get_origin(kind), "keys"):
        return _without_annotation(get_args(kind)[1])[0], ".NAME"
    return kind, ""


def _choices(kind: Any) -> list[str]:
    held = _element_type(kind)[0]
    return [str(arg) for arg in get_args(held)] if get_origin(held) is Literal else []


def _type_text(kind: Any) -> str:
    held, suffix = _element_type(kind)
    name = " / ".join(f"`{word}`" for word in _choices(held)) or _TYPE_NAMES.get(
        held, _TEXT_MAPPING if hasattr(get_origin(held), "keys") else "part"
    )
    null = " or null" if _without_annotation(kind)[0] is not _without_none(kind) else ""
    return {"": "", "[]": "list of ", ".NAME": "mapping of "}[suffix] + name + null


def _default_of(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _default_text(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "**required**"
    return f"`{msgspec.json.encode(value, enc_hook=str).decode()}`"
