"""The surface of the program as rows to compare: shapes without prose, and without names that nobody outside uses."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import msgspec

from .support import Row

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
KEPT = (
    "type",
    "format",
    "enum",
    "const",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
)


# OpenAPI


def openapi_rows(document: Row) -> list[Row]:
    """Every operation with its parameters, bodies and answers, member by member; schemas are followed by reference."""
    rows: list[Row] = []
    for path, item in sorted(document["paths"].items()):
        for method in METHODS:
            if method in item:
                rows += _operation(f"{method.upper()} {path}", item[method], document)
    return rows


def _operation(name: str, operation: Row, document: Row) -> Iterator[Row]:
    yield {"operation": name, "security": operation.get("security", [])}
    for one in sorted(operation.get("parameters", []), key=lambda one: (one["in"], one["name"])):
        part = f"{one['in']} {one['name']}"
        yield {"operation": name, "part": part, "required": one.get("required", False)}
        yield from _members(name, part, one["schema"], document)
    if (body := operation.get("requestBody")) is not None:
        yield {"operation": name, "part": "body", "required": body.get("required", False)}
        yield from _contents(name, "body", body["content"], document)
    for status, answer in sorted(operation["responses"].items()):
        yield {"operation": name, "part": status, "headers": sorted(answer.get("headers", {}))}
        yield from _contents(name, status, answer.get("content", {}), document)


def _contents(name: str, part: str, content: Row, document: Row) -> Iterator[Row]:
    for media, held in sorted(content.items()):
        yield from _members(name, f"{part} {media}", held.get("schema", {}), document)


def _members(name: str, part: str, schema: Row, document: Row) -> Iterator[Row]:
    for member, shape in schema_members(schema, document):
        yield {"operation": name, "part": part, "member": member, **shape}


def schema_members(schema: Row, document: Row, at: str = "$", above: tuple[str, ...] = ()) -> Iterator[tuple[str, Row]]:
    """(path, shape) of a JSON Schema and of all that stands below it."""
    reference = schema.get("$ref")
    if reference is not None:
        if reference in above:
            yield at, {"as": len(above) - above.index(reference)}  # as so many levels above
            return
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        yield from schema_members(target, document, at, (*above, reference))
        return
    shape = {key: schema[key] for key in KEPT if key in schema}
    if "properties" in schema:
        shape["required"] = sorted(schema.get("required", []))
    if isinstance(schema.get("additionalProperties"), bool):
        shape["additional"] = schema["additionalProperties"]
    yield at, shape
    for step, below in _below(schema):
        yield from schema_members(below, document, at + step, above)


def _below(schema: Row) -> Iterator[tuple[str, Row]]:
    for name, below in sorted(schema.get("properties", {}).items()):
        yield f".{name}", below
    for key, step in (("items", "[]"), ("additionalProperties", ".*"), ("propertyNames", ".names")):
        if isinstance(schema.get(key), dict):
            yield step, schema[key]
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, below in enumerate(schema.get(key, [])):
            yield f"({key} {number})", below


# The command line


def help_rows(command: Any, path: tuple[str, ...] = ()) -> Iterator[Row]:
    """Every command with its options and arguments: names, types, choices and bounds, defaults."""
    name = " ".join(path) or "trustwatch"
    yield {"command": name, "commands": sorted(getattr(command, "commands", {})), "hidden": command.hidden}
    for one in sorted(command.params, key=lambda one: (one.param_type_name, one.name)):
        yield {"command": name, **_parameter(one)}
    for below in sorted(getattr(command, "commands", {})):
        yield from help_rows(command.commands[below], (*path, below))


def _parameter(one: Any) -> Row:
    default = one.default() if callable(one.default) else one.default
    return {
        "kind": one.param_type_name,
        "names": sorted([*one.opts, *one.secondary_opts]),
        **_type(one),
        "required": one.required,
        "many": bool(getattr(one, "multiple", False)) or one.nargs != 1,
        "flag": bool(getattr(one, "is_flag", False)),
        "default": _plain(default),
        "variable": one.envvar,
        "hidden": bool(getattr(one, "hidden", False)),
    }


def _type(one: Any) -> Row:
    """Type, bounds and formats of a value, as typer's own click keeps them (since 0.27)."""
    held = one.type_descriptor
    kind = held.annotation
    told = {"min": one.min, "max": one.max, "formats": getattr(held.parameter_info, "formats", None)}
    shown = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
    return {"type": shown, **{name: _plain(value) for name, value in told.items() if value is not None}}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else str(value)


# Settings


