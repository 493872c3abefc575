"""Commits for ever, one offset at a time, until it is killed (argument: the store's URL)."""

from __future__ import annotations

import sys

from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.store.sql_store import open_store


def agent(key: int, offset: int) -> AgentRow:
    name = AgentName(key, "t", "i", str(key))
    features = offset.to_bytes(8, "little")
    return AgentRow(
        name, "X", 0, 0.0, 0.0, 0.0, 0, 0, 0, 0, offset, "", b"[]", "", features=features, risk=b"", state_version="v"
    )


def main() -> None:
    store = open_store(sys.argv[1])
    at = store.partitions.claim(0)
    while True:
        new = Position(0, at.epoch, at.offset + 1)
        store.commit(Commit(at, new, [agent(key, new.offset) for key in range(1, 51)], [], [], []))
        at = new
        sys.stdout.write(f"{at.offset}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
