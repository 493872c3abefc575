"""Services that go on from what 0.1 wrote (tests/golden/data_0_1)."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

from .collecting import in_order, lasting
from .support import HERE, Row, Service, assert_same, on_kafka, on_postgres, read_rows, run, unpack
from .topics import KINDS, write_topic

DATA = HERE / "data_0_1"
PARTITIONS = 2
KEEP = """\
retention_days: 36500
retention: {log: 36500}
webhooks: [{name: soc, url: "http://127.0.0.1:9/", secret: {file: secret}}]
"""
STORE = "store: {agents_days: 36500}\n"
ARCHIVE = "archive: {directory: archive, retention_days: 36500, interval_s: 0.5}\n"
"""Nothing of 0.1 is too old to be kept, and no target takes an alert."""


def told(service: Service) -> list[Row]:
    """What is listed of decisions and agents, ids and times included."""
    rows = [{"decision": one} for one in in_order(service.pages("/v1/decisions"))]
    return [*rows, *({"agent": one} for one in service.pages("/v1/agents"))]


def kept(service: Service) -> list[Row]:
    """What else is in the store, without what changes by time alone."""
    letters = [service.get(f"/v1/dead-letters/{one['letter_id']}") for one in service.pages("/v1/dead-letters")]
    deliveries = service.pages("/v1/deliveries")
    feedback = [service.get(f"/v1/feedback/{one['feedback_id']}") for one in service.pages("/v1/feedback")]
    return [
        *({"letter": one} for one in letters),
        *({"delivery": {name: one[name] for name in ("key", "target", "created_at")}} for one in deliveries),
        *({"feedback": {name: one[name] for name in SAID}} for one in feedback),
        *({"pin": {name: one[name] for name in PINNED}} for one in service.pages("/v1/interventions")),
    ]


SAID = ("feedback_id", "decision_id", "verdict", "reason")
PINNED = ("intervention_id", "kind", "agent_id")


def opened(folder: Path, model: Path, more: str) -> Service:
    """A service with settings under which nothing of 0.1 is too old."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secret").write_text("whsec_" + "c2VjcmV0IG9mIHRoZSByZWNlaXZlciBmb3IgdGVzdHM=")
    return Service(folder, model, KEEP + more)


def went_on(service: Service) -> list[Row]:
    """What the service lists, without what is another in every run; and what it refused: nothing of 0.1's own."""
    letters = [service.get(f"/v1/dead-letters/{one['letter_id']}") for one in service.pages("/v1/dead-letters")]
    refused = sorted(letters, key=lambda one: str(one["raw"]))
    return without_wall_time(
        [
            *({kind: lasting(one) for kind, one in row.items()} for row in told(service)),
            *({"letter": {name: one[name] for name in ("reason", "path", "raw")}} for one in refused),
        ]
    )


EVENTS_END = "2026-02"
"""Every event of the data is before; what was evaluated later was evaluated by the wall clock."""


def without_wall_time(rows: list[Row]) -> list[Row]:
    """Rows without the risk of agents whose last evaluation was by the wall clock.

    A feedback rule of the data expired two hours after it was made. Whoever opens the data later ends it then.
    """
    return [
        {"agent": {name: value for name, value in row["agent"].items() if name not in ("risk_score", "evaluated_at")}}
        if row.get("agent", {}).get("evaluated_at", "") > EVENTS_END
        else row
        for row in rows
    ]


def check_earlier_rows(service: Service, form: str) -> None:
    """All that 0.1 had stored in that *form* is listed, and the records that only its log had are applied."""
    listed = {row["decision"]["decision_id"]: row["decision"] for row in told(service) if "decision" in row}
    before = [row["decision"] for row in read_rows(DATA / f"{form}-1.jsonl.gz") if "decision" in row]
    assert_same(
        [listed.get(one["decision_id"]) for one in before],
        [{**one, "concern": None, "indicators": []} for one in before],
    )
    assert len(listed) > len(before)
    found = kept(service)
    assert [row for row in read_rows(DATA / f"{form}-kept.jsonl.gz") if row not in found] == []


def later() -> list[bytes]:
    """Events that 0.1 had not seen yet."""
    return [json.dumps(row, ensure_ascii=False).encode() for row in read_rows(DATA / "later.jsonl.gz")]


def embedded(folder: Path, model: Path) -> Service:
    """A service on the store, the log and the archive of 0.1; the log is further than the store."""
    unpack(DATA / "embedded.zip", folder)
    return opened(folder, model, STORE + ARCHIVE)


def restore(postgres: Any, database: str) -> None:
    """Put the dump of 0.1 into an empty database."""
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", postgres.url_of(database)]
    sql = gzip.decompress((DATA / "postgres.sql.gz").read_bytes())
    done = subprocess.run(command, input=sql, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def distributed(folder: Path, model: Path, postgres: Any, database: str, kafka: Any, name: str, *kinds: str) -> Service:
    """A service on topics with the records of 0.1, of *kinds* alone, and on a database."""
    rows = read_rows(DATA / "topics.jsonl.gz")
    for kind in kinds or KINDS:
        write_topic(kafka.bootstrap, f"{name}.{kind}", [row for row in rows if row["topic"] == kind], PARTITIONS)
    service = opened(folder, model, on_postgres(folder, postgres, database) + on_kafka(kafka, name, PARTITIONS))
    run("topics", "create", "--settings", service.settings)
    return service
