"""The settings as a list, for docs/settings.md: what recurs is told once, types where no default shows them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple, get_type_hints

import msgspec

from ...ingest.settings_reading import documented_fields, element_type, without_annotation
from .root import Settings
from .settings_table import default_of, default_text, type_text

_WIDTH = 120
_TOLD_BY_DEFAULTS = {"boolean", "integer", "number", "text", "path"}
"""Types that a default shows by itself."""
_MANY_CHOICES = 6
_BLANK_IN_CODE = "\x00"


class _Place(NamedTuple):
    """Where a part was told of first, with the values that hold there (None: those of the class)."""

    path: str
    given: Any


class _Entry(NamedTuple):
    """One member: its path, what stands in brackets behind it, its meaning, and where the same was told before."""

    path: str
    told: str
    text: str
    same_as: str = ""


def settings_reference(root: type = Settings) -> str:
    """Markdown list of every member of *root*: path, type or default, meaning."""
    entries = [*_Reader().members(root, "")]
    grouped = groupby(
        entries, key=lambda entry: (entry.same_as, entry.path.rpartition(".")[0] if entry.same_as else entry)
    )
    return "\n".join(line for (same_as, _), group in grouped for line in _lines(list(group), same_as)) + "\n"


def _lines(entries: list[_Entry], same_as: str) -> Iterator[str]:
    """One item for members that were told of before, else one for each."""
    if same_as:
        names = [entries[0].path, *(entry.path.rpartition(".")[2] for entry in entries[1:])]
        yield _wrapped(f"- {', '.join(f'`{name}`' for name in names)}: as of `{same_as}`")
        return
    for path, told, text, _ in entries:
        yield _wrapped(f"- `{path}`{f' ({told})' if told else ''}: {text}")


def _wrapped(item: str) -> str:
    """Lines of at most the width; code is not broken."""
    held = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", _BLANK_IN_CODE), item)
    lines = textwrap.fill(held, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines.replace(_BLANK_IN_CODE, " ")


class _Reader:
    """Members in their order; remembers what it told."""

    def __init__(self) -> None:
        self._parts: dict[type, _Place] = {}
        self._leaves: dict[_Entry, str] = {}
        self._choices: dict[str, str] = {}

    def members(self, part: type, prefix: str, given: Any = None) -> Iterator[_Entry]:
        """The members of *part*; a part that was told of before is named instead of what it holds."""
        hints = get_type_hints(part, include_extras=True)
        for field in documented_fields(part, hints):
            inner, text = without_annotation(hints[field.name])
            path = f"{prefix}{field.name}"
            value = getattr(given, field.name) if given is not None else default_of(field)
            held, suffix = element_type(inner)
            if not (isinstance(held, type) and issubclass(held, msgspec.Struct)):
                yield self._leaf(path, self._told(path, inner, value), text)
                continue
            inside, known = (None if suffix else value), self._parts.get(held)
            told = self._told(path, inner, value) if suffix else ""
            yield _Entry(path, told, text + (_as_before(known, inside) if known else ""))
            if known is None:
                self._parts[held] = _Place(path + suffix, inside)
                yield from self.members(held, f"{path}{suffix}.", inside)

    def _leaf(self, path: str, told: str, text: str) -> _Entry:
        """The member, or the place that told of one with the same name, default and meaning."""
        parent, _, name = path.rpartition(".")
        first = self._leaves.setdefault(_Entry(name, told, text), parent)
        return _Entry(path, told, text, first if first != parent else "")

    def _told(self, path: str, kind: Any, value: Any) -> str:
        """The default alone where it shows the type, the type alone where the default is nothing."""
        name = type_text(kind)
        if name.count(" / ") >= _MANY_CHOICES:
            choices = name[name.index("`") : name.rindex("`") + 1]
            first = self._choices.setdefault(choices, path)
            name = name if first == path else name.replace(choices, f"those of `{first}`")
        if value is msgspec.NODEFAULT:
            return f"{name}, {default_text(value)}"
        if value is None or (isinstance(value, tuple | dict) and not value):
            return name
        return default_text(value) if name in _TOLD_BY_DEFAULTS else f"{name}, {default_text(value)}"


def _as_before(known: _Place, values: Any) -> str:
    """The place that tells of the same part, and defaults that differ here."""
    differing = []
    if values is not None and known.given is not None:
        differing = [
            f"`{name}` {default_text(getattr(values, name))}"
            for name in values.__struct_fields__
            if getattr(values, name) != getattr(known.given, name)
        ]
    return f"; members as of `{known.path}`" + (f", but {', '.join(differing)}" if differing else "")
