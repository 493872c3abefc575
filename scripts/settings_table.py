"""The settings as a table: read off the declarations, for the docs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from trustwatch.api.settings.root import Settings
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.settings_reading import (
    documented_fields,
    element_type,
    literal_choices,
    without_annotation,
    without_none,
)

_TYPE_NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    Path: "path",
    Secret: "secret",
    Any: "values",
}


def settings_table() -> str:
    """Markdown table of all settings."""
    rows = [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in table_rows(Settings)]
    return "\n".join(["| member | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def table_rows(part: type, prefix: str = "", given: Any = None) -> Iterator[tuple[str, str, str, str]]:
    """(path, type, default, meaning) of each member of *part*, parts before what they hold.

    *given* is an instance whose values are the defaults of this place, if they differ from those of the class.
    """
    hints = get_type_hints(part, include_extras=True)
    for field in documented_fields(part, hints):
        inner, text = without_annotation(hints[field.name])
        path = f"{prefix}{field.name}"
        value = getattr(given, field.name) if given is not None else _default_of(field)
        element, suffix = element_type(inner)
        nested = isinstance(element, type) and issubclass(element, msgspec.Struct)
        yield path, _type_text(inner), "" if nested and not suffix else _default_text(value), text
        if nested:
            yield from table_rows(element, f"{path}{suffix}.", value if not suffix else None)


def _type_text(kind: Any) -> str:
    element, suffix = element_type(kind)
    words = " / ".join(f"`{word}`" for word in literal_choices(element))
    inner = _type_text(element) if suffix else _TYPE_NAMES.get(element, "part")
    null = " or null" if without_annotation(kind)[0] is not without_none(kind) else ""
    return {"": "", "[]": "list of ", ".NAME": "mapping of "}[suffix] + (words or inner) + null


def _default_of(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _default_text(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "**required**"
    return f"`{msgspec.json.encode(value, enc_hook=str).decode()}`"
