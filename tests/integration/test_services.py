"""The services that the distributed tests stand on: they start, fail and come back as those tests need it."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..support.checkout import ROOT
from ..support.nightly import nightly

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster, Postgres

pytestmark = pytest.mark.integration


def test_one_broker(kafka: KafkaCluster) -> None:
    """It answers, and comes back after kill -9 on the same port."""
    before = kafka.bootstrap
    assert kafka.metadata().brokers == {1}

    kafka.kill()
    assert kafka.alive() == {1: False}
    kafka.start()

    assert kafka.metadata().brokers == {1}
    assert kafka.bootstrap == before


def test_tls_is_verified(kafka: KafkaCluster) -> None:
    """The listener's certificate holds for `localhost` by the CA that it names, and by no other."""
    host, port = kafka.secured.tls.split(":")
    trusting = ssl.create_default_context(cafile=kafka.secured.ca)

    with socket.create_connection((host, int(port))) as plain, trusting.wrap_socket(plain, server_hostname=host) as tls:
        assert tls.version() == "TLSv1.3"
    with socket.create_connection((host, int(port))) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname=host)


@nightly
def test_one_of_three_may_die(kafka_cluster3: KafkaCluster) -> None:
    """The others notice it within seconds, and it comes back into the cluster."""
    kafka_cluster3.kill_node(1)
    deadline = time.monotonic() + 90
    while kafka_cluster3.metadata().brokers != {2, 3}:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    kafka_cluster3.start_node(1)

    assert kafka_cluster3.metadata().brokers == {1, 2, 3}


@nightly
def test_what_a_test_killed_runs_again(kafka_cluster3: KafkaCluster) -> None:
    """Healing by the fixture is this call."""
    kafka_cluster3.kill_node(2)
    kafka_cluster3.pause_node(3)

    kafka_cluster3.start()

    assert kafka_cluster3.alive() == {1: True, 2: True, 3: True}
    assert kafka_cluster3.metadata().brokers == {1, 2, 3}


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_was_committed_survives(postgres: Postgres, end: str) -> None:
    """After kill -9 of the server and its sessions as after a shut-down."""
    postgres.sql(f"create table {end} (n int)")
    postgres.sql(f"insert into {end} values (7)")

    getattr(postgres, end)()
    assert not postgres.alive()
    postgres.start()

    assert postgres.sql(f"select n from {end}") == "7"
    assert postgres.sql("show fsync") == "on"


def test_a_database_for_each_test(postgres: Postgres, postgres_url: str) -> None:
    """Empty, and its user is no superuser: what needs one fails in tests already."""
    name = postgres_url.rpartition("/")[2]

    assert postgres.sql("select count(*) from pg_tables where schemaname = 'public'", name) == "0"
    assert postgres.sql("select rolsuper from pg_roles where rolname = 'trustwatch'") == "f"


def test_servers_end_with_a_killed_run(tmp_path: Path) -> None:
    """A test run that is killed leaves no server behind."""
    from scripts import service_stack

    script = (
        "import sys, time; from pathlib import Path; from scripts.service_stack import Postgres\n"
        "server = Postgres(Path(sys.argv[1]), bound=True); server.start(); print(server.status()['pid'], flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        run.send_signal(signal.SIGKILL)
        run.wait()

    deadline = time.monotonic() + 90
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service_stack.Postgres(tmp_path).remove()


def test_without_java_it_says_what_is_missing(tmp_path: Path) -> None:
    """Exit status 3, by which scripts tell "not here" from "broken"."""
    (tmp_path / "python3").symlink_to(sys.executable)
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)

    done = subprocess.run(
        [ROOT / "scripts" / "services", "--state", tmp_path, "start", "kafka"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 3
    assert "java" in done.stderr
