"""The OpenAPI document: FastAPI's own, and what FastAPI does not know.

Added are the schema of events, the paths that are answered before FastAPI (hooks, gateways), scopes as alternatives,
groups, and descriptions and examples of members. `reference/openapi.json` is this document; a test compares them.
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
    "service": "Health, readiness, metrics, the schema of events and the token policy.",
    "events": "Send audit events: native events, CloudEvents, and traces and logs of OpenTelemetry.",
    "dead letters": "Records that were refused, and replays of them.",
    "agents": "Risk of agents, from memory, and the release of an agent.",
    "decisions": "Changes of risk level: history, single decisions, a live stream.",
    "containment": "Verdicts on calls before they are made, approvals, pins, and what an agent reached.",
    "hooks": "Requests of authorization servers while a token is issued, in each product's own format.",
    "gateways": "Requests of gateways and resource servers about each call.",
    "actuations": "Changes that were made at authorization servers.",
    "alerts": "Deliveries of alerts, and test alerts.",
    "cases": "Related rises of risk, and what people do about them.",
    "acts": "Acts of people, whatever they are about.",
    "feedback": "Verdicts of people on decisions, and previews of the rules that follow from them.",
    "models": "Versions of the model, shadow mode, promotion, drift and the budget of alerts.",
    "privacy": "Erasures with signed proofs, exports, and the chain of decisions.",
    "shared signals": "Transmitter of security event tokens (OpenID SSF 1.0).",
}
"""Descriptions of the groups of operations."""


def complete_document(
    document: Document, parts: Iterable[Traversable], records: Sequence[type], scopes: Mapping[str, str]
) -> Document:
    """Complete FastAPI's document with *parts* (YAML files), the schemas of *records* and *scopes*. Returns it."""
    document = {name: _renamed(value) for name, value in document.items()}
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
    document["servers"] = [{"url": "/", "description": "The server that returned this document."}]
    for operation in operations_of(document):
        operation["security"] = [
            {scheme: [scope] if scope else []}  # one requirement for each scope: a token needs one of them
            for requirement in operation.get("security", [])
            for scheme, scopes_of_scheme in requirement.items()
            for scope in scopes_of_scheme or [""]
        ]
        text: str = operation.get("description", "")
        required = [scope for requirement in operation["security"] for scope in requirement.get(OAUTH_SCHEME, ())]
        if required and not re.search(r"[Ss]cope\s+`", text):  # else the description states them itself
            text = f"{text}\n\nRequires the scope {' or '.join(f'`{scope}`' for scope in required)}.".strip()
        operation["description"] = text
    used = {tag for operation in operations_of(document) for tag in operation.get("tags", ())}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    for name, schema in components["schemas"].items():
        if name.endswith(_PAGE_SUFFIX):
            schema.setdefault("description", "A page of items, and the cursor of the next one.")
        if "example" in schema:
            schema["examples"] = [schema.pop("example")]
        elif "examples" not in schema:
            schema["examples"] = [_example(schema, document)]
    _write_sentences(document)
    return document


def operations_of(document: Document) -> Iterator[Document]:
    """Return every operation of a document."""
    for item in document["paths"].values():
        yield from (item[method] for method in _METHODS if method in item)


def _renamed(value: Any) -> Any:
    """Give pages of items readable names, and the references to them."""
    if isinstance(value, dict):
        return {_PAGE_NAME.sub(r"\1PageOut", name): _renamed(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_renamed(below) for below in value]
    is_reference = isinstance(value, str) and value.startswith(SCHEMA_REF_PREFIX)
    return _PAGE_NAME.sub(r"\1PageOut", value) if is_reference else value


def _write_sentences(node: Any) -> None:
    """Make every description below *node* begin with a capital letter and end with a period."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "description" and isinstance(value, str) and value:
                words = re.sub(r"(?<![`\w])id(s?)(?![`\w])", r"ID\1", value)
                sentence = words[0].upper() + words[1:]
                node[name] = sentence if sentence[-1] in ".:!?…" else sentence + "."
            elif name not in ("example", "examples"):
                _write_sentences(value)
    elif isinstance(node, list):
        for below in node:
            _write_sentences(below)


def _example(schema: Document, document: Document) -> Any:
    """Return a value that fits a schema, made of the examples below it."""
    if "example" in schema:
        return schema["example"]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "$ref" in schema:
        node: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            node = node[step]
        return _example(node, document)
    for name in ("allOf", "anyOf", "oneOf"):
        if name in schema:
            return _example(schema[name][0], document)
    return _example_of_type(schema, document)


def _example_of_type(schema: Document, document: Document) -> Any:
    kind = str(schema.get("type"))
    if kind == "object":
        return {name: _example(member, document) for name, member in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema["items"], document)] if schema.get("items") else []
    plain = {"integer": schema.get("minimum", 0), "number": schema.get("minimum", 0), "boolean": True, "string": "text"}
    return plain.get(kind)