def settings_rows(table: str, kind: type, variables: dict[str, str]) -> Iterator[Row]:
    """The table row by row without its prose, with the bounds of the declarations; then variables."""
    bounds = dict(_bounds(msgspec.inspect.type_info(kind), ""))
    for line in table.splitlines()[2:]:
        member, kind_, default, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"), maxsplit=3))
        name = member.strip("`")
        yield {"member": name, "type": kind_, "default": default, **bounds.get(name, {})}
    for variable, member in sorted(variables.items()):
        yield {"variable": variable, "member": member}


def _bounds(kind: Any, at: str) -> Iterator[tuple[str, Row]]:
    """(member, bounds) of every member that has some."""
    if hasattr(kind, "fields"):
        for field in kind.fields:
            yield from _bounds(field.type, f"{at}.{field.encode_name}".removeprefix("."))
        return
    names = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern")
    if found := {name: value for name in names if (value := getattr(kind, name, None)) is not None}:
        yield at, found
    if hasattr(kind, "item_type"):
        yield from _bounds(kind.item_type, f"{at}[]")
    elif hasattr(kind, "value_type"):
        yield from _bounds(kind.value_type, f"{at}.NAME")
    elif hasattr(kind, "types"):
        for one in kind.types:
            yield from _bounds(one, at)
    elif hasattr(kind, "type"):
        yield from _bounds(kind.type, at)


# Metrics


def scraped_rows(text: str) -> list[Row]:
    """Names and types of an answer of /metrics, and the buckets of histograms.

    Labels are those of the declarations: whether there are samples that show them depends on what was asked before.
    Times of creation are the library's, not ours.
    """
    buckets: dict[str, list[str]] = {}
    for name, bound in re.findall(r'^(\w+)_bucket\{.*?le="([^"]+)"', text, re.MULTILINE):
        if bound not in buckets.setdefault(name, []):
            buckets[name].append(bound)
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return [
        {"name": name, "type": kind, "buckets": buckets.get(name, [])}
        for name, kind in sorted(kinds)
        if not name.endswith("_created")
    ]


# Databases


def sqlite_rows(path: Path) -> list[Row]:
    """Tables, columns, keys, indexes and triggers of a SQLite database, and the revision of its tables."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [
            name for (name,) in database.execute("select name from sqlite_master where type = 'table' order by name")
        ]
        rows = [row for name in tables for row in _table(database, name)]
        others = "select type, name, sql from sqlite_master where type in ('view', 'trigger') order by name"
        rows += [{kind: name, "sql": " ".join(sql.split())} for kind, name, sql in database.execute(others)]
        ((revision,),) = database.execute("select version_num from alembic_version").fetchall()
        return [*rows, {"revision": revision}]


def _table(database: sqlite3.Connection, table: str) -> Iterator[Row]:
    for _, name, kind, not_null, default, key in database.execute(f"pragma table_info({table})").fetchall():
        yield {"table": table, "column": name, "type": kind, "not_null": bool(not_null), "default": default, "key": key}
    indexes = database.execute(f"pragma index_list({table})").fetchall()
    for _, name, unique, origin, partial in sorted(indexes, key=lambda index: str(index[1])):
        columns = [column for _, _, column in database.execute(f"pragma index_info({name})")]
        ((sql,),) = database.execute("select sql from sqlite_master where name = ?", (name,)).fetchall()
        where = " ".join(sql.split()).partition(" WHERE ")[2] if partial else ""
        yield {"table": table, "index": name, "unique": bool(unique), "of": origin, "columns": columns, "where": where}
    for row in sorted(database.execute(f"pragma foreign_key_list({table})").fetchall()):
        yield {"table": table, "foreign": list(row[2:7])}


POSTGRES = {
    "column": """select table_name, column_name, data_type, collation_name, is_nullable, column_default,
        ordinal_position from information_schema.columns where table_schema = 'public'""",
    "index": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'",
    "constraint": """select conrelid::regclass, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace and contype <> 'n'""",
    "storage": """select relname, relkind, reloptions from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'S', 'v')""",
    "revision": "select version_num from alembic_version",
}
"""What to ask for the schema of PostgreSQL. The tables of weeks are named after the time of the test: not compared."""
WEEK = re.compile(r"\bdecisions_\d{8}")
NUMBERED = re.compile(r"_idx\d+\b")
"""The end of names that PostgreSQL gives to indexes of partitions. SQLAlchemy creates indexes in any order."""


def postgres_rows(ask: Any) -> list[Row]:
    """The same of PostgreSQL; *ask* gives the rows of a query, each as text with `|` between its columns."""
    return [
        {"what": what, "row": row}
        for what, query in POSTGRES.items()
        for row in sorted(NUMBERED.sub("_idx", row) for row in ask(" ".join(query.split())).splitlines())
        if not WEEK.search(row)
    ]
