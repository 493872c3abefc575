"""What is compared and recorded, by name: one function each, made by the program as it is now."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from . import shapes
from .support import (
    INPUTS,
    Row,
    Service,
    command_tree,
    declared_metrics,
    on_postgres,
    read_rows,
    run,
    settings_markdown,
    settings_type,
)
from .support import settings_variables as variables

WEEK = INPUTS / "week.jsonl.gz"
MODEL = INPUTS / "model.zip"
LEARN = {"replay-learn.jsonl.gz": "--learn", "replay-no-learn.jsonl.gz": "--no-learn"}
BACKTEST = "backtest.jsonl.gz"
LIVE = "live.jsonl.gz"
POSTGRES = "postgres.jsonl"
WENT_ON, WENT_ON_DISTRIBUTED = "went-on.jsonl.gz", "went-on-distributed.jsonl.gz"
APPLIED_ANEW = "applied-anew.jsonl.gz"


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


def replayed(folder: Path, model: Path, learn: str) -> list[Row]:
    """Lines of `replay` over the week, then its summary without how long it took."""
    out = folder / "scores.jsonl"
    summary = json.loads(run("replay", WEEK, "--model", model, "--out", out, learn, "--json"))
    del summary["seconds"]
    return [*read_rows(out), {"summary": summary}]


def backtest(model: Path) -> Row:
    """What `backtest` says of the week, without where files are and how long it took."""
    told: Row = json.loads(run("backtest", WEEK, "--model", model, "--jobs", 1, "--json"))
    for name in ("files", "seconds", "report"):
        del told[name]
    for side in told["sides"]:
        del side["model"]
    return told


# What a service that runs makes of events

FLEETING = ("decision_id", "decided_at", "expires_at", "stale", "partition", "offset")
"""Left out of what is compared: ids and times of deciding and answering are of the wall clock; partition and offset are
of the log that the events came by, which is another one with Kafka."""


def live(service: Service) -> list[Row]:
    """Every decision with its reasons and all that it rests on, every agent, and the answer about each."""
    agents = service.pages("/v1/agents")
    answers = [
        service.get(f"/v1/agents/{quote(one['agent_id'], safe='')}/risk", tenant=one["tenant"], issuer=one["issuer"])
        for one in agents
    ]
    rows = [{"decision": lasting(one)} for one in in_order(service.pages("/v1/decisions"))]
    rows += [{"agent": lasting(one)} for one in agents]
    return rows + [{"answer": lasting(one)} for one in answers]


def lasting(row: Row) -> Row:
    """A row without what is another in every run."""
    return {name: value for name, value in row.items() if name not in FLEETING}


def in_order(decisions: list[Row]) -> list[Row]:
    """Per agent as they happened: with several partitions agents overtake each other."""
    return sorted(decisions, key=lambda one: (one["tenant"], one["issuer"], one["agent_id"], one["offset"]))


def week() -> list[bytes]:
    """Events of the week, one a line."""
    return gzip.decompress(WEEK.read_bytes()).splitlines()


def lived(folder: Path, model: Path) -> list[Row]:
    """What the whole service in one process makes of the week."""
    with Service(folder, model) as service:
        service.send(week())
        service.settle()
        return live(service)


def postgres_schema(folder: Path, model: Path, postgres: Any) -> list[Row]:
    """The tables that a service makes in PostgreSQL."""
    database = postgres.create_database()
    with Service(folder, model, on_postgres(folder, postgres, database)):
        return shapes.postgres_rows(lambda query: postgres.sql(query, database))
