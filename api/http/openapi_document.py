"""The OpenAPI document, made complete: FastAPI's own, and what FastAPI does not know.

Added are the schema of events, the paths that are answered before FastAPI (hooks, gateways), scopes as alternatives,
groups, and words and an example for every member. `reference/openapi.json` is this document, and a test keeps it so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, Final

import msgspec

from trustwatch.ingest.events import event_schema_components
from trustwatch.ingest.settings_reading import decode_yaml

Document = dict[str, Any]
SCHEMA_REF_PREFIX: Final = "#/components/schemas/"
OAUTH_SCHEME: Final = "oauth2"
_PAGE_SUFFIX: Final = "PageOut"
_PAGE_NAME = re.compile(r"PageOut_(\w+)Out_")
_METHODS: Final = ("get", "put", "post", "delete", "patch", "head", "options")


TAGS: Final[Mapping[str, str]] = {
    "service": "The service about itself: health, readiness, metrics, schema of events, token policy.",
    "events": "Audit events in: native events and CloudEvents, traces and logs of OpenTelemetry.",
    "dead letters": "Records that could not be taken in, and another try at them.",
    "agents": "Risk of agents, from memory; a person vouches for one.",
    "decisions": "Changes of level: history, single records, a live stream.",
    "containment": "Calls judged before they are made; approvals, pins, and what an agent reached.",
    "hooks": "Questions of authorization servers while a token is issued, in the shape of each product.",
    "gateways": "Questions of gateways and resource servers about each call.",
    "actuations": "What was changed at authorization servers.",
    "alerts": "Deliveries of alerts, and test alerts.",
    "cases": "Rises of risk that belong together, and what people do with them.",
    "acts": "What people did, whatever it was about.",
    "feedback": "A person says that a decision was right or wrong; previews of the rule that follows.",
    "models": "Versions, shadow, promotion, drift and the budget of alerts.",
    "privacy": "Erasures with signed proofs, exports, the chain of decisions.",
    "shared signals": "Transmitter of security event tokens (OpenID SSF 1.0).",
}
"""Descriptions of the groups of operations."""


def complete_document(
    document: Document, parts: Iterable[Traversable], records: Sequence[type], scopes: Mapping[str, str]
) -> Document:
    """Complete FastAPI's document with *parts* (YAML files), the schemas of *records* and *scopes*. Returns it."""
    document = _with_readable_names(document)
    components = document["components"]
    for part in parts:
        more = decode_yaml(part.read_bytes(), part.name)
        document["paths"].update(more["paths"])
        for kind, named in more["components"].items():
            components[kind].update(named)
    _, event_parts = event_schema_components(SCHEMA_REF_PREFIX)
    components["schemas"].update(event_parts)
    components["schemas"].update(msgspec.json.schema_components(records, ref_template=SCHEMA_REF_PREFIX + "{name}")[1])
    components["securitySchemes"][OAUTH_SCHEME]["flows"]["clientCredentials"]["scopes"] = dict(scopes)
    document["servers"] = [{"url": "/", "description": "where this document came from"}]
    for operation in operations_of(document):
        operation["security"] = _alternatives(operation.get("security", []))
    used = {tag for operation in operations_of(document) for tag in operation.get("tags", ())}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    for name, schema in components["schemas"].items():
        if name.endswith(_PAGE_SUFFIX):
            schema.setdefault("description", "A page of items, and where the next ones are.")
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


def _alternatives(security: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """One requirement for each scope: a token has to have one of them, never several."""
    return [
        {scheme: [scope] if scope else []}
        for requirement in security
        for scheme, scopes in requirement.items()
        for scope in scopes or [""]
    ]


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
