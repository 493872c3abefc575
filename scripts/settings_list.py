"""The settings as a list for `reference/settings.md`, one heading per part."""

from __future__ import annotations

from collections.abc import Iterator

from trustwatch.api.settings.reloading import RELOADABLE
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.settings_table import table_rows

RELOAD_MARK = " **[reload]**"
"""Follows the meaning of members that become active without a restart, with all below them."""

Row = tuple[str, str, str, str]
"""Path, type, default, meaning."""


def settings_list() -> str:
    """Markdown list of all settings; those that repeat another part's are named once."""
    rows = list(_without_repetitions(list(table_rows(Settings))))
    parts = {path.split(".")[0].removesuffix("[]") for path, *_ in rows if "." in path}
    lines = [_item(row) for row in rows if row[0] not in parts and "." not in row[0]]
    for path, kind, _, text in rows:
        if path in parts:
            many = kind.removesuffix("part").replace("list of ", "A list: ").replace("mapping of ", "By name: ")
            lines += ["", f"## {path}", "", f"{many}{text}{_reload_mark(path)}", ""]
            lines += [_item(row) for row in rows if row[0].split(".")[0].removesuffix("[]") == path and row[0] != path]
    return "\n".join(lines) + "\n"


def _item(row: Row) -> str:
    path, kind, default, text = row
    return f"- `{path}` ({_type_and_default(kind, default)}): {text}{_reload_mark(path)}"


def _type_and_default(kind: str, default: str) -> str:
    """The type without what follows from an empty default: null, or a list or mapping of texts."""
    short = kind.replace("` / `", "`/`")
    if default in ("", "`[]`", "`{}`", '`""`', "`null`"):
        return short.removesuffix(" or null").removesuffix(" of text")
    return f"{short.removesuffix(' of text')}, {default}"


def _reload_mark(path: str) -> str:
    return RELOAD_MARK if path.replace("[]", "") in RELOADABLE else ""


def _without_repetitions(rows: list[Row]) -> Iterator[Row]:
    """*rows* without those that repeat one of another part: the row of their part names them."""
    first: dict[tuple[str, ...], str] = {}
    kept: list[Row] = []
    repeated: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        part, _, name = row[0].rpartition(".")
        place = first.setdefault((name, *row[1:]), part)
        if place == part:
            kept.append(row)
        else:
            repeated.setdefault(part, {}).setdefault(place, []).append(f"`{name}`")
    for path, kind, default, text in kept:
        also = [
            f"also {', '.join(names)} as of `{place}`"
            for suffix in ("", "[]", ".NAME")
            for place, names in repeated.get(path + suffix, {}).items()
        ]
        yield path, kind, default, "; ".join([text, *also])
