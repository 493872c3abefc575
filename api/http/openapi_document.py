"""The OpenAPI document, made complete: FastAPI's own, and what FastAPI does not know.

Added are the schema of events, the paths that are answered before FastAPI (hooks, gateways), scopes as alternatives,
groups, and words and an example for every member. `reference/openapi.json` is this document, and a test keeps it so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from trustwatch.ingest.events import event_schema_components

from .openapi_words import MEMBERS, PARAMETERS, TAGS

Document = dict[str, Any]
SCHEMA_REF_PREFIX: Final = "#/components/schemas/"
OAUTH_SCHEME: Final = "oauth2"
_PAGE_SUFFIX: Final = "PageOut"
_PAGE_NAME = re.compile(r"PageOut_(\w+)Out_")
_METHODS: Final = ("get", "put", "post", "delete", "patch", "head", "options")


class DescribedPaths(NamedTuple):
    """Part of the document that a slice writes itself, for what is answered before FastAPI.

    Attributes:
        paths: path items.
        schemas: schemas that they name.
        security_schemes: proofs that they ask for.
    """

    paths: Mapping[str, Any] = {}
    schemas: Mapping[str, Any] = {}
    security_schemes: Mapping[str, Any] = {}


def complete_document(document: Document, described: Sequence[DescribedPaths], scopes: Mapping[str, str]) -> Document:
    """Complete FastAPI's document; returns it.

    Args:
        document: as FastAPI makes it; changed in place, but for names of schemas.
        described: parts that slices write themselves.
        scopes: what each scope lets a token do.
    """
    document = _with_readable_names(document)
    components = document["components"]
    _, event_parts = event_schema_components(SCHEMA_REF_PREFIX)
    components["schemas"].update(event_parts)
    for part in described:
        document["paths"].update(part.paths)
        components["schemas"].update(part.schemas)
        components["securitySchemes"].update(part.security_schemes)
    components["securitySchemes"][OAUTH_SCHEME]["flows"]["clientCredentials"]["scopes"] = dict(scopes)
    document["servers"] = [{"url": "/", "description": "where this document came from"}]
    for operation in operations_of(document):
        operation["security"] = _alternatives(operation.get("security", []))
        _describe_parameters(operation)
    used = {tag for operation in operations_of(document) for tag in operation.get("tags", ())}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    for name, schema in components["schemas"].items():
        _describe_members(name, schema)
        if name.endswith(_PAGE_SUFFIX):
            schema.setdefault("description", "A page of items, and where the next ones are.")
    for name, section in (("paths", document), ("schemas", components)):
        section[name] = _with_members_in_place(section[name], document)
    for operation in operations_of(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schema = content.get("schema", {})
            _describe_members(schema.get("title", ""), schema)
    for schema in components["schemas"].values():
        _give_example(schema, document)
    return document


def operations_of(document: Document) -> Iterator[Document]:
    """Every operation of a document."""
    for item in document["paths"].values():
        yield from (item[method] for method in _METHODS if method in item)


def _with_readable_names(document: Document) -> Document:
    """Pages are named after their items: what FastAPI calls a page of something ends in its own suffix then."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {_readable(name): renamed(below) for name, below in value.items()}
        if isinstance(value, list):
            return [renamed(below) for below in value]
        return _readable(value) if isinstance(value, str) and value.startswith(SCHEMA_REF_PREFIX) else value

    return {name: renamed(value) for name, value in document.items()}


def _readable(name: str) -> str:
    return _PAGE_NAME.sub(r"\1PageOut", name)


def _with_members_in_place(value: Any, document: Document) -> Any:
    """A reference to a member of a schema is that member: generators of clients follow schemas alone."""
    if isinstance(value, list):
        return [_with_members_in_place(below, document) for below in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref", "")
    if isinstance(reference, str) and "/properties/" in reference:
        return _resolved(reference, document) | {name: below for name, below in value.items() if name != "$ref"}
    return {name: _with_members_in_place(below, document) for name, below in value.items()}


def _alternatives(security: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """One requirement for each scope: a token has to have one of them, never several."""
    return [
        {scheme: [scope] if scope else []}
        for requirement in security
        for scheme, scopes in requirement.items()
        for scope in scopes or [""]
    ]


def _describe_parameters(operation: Document) -> None:
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        if "description" not in parameter and (text := PARAMETERS.get(name) or _member_text(name)):
            parameter["description"] = text


def _member_text(name: str) -> str | None:
    return MEMBERS[name].text if name in MEMBERS else None


def _describe_members(schema_name: str, schema: Document) -> None:
    for name, member in schema.get("properties", {}).items():
        words = MEMBERS.get(f"{schema_name}.{name}") or MEMBERS.get(name)
        if words is not None:
            member.setdefault("description", words.text)
            if words.example is not None and "example" not in member:
                member.setdefault("examples", [words.example])


def _give_example(schema: Document, document: Document) -> None:
    """Have `examples` stand where JSON Schema has them, with one made of the members' own where there is none."""
    if "example" in schema:
        schema["examples"] = [schema.pop("example")]
    elif "examples" not in schema:
        schema["examples"] = [_example(schema, document)]


def _example(schema: Document, document: Document) -> Any:
    """A value that fits a schema, of the examples below it."""
    if "example" in schema:
        return schema["example"]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "$ref" in schema:
        return _example(_resolved(schema["$ref"], document), document)
    if "allOf" in schema:
        return _example(schema["allOf"][0], document)
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return _example(schema[name][0], document)
    return _example_of_type(schema, document)


def _example_of_type(schema: Document, document: Document) -> Any:
    match schema.get("type"):
        case "object":
            return {name: _example(member, document) for name, member in schema.get("properties", {}).items()}
        case "array":
            return [_example(schema["items"], document)] if schema.get("items") else []
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
        case "string":
            return "text"
        case _:
            return None


def _resolved(reference: str, document: Document) -> Document:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return dict(node)
