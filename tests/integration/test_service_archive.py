"""The archive of the real service: what was acknowledged is in it, also behind a kill -9."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.ingest.archive.archive_reader import archive_dataset, raw_lines

from ..support.service_checks import child_pid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_everything_taken_is_archived_once(make_service: Callable[..., Any], make_event: Any) -> None:
    """Killed half way and started again; repeated events are archived once; a stop archives the rest."""
    service = make_service("archive: {directory: archive, interval_s: 0.2}\n")
    service.start()
    folder = service.folder / "archive"
    assert service.send([make_event("a", n) for n in range(50)]).json()["accepted"] == 50
    service.wait(lambda: (folder / "_position.json").exists() and len(list(raw_lines(folder))) == 50)
    first = service.wait(lambda: child_pid(service.process.pid, "api.archive.worker"))
    os.kill(first, signal.SIGKILL)
    service.send([make_event("a", n) for n in range(25, 120)])
    service.wait(lambda: child_pid(service.process.pid, "api.archive.worker") not in (None, first))
    service.wait(lambda: len(list(raw_lines(folder))) >= 120)
    service.send([make_event("b", n) for n in range(120, 150)])
    assert service.stop() == 0
    archived = [json.loads(line) for line in raw_lines(folder)]
    assert len({event["id"] for event in archived}) == len(archived) == 150
    assert "Traceback" not in service.log()


def test_vectors_are_those_that_were_scored(make_service: Callable[..., Any], make_event: Any, world: Any) -> None:
    """The pipeline and the process that makes files of them are killed; what `replay` computes is in the files."""
    service = make_service("archive: {directory: archive, vectors: vectors, interval_s: 0.2}\n")
    service.start()
    events = [make_event("a", n) for n in range(60)]
    service.send(events[:20])
    folder = service.folder / "vectors"
    service.wait(lambda: folder.is_dir() and archive_dataset(folder, "vectors").count_rows() == 20)
    for module in ("api.archive.vector_worker", "api.service.pipeline_worker"):
        killed = service.wait(lambda: child_pid(service.process.pid, module))  # noqa: B023
        os.kill(killed, signal.SIGKILL)
        service.wait(lambda: child_pid(service.process.pid, module) not in (None, killed))  # noqa: B023
        service.wait(service.is_ready)
    service.send(events[10:])
    service.wait(lambda: archive_dataset(folder, "vectors").count_rows() >= 60)
    assert service.stop() == 0
    scores = service.folder / "scores.jsonl"
    history = service.folder / "history.jsonl"
    history.write_bytes(b"".join(line + b"\n" for line in raw_lines(service.folder / "archive")))
    options = ("--model", str(world.model), "--settings", str(service.settings), "--out", str(scores), "--json")
    told = json.loads(service.run("replay", str(history), *options).stdout)
    assert told["events"] == 60
    table = archive_dataset(folder, "vectors").to_table()
    found = {row["id"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows == 60
    for line in map(json.loads, scores.read_text().splitlines()):
        row = found[line["id"]]
        for name in ("agent_id", "anomaly_score", "p_value", "risk_score", "risk_level"):
            assert row[name] == line[name], name
    assert "Traceback" not in service.log()
