"""Compact index of the API's operations, from which the command line makes commands (`api/cli/operations.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

LEFT_OUT = ("gateways", "hooks", "shared signals")
"""Tags of operations that gateways, products and transmitters call, each with its own protocol."""
STREAM = "/stream"
"""An answer without an end does not belong to a command."""
METHODS = ("get", "post", "put", "patch", "delete")


def operations_index(document: dict[str, Any]) -> str:
    """The index as JSON, one operation per line."""
    lines = [
        f"{json.dumps(operation['operationId'])}: {json.dumps(entry, ensure_ascii=False, separators=(',', ':'))}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS and (entry := _entry(document, method, path, operation)) is not None
    ]
    return "{\n" + ",\n".join(sorted(lines)) + "\n}\n"


def _entry(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> dict[str, Any] | None:
    """Entry of one operation; None: it takes or answers what a command cannot."""
    bodies = operation.get("requestBody", {}).get("content", {})
    if operation["tags"][0] in LEFT_OUT or path.endswith(STREAM) or (bodies and [*bodies] != ["application/json"]):
        return None
    answers = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
    answer = next(iter(answers.get("content", {"": {}}).values()))
    members = [_member(document, given["name"], given["in"], given) for given in operation.get("parameters", ())]
    members += [member for body in bodies.values() for member in _body_members(document, body["schema"])]
    entry = {
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "description": operation.get("description", ""),
        "members": members,
        "paged": "next_cursor" in _resolve(document, answer.get("schema", {})).get("properties", {}),
    }
    return {name: value for name, value in entry.items() if value not in ("", [], False)}


def _body_members(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    resolved = _resolve(document, schema)
    for name, member in resolved.get("properties", {}).items():
        required = name in resolved.get("required", ())
        yield _member(document, name, "body", {**member, "schema": member, "required": required})


def _member(document: dict[str, Any], name: str, place: str, declared: dict[str, Any]) -> dict[str, Any]:
    """A parameter or a member of the body: what its option needs."""
    schema = _resolve(document, declared["schema"])
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    default = schema.get("default")
    if len(choices) == 1:
        schema = {**schema, **_resolve(document, choices[0])}
    items = _resolve(document, schema.get("items", {}))
    many = schema.get("type") == "array" and items.get("type") == "string"
    words = all(isinstance(choice, str) for choice in schema.get("enum", [None]))
    kind = "string" if many or words else schema.get("type", "any")
    member = {
        "name": name,
        "place": place,
        "kind": kind,
        "required": declared.get("required", False),
        "many": many,
        "choices": (items if many else schema).get("enum", []),
        "default": default,
        "help": declared.get("description", "").removesuffix(".").removesuffix(", percent-encoded once"),
    }
    return {name: value for name, value in member.items() if value not in (None, "", [], False, "string")}


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference names."""
    if "$ref" not in schema:
        return schema
    named: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return named
