"""Records golden results anew: `python -m tests.golden.record [FILE…]` from the root of the repository; FILE is a name
in tests/golden/recorded, default all. What is recorded from stays: the week and the model in tests/golden/inputs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .collecting import DECLARED, MODEL, SERVED, backtest, replay, serve
from .support import RECORDED, machine, unpack, write_rows

LEARN = {"replay-learn.jsonl.gz": "--learn", "replay-no-learn.jsonl.gz": "--no-learn"}
BACKTEST = "backtest.jsonl.gz"


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
    if not wanted:
        (RECORDED / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
