"""Made tests/golden/data_0_1 by the commands of 0.1: `python -m tests.golden.make_data_0_1`. It refuses to do it again.

Three parts of the week: the store and the database are as of the first, log and topics as of the second, and the third
is kept beside, so that whoever opens them has records to catch up with and then goes on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .collecting import MODEL, week
from .opening import ARCHIVE, DATA, PARTITIONS, STORE, kept, opened, told
from .record import broker, server
from .support import (
    HERE,
    Service,
    on_kafka,
    on_postgres,
    pack,
    read_rows,
    run,
    score_vectors,
    unpack,
    write_rows,
)
from .topics import read_topics

AGENTS = {
    ("acme-corp", "agent-support-triage-0"),
    ("acme-corp", "https://agents.acme-corp.example/orchestrator/0"),
    ("acme-corp", "agent-invoice-reader-0"),
    ("acme-corp", "agent-research-agent-0"),
    ("acme-corp", "https://agents.acme-corp.example/calendar-assistant/0"),
    ("globex", "agent-payment-processor-0"),
}
MARKED = "https://agents.acme-corp.example/orchestrator/0"
"""A rule holds for it, until it expires: it does nothing later, so that nothing depends on when the data are opened."""
ENDS = ("2026-01-22T18:00", "2026-01-23T12:00", "2026-02-01T00:00")
BAD = [b'{"id": "bad-1", "time": "2026-01-20T10:00:00Z", "agent": {"id": "bot"}}', b'{"id": "bad-2"']


def parts() -> list[list[bytes]]:
    """The events of a few agents, in three parts."""
    found: list[list[bytes]] = [[], [], []]
    for line in week():
        event = json.loads(line)
        part = next(number for number, end in enumerate(ENDS) if event["time"] < end)
        name = (event["tenant"], event["agent"]["id"])
        if name in AGENTS and (part == 0 or name[1] != MARKED):
            found[part].append(line)
    return found


def say(service: Service) -> None:
    """What people say: a label, a rule, a pin."""
    decisions = service.pages("/v1/decisions")
    rises = {one["agent_id"]: one["decision_id"] for one in decisions if one["level"] == "high"}
    options = ("--url", f"http://127.0.0.1:{service.port}", "--token", service.token, "--json")
    run("feedback", "add", rises["agent-support-triage-0"], "--verdict", "true-positive", "--reason", "seen", *options)
    run(
        "feedback",
        "add",
        rises[MARKED],
        "--verdict",
        "false-positive",
        "--reason",
        "drill",
        "--yes",
        "--accept-unseen",
        *options,
    )
    run("pin", "agent-research-agent-0", "medium", "--tenant", "acme-corp", "--why", "holidays", *options)


def main() -> None:
    """Make everything."""
    if DATA.exists():
        sys.exit(f"{DATA} exists; what 0.1 wrote is never rewritten")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = unpack(MODEL, folder / "model")
        draft = folder / "draft"
        draft.mkdir()
        shutil.copy(MODEL, draft / "model.zip")
        one, two, three = ([json.loads(line) for line in part] for part in parts())
        write_rows(draft / "sent.jsonl.gz", [*one, *two])
        write_rows(draft / "later.jsonl.gz", three)
        make_vectors(model, draft)
        make_embedded(folder / "embedded", model, draft)
        with server(folder / "server") as postgres, broker(folder / "broker") as kafka:
            make_distributed(folder / "distributed", model, draft, postgres, kafka)
        shutil.copytree(draft, DATA)


def make_vectors(model: Path, draft: Path) -> None:
    """Vectors of decisions, each as one of every peer group in turn, with what the model says of them."""
    names = json.loads((model / "manifest.json").read_text())["feature_names"]
    decisions = [row["decision"] for row in read_rows(HERE / "recorded" / "live.jsonl.gz") if "decision" in row]
    rows = np.array([[one["feature_vector"].get(name, 0.0) for name in names] for one in decisions])
    groups = np.resize(np.load(model / "extras" / "groups" / "ids.npy"), len(rows))
    familiar = np.arange(len(rows)) % 2 == 0
    scores = score_vectors(model, rows, groups, familiar)
    write_rows(
        draft / "vectors.jsonl.gz",
        [
            {
                "vector": rows[at].tolist(),
                "group": int(groups[at]),
                "familiar": bool(familiar[at]),
                "scores": {name: column[at] for name, column in scores.items()},
            }
            for at in range(len(rows))
        ],
    )


def make_embedded(folder: Path, model: Path, draft: Path) -> None:
    """Store as of the first part with what is told of it, log and archive as of the second."""
    one, two, _ = parts()
    data = folder / "data"
    with opened(folder, model, STORE + ARCHIVE) as service:
        service.send([*one[:100], *BAD, *one[100:]])
        service.settle()
        say(service)
        service.settle()
        write_rows(draft / "embedded-kept.jsonl.gz", kept(service))
        write_rows(draft / "embedded-1.jsonl.gz", told(service))
    store = (data / "trustwatch.db").read_bytes()
    with opened(folder, model, STORE + ARCHIVE) as service:
        service.send(two)
        service.settle()
    assert not list(data.glob("trustwatch.db-*"))
    copy = folder / "copy"
    shutil.copytree(data / "log", copy / "data" / "log")
    shutil.copytree(folder / "archive", copy / "archive")
    (copy / "data" / "trustwatch.db").write_bytes(store)
    pack(copy, draft / "embedded.zip")


def make_distributed(folder: Path, model: Path, draft: Path, postgres: Any, kafka: Any) -> None:
    """The same on PostgreSQL and Kafka."""
    one, two, _ = parts()
    database = postgres.create_database()
    more = on_postgres(folder, postgres, database) + on_kafka(kafka, "old", PARTITIONS)
    run("topics", "create", "--settings", opened(folder, model, more).settings)
    with opened(folder, model, more) as service:
        service.send([*one[:100], *BAD, *one[100:]])
        service.settle_topics()
        say(service)
        service.settle_topics()
        write_rows(draft / "distributed-kept.jsonl.gz", kept(service))
        write_rows(draft / "distributed-1.jsonl.gz", told(service))
    dump(postgres, database, draft / "postgres.sql.gz")
    with opened(folder, model, more) as service:
        service.send(two)
        service.settle_topics()
    write_rows(draft / "topics.jsonl.gz", read_topics(kafka.bootstrap, "old"))


def dump(postgres: Any, database: str, to: Path) -> None:
    """Plain SQL of a database, packed."""
    import gzip

    from scripts.service_stack.postgres import binaries

    command = [binaries() / "pg_dump", "--no-owner", "--no-privileges", postgres.url_of(database)]
    done = subprocess.run(command, capture_output=True, check=True)
    lines = [line for line in done.stdout.splitlines(keepends=True) if b"restrict " not in line[:12]]
    to.write_bytes(gzip.compress(b"".join(lines), mtime=0))


if __name__ == "__main__":
    main()
