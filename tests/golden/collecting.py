"""What is compared and recorded, by name: one function each, made by the program as it is now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import shapes
from .support import INPUTS, Row, Service, command_tree, declared_metrics, run, settings_markdown, settings_type
from .support import settings_variables as variables

WEEK = INPUTS / "week.jsonl.gz"
MODEL = INPUTS / "model.zip"


class Served(NamedTuple):
    """What a service tells of itself, and the database that it made."""

    openapi: Row
    event_schema: Row
    metrics: str
    database: Path


def serve(folder: Path, model: Path) -> Served:
    """Start the whole service once, ask, and end it."""
    with Service(folder, model) as service:
        openapi, schema = service.get("/openapi.json"), service.get("/v1/schema/audit-event")
        metrics = service.client.get("/metrics").text
    return Served(openapi, schema, metrics, folder / "data" / "trustwatch.db")


def event_schema(served: Served) -> list[Row]:
    """The published JSON Schema of the audit event."""
    members = shapes.schema_members(served.event_schema, served.event_schema)
    return [{"member": member, **shape} for member, shape in members]


SERVED: dict[str, Callable[[Served], list[Row]]] = {
    "openapi.jsonl": lambda served: shapes.openapi_rows(served.openapi),
    "event-schema.jsonl": event_schema,
    "metrics-scraped.jsonl": lambda served: shapes.scraped_rows(served.metrics),
    "sqlite.jsonl": lambda served: shapes.sqlite_rows(served.database),
}
"""File of the golden rows -> how they are made from what a service tells."""

DECLARED: dict[str, Callable[[], list[Row]]] = {
    "help.jsonl": lambda: list(shapes.help_rows(command_tree())),
    "settings.jsonl": lambda: list(
        shapes.settings_rows(
            settings_markdown(), settings_type(), {name: ".".join(path) for name, path in variables().items()}
        )
    ),
    "metrics.jsonl": declared_metrics,
}
"""The same from what the program declares."""


def replay(folder: Path, model: Path, learn: str) -> tuple[list[Row], Row]:
    """Lines of `replay` over the week, and its summary without how long it took."""
    out = folder / "scores.jsonl"
    summary = json.loads(run("replay", WEEK, "--model", model, "--out", out, learn, "--json"))
    del summary["seconds"]
    return [json.loads(line) for line in out.read_text().splitlines()], summary


def backtest(model: Path) -> Row:
    """What `backtest` says of the week, without where files are and how long it took."""
    told: Row = json.loads(run("backtest", WEEK, "--model", model, "--jobs", 1, "--json"))
    for name in ("files", "seconds", "report"):
        del told[name]
    for side in told["sides"]:
        del side["model"]
    return told
