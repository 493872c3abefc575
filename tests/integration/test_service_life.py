"""The service starts, refuses to start with one clear line, and ends in order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.service.http_server import listening_socket
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ListenSettings

from ..support.nightly import nightly

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_answers_and_ends_with_everything_committed(service: Any, make_event: Any, number: int) -> None:
    """Ready, an unknown agent gets 200; a signal ends it with 0 in seconds, and what it took in is in the database."""
    service.start()
    answer = service.get("/v1/agents/nobody/risk")
    assert answer.status_code == 200
    assert answer.json()["risk_level"] == "unknown"
    assert answer.json()["confidence"] == 0
    assert answer.json()["stale"] is False
    pid = service.pipeline_pid()
    assert service.send([make_event("a", n) for n in range(50)]).json()["accepted"] == 50
    assert service.stop(number, 10.0) == 0
    assert not Path(f"/proc/{pid}").exists()
    with closing(sqlite3.connect(service.folder / "data" / "trustwatch.db")) as connection:
        assert connection.execute("select agent_id, events from agents").fetchall() == [("a", 50)]
    assert "Traceback" not in service.log()


def test_what_was_taken_in_is_applied_before_the_end(service: Any, make_event: Any) -> None:
    """Several batches of it, of a worker that learns of the end before it has read any."""
    service.start()
    pid = service.pipeline_pid()
    os.kill(pid, signal.SIGSTOP)
    for first in range(0, 3_000, 500):
        sent = service.send([make_event("a", n) for n in range(first, first + 500)])
        assert sent.json()["accepted"] == 500
    service.process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    os.kill(pid, signal.SIGCONT)
    assert service.process.wait(20) == 0
    with closing(sqlite3.connect(service.folder / "data" / "trustwatch.db")) as connection:
        assert connection.execute("select agent_id, events from agents").fetchall() == [("a", 3_000)]


def test_ctrl_c_of_a_terminal_reaches_all_processes_and_ends_with_0(service: Any, make_event: Any) -> None:
    """A terminal sends SIGINT to the whole group; the pipeline still ends after the service, with all committed."""
    service.start()
    service.send([make_event("a", n) for n in range(20)])
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.process.wait(10) == 0
    with closing(sqlite3.connect(service.folder / "data" / "trustwatch.db")) as connection:
        assert connection.execute("select events from agents").fetchall() == [(20,)]
    assert "Traceback" not in service.log()


def test_an_open_stream_does_not_hold_up_the_end(service: Any) -> None:
    """Somebody who follows decisions is cut off when the service ends."""
    service.start()
    with service.client.stream("GET", "/v1/decisions/stream", headers=service.auth()) as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": from now on"
        assert service.stop(within_s=30.0) == 0


def refused(result: Any, *words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("trustwatch: ")]
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_second_service_on_the_same_data_is_refused(running: Any) -> None:
    """Another process holds the data directory: status 1, says so, and the first goes on."""
    service = running
    text = service.settings.read_text().replace(str(service.port), "0")
    other = service.folder / "other.yaml"
    other.write_text(text)
    refused(service.run("serve", "--settings", str(other)), str(service.folder / "data"), "only one writer")
    assert service.client.get("/readyz").status_code == 200


def test_port_that_is_taken_is_named(running: Any, tmp_path: Path) -> None:
    """Another data directory, the same port: the line names port and setting."""
    service = running
    other = tmp_path / "other" / "settings.yaml"
    other.parent.mkdir()
    other.write_text(service.settings.read_text())
    shutil.copytree(service.folder / "data", other.parent / "data", ignore=shutil.ignore_patterns("log", "*.db*"))
    refused(service.run("serve", "--settings", str(other)), str(service.port), "listen.port")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("listen:", "lisen:"), ("settings.yaml", "lisen", "`listen`")),
        (lambda text: text.replace("{port:", "{port: x"), ("settings.yaml", "listen.port")),
        (lambda text: text.replace("client_id: all", "client_id: [all"), ("settings.yaml", "line")),
        (lambda text: text.replace("mode: enforce", "mode: enforced"), ("enforce", "shadow")),
    ],
    ids=["typo", "port", "yaml", "mode"],
)
def test_wrong_settings_are_one_line(service: Any, change: Callable[[str], str], words: tuple[str, ...]) -> None:
    """Status 1 and one line that names the file and the member, or what to do."""
    service.settings.write_text(change(service.settings.read_text()))
    refused(service.run("serve", "--settings", str(service.settings)), *words)


PARTS_BY_NIGHT = [pytest.param(name, marks=nightly) for name in ("manifest.json", "extras/baseline/keys.npy")]


@pytest.mark.parametrize("name", ["detector/forest_thresholds.npy", *PARTS_BY_NIGHT])
def test_tampered_model_is_refused(make_service: Any, world: Any, tmp_path: Path, name: str) -> None:
    """One flipped bit in a file of the model: the service does not start, and names the file and what to do."""
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    service = make_service(model=model)
    refused(service.run("serve", "--settings", str(service.settings)), str(model), name, "retrain")


def test_log_that_lost_records_is_refused(service: Any, make_event: Any) -> None:
    """State whose log is gone is not served: new events would get offsets that count as applied already."""
    service.start()
    service.send([make_event("a", n) for n in range(20)])
    service.settle()
    assert service.stop() == 0
    shutil.rmtree(service.folder / "data" / "log")
    refused(service.run("serve", "--settings", str(service.settings)), "lost records", "backup")


def test_keys_that_can_not_be_read_are_said(service: Any) -> None:
    """Without keys of its issuer it can judge nobody: the log names the file, it is not ready, answers are 401."""
    service.settings.write_text(service.settings.read_text().replace("local-jwks.json", "missing.json"))
    service.start(ready=False)
    service.wait(lambda: "missing.json" in service.log())
    assert service.wait(lambda: service.status("/readyz")) == 503
    assert service.status("/healthz") == 200
    assert service.get("/v1/agents/a/risk").status_code == 401


def test_connections_send_at_once() -> None:
    """Connections have TCP_NODELAY: an answer is two writes, and Nagle would hold the second one for 40 ms."""
    with (
        listening_socket(Settings(listen=ListenSettings(port=0))) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
