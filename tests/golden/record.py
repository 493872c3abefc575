"""Records golden results anew: `python -m tests.golden.record [FILE…]` from the root of the repository; FILE is a name
in tests/golden/recorded, default all. What is recorded from stays: the week and the model in tests/golden/inputs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .collecting import (
    BACKTEST,
    DECLARED,
    LEARN,
    LIVE,
    MODEL,
    POSTGRES,
    SERVED,
    backtest,
    lived,
    postgres_schema,
    replay,
    serve,
)
from .support import HERE, RECORDED, machine, unpack, write_rows


def main(wanted: list[str]) -> None:
    """Write the files that are wanted."""

    def chosen(names: Iterable[str]) -> list[str]:
        return [name for name in names if not wanted or name in wanted]

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = unpack(MODEL, folder / "model")
        for name in chosen(DECLARED):
            write_rows(RECORDED / name, DECLARED[name]())
        served = serve(folder / "service", model) if chosen(SERVED) else None
        for name in chosen(SERVED):
            write_rows(RECORDED / name, SERVED[name](served))
        for name in chosen(LEARN):
            lines, summary = replay(folder, model, LEARN[name])
            write_rows(RECORDED / name, [*lines, {"summary": summary}])
        for name in chosen([BACKTEST]):
            write_rows(RECORDED / name, [backtest(model)])
        for name in chosen([LIVE]):
            write_rows(RECORDED / name, lived(folder / "live", model))
        for name in chosen([POSTGRES]):
            with server(folder / "server") as postgres:
                write_rows(RECORDED / name, postgres_schema(folder / "on-postgres", model, postgres))
    if not wanted:
        (RECORDED / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


@contextmanager
def server(folder: Path) -> Iterator[Any]:
    """A PostgreSQL server for as long as this lasts."""
    sys.path.insert(0, str(HERE.parents[1] / "scripts"))  # service_stack is no part of what is installed
    from service_stack import Postgres

    started = Postgres(folder, bound=True)
    started.start()
    try:
        yield started
    finally:
        started.remove()


if __name__ == "__main__":
    main(sys.argv[1:])
