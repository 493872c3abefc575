"""The console, where it is enabled, and the page of the API: what the slice adds to the application."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from ..http.dependencies import RequireScopeUnlessLocal, declared
from ..http.openapi_document import SCHEMA_REF_PREFIX
from ..http.runtime import Runtime
from ..http.slice import MountedApplication, ServiceRegistry, Slice
from .console_app import ConsoleApplication

router = APIRouter(include_in_schema=False)

_environment = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__, "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


_rendering = threading.Lock()
_STYLE = (Path(__file__).parent / "templates" / "api.css").read_text(encoding="utf-8")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@router.get("/docs", dependencies=[declared(RequireScopeUnlessLocal(""))])
def get_docs(request: Request) -> HTMLResponse:
    """From this machine, or with any valid token, as `/openapi.json`. Rendered once: the document does not change."""
    state = request.app.state
    with _rendering:
        if not hasattr(state, "docs_page"):
            state.docs_page = render_docs(request.app.openapi(), _STYLE).encode()
    return HTMLResponse(state.docs_page, headers=_HEADERS)


def render_docs(document: dict[str, Any], style: str) -> str:
    """The page of a document: operations by group, then schemas."""
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            groups[operation["tags"][0]].append({**operation, "method": method.upper(), "path": path})
    return _environment.get_template("api.html").render(
        info=document["info"],
        style=style,
        tags={tag["name"]: tag["description"] for tag in document["tags"]},
        groups=groups,
        schemas=document["components"]["schemas"],
        proofs=document["components"]["securitySchemes"],
        kind=kind_of,
        named=schema_name,
        as_json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )


def schema_name(schema: dict[str, Any]) -> str:
    """Name of the schema that *schema* is, or that its items or first alternative are; "" = it has none."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(SCHEMA_REF_PREFIX)
    for below in (schema.get("items"), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(below, dict) and (name := schema_name(below)):
            return name
    return ""


def kind_of(schema: dict[str, Any]) -> str:
    """A schema in a few words.

    >>> kind_of({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'array of string or null'
    """
    if "$ref" in schema:
        return schema_name(schema)
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return " or ".join(dict.fromkeys(map(kind_of, schema[name])))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"array of {kind_of(schema.get('items') or {})}"
    return str(schema.get("type", "any"))


def _applications(services: ServiceRegistry) -> Sequence[MountedApplication]:
    enabled = services.get(Runtime).settings.console.enabled
    return (ConsoleApplication(services),) if enabled else ()


SLICE = Slice("console", routers=(router,), applications=_applications)
