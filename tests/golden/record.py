"""Records golden results anew: `python -m tests.golden.record [FILE…]` from the root of the repository.

FILE is a name in tests/golden/recorded, default all. What is recorded from stays: the week and the model in
tests/golden/inputs, and what 0.1 wrote in tests/golden/data_0_1. Starts Kafka and PostgreSQL (scripts/services).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from .collecting import (
    APPLIED_ANEW,
    BACKTEST,
    DECLARED,
    LEARN,
    LIVE,
    MODEL,
    POSTGRES,
    SERVED,
    WENT_ON,
    WENT_ON_DISTRIBUTED,
    Served,
    backtest,
    lived,
    postgres_schema,
    replayed,
    serve,
)
from .opening import distributed, embedded, later, restore, went_on
from .support import RECORDED, Row, machine, unpack, write_rows


class Recording:
    """What several files are made from; each is started for the first that needs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> Path:
        return unpack(MODEL, self.folder / "model")

    @cached_property
    def served(self) -> Served:
        return serve(self.folder / "service", self.model)


def went_on_embedded(recording: Recording) -> list[Row]:
    """What becomes of the store and the log of 0.1."""
    folder = recording.folder
    with embedded(folder / "went-on", unpack(MODEL, folder / "model-0-1")) as service:
        service.send(later())
        service.settle()
        return went_on(service)


def went_on_distributed(recording: Recording) -> list[Row]:
    """What becomes of the database and the topics of 0.1."""
    folder = recording.folder
    model = unpack(MODEL, folder / "model-0-1-distributed")
    with server(folder / "server") as postgres, broker(folder / "broker") as kafka:
        database = postgres.create_database()
        restore(postgres, database)
        with distributed(folder / "distributed", model, postgres, database, kafka, "old") as service:
            service.send(later())
            service.settle_topics()
            return went_on(service)


def applied_anew(recording: Recording) -> list[Row]:
    """What the topic of 0.1 comes to where nothing is stored of it."""
    folder = recording.folder
    model = unpack(MODEL, folder / "model-anew")
    with server(folder / "server-anew") as postgres, broker(folder / "broker-anew") as kafka:
        database = postgres.create_database()
        with distributed(folder / "anew", model, postgres, database, kafka, "anew", "events") as service:
            service.send(later())
            service.settle_topics()
            return went_on(service)


def on_a_server(recording: Recording) -> list[Row]:
    with server(recording.folder / "server-of-tables") as postgres:
        return postgres_schema(recording.folder / "on-postgres", recording.model, postgres)


MAKERS: dict[str, Callable[[Recording], list[Row]]] = {
    **{name: partial(lambda rows, _: rows(), rows) for name, rows in DECLARED.items()},
    **{name: partial(lambda rows, recording: rows(recording.served), rows) for name, rows in SERVED.items()},
    **{
        name: partial(lambda option, recording: replayed(recording.folder, recording.model, option), option)
        for name, option in LEARN.items()
    },
    BACKTEST: lambda recording: [backtest(recording.model)],
    LIVE: lambda recording: lived(recording.folder / "live", recording.model),
    POSTGRES: on_a_server,
    WENT_ON: went_on_embedded,
    WENT_ON_DISTRIBUTED: went_on_distributed,
    APPLIED_ANEW: applied_anew,
}
"""Each golden file, and how its rows are made."""


def main(wanted: list[str]) -> None:
    if unknown := set(wanted) - MAKERS.keys():
        sys.exit(f"no such golden file: {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    with tempfile.TemporaryDirectory() as made:
        recording = Recording(Path(made))
        for name in wanted or MAKERS:
            write_rows(RECORDED / name, MAKERS[name](recording))
    if not wanted:
        (RECORDED / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


@contextmanager
def server(folder: Path) -> Iterator[Any]:
    """A PostgreSQL server for as long as this lasts."""
    from scripts.service_stack import Postgres

    started = Postgres(folder, bound=True)
    started.start()
    try:
        yield started
    finally:
        started.remove()


@contextmanager
def broker(folder: Path) -> Iterator[Any]:
    """A Kafka broker for as long as this lasts; within `server`."""
    from scripts.service_stack import KafkaCluster

    started = KafkaCluster(folder, bound=True)
    started.start()
    try:
        yield started
    finally:
        started.remove()


if __name__ == "__main__":
    main(sys.argv[1:])
