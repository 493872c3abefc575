"""The real distributed services for every test that asks for them, started at the first such test, ended with the run.

A test restarts and kills them as it likes: what is down is started again before the next test that asks for it. Where a
service cannot be had, its tests are skipped with the reason. Tests that use them have the marker `integration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from .support.made_once import made_once

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster, Postgres

pytest_plugins = ["tests.support.peer_fixtures"]

settings.register_profile("nightly", max_examples=2_000, deadline=None)
"""For `.ci/nightly`: twenty times as many examples of every property that has no number of its own."""

RUNNING = pytest.StashKey["dict[str, KafkaCluster | Postgres]"]()


def started(request: pytest.FixtureRequest, name: str, make: Callable[[], KafkaCluster | Postgres]) -> Iterator[object]:
    """Start a service for all tests; its data go with the run, its logs stay in pytest's temporary folder."""
    from scripts.service_stack import ServiceUnavailable

    service = make()
    try:
        service.start()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVICE NOT TO BE HAD: {name}: {reason}")
    request.config.stash.setdefault(RUNNING, {})[name] = service
    yield service
    service.remove(keep_logs=True)


@pytest.fixture(scope="session")
def _refused_sockets() -> None:
    """Mend kafka-python for the tests: it leaves the socket of a refused connection to whoever collects its traceback.

    Where a test fails, pytest keeps that until the run ends, and fails the run for the socket.
    """
    from kafka.net.inet import KafkaNetSocket

    connect = KafkaNetSocket.sock_connect

    async def closing(self: Any, net: Any, sock: Any, address: Any, timeout_at: float | None = None) -> Any:
        try:
            return await connect(self, net, sock, address, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise

    KafkaNetSocket.sock_connect = closing


@pytest.fixture(autouse=True)
def _services_run(request: pytest.FixtureRequest) -> None:
    """Whatever an earlier test killed or paused runs again."""
    for name, service in request.config.stash.get(RUNNING, {}).items():
        if name in request.fixturenames:
            service.start()


@pytest.fixture(scope="session")
def kafka(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _refused_sockets: None
) -> Iterator[KafkaCluster]:
    """One broker, with listeners for TLS and SASL (`kafka.secured`). Topics are each test's own: names of its own."""
    from scripts.service_stack import KafkaCluster

    folder = tmp_path_factory.mktemp("kafka")
    yield from started(request, "kafka", lambda: KafkaCluster(folder, secure=True, bound=True))


@pytest.fixture(scope="session")
def kafka_cluster3(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _refused_sockets: None
) -> Iterator[KafkaCluster]:
    """Three brokers, replication factor 3, two in sync at least: one may be killed."""
    from scripts.service_stack import KafkaCluster

    folder = tmp_path_factory.mktemp("kafka3")
    yield from started(request, "kafka_cluster3", lambda: KafkaCluster(folder, 3, heap_mb=256, bound=True))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server with fsync on."""
    from scripts.service_stack import Postgres

    folder = tmp_path_factory.mktemp("postgres")
    yield from started(request, "postgres", lambda: Postgres(folder, bound=True))


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """URL (`postgresql://…`) of an empty database of this test alone, owned by a user that is no superuser."""
    name = postgres.create_database()
    yield postgres.url_of(name)
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def _migrated_database(postgres: Postgres) -> str:
    """Name of a database with the tables of a store and no rows, for copies: a copy takes a fifth of all migrations."""
    from trustwatch.scoring.store.sql_store import open_store

    name = postgres.create_database()
    open_store(postgres.url_of(name)).close()
    return name


@pytest.fixture
def postgres_store_url(postgres: Postgres, _migrated_database: str) -> Iterator[str]:
    """URL of a database of this test alone with the tables of a store, empty."""
    name = postgres.create_database(_migrated_database)
    yield postgres.url_of(name)
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the notebooks' example, made once for the whole run (15 s); who changes it takes a copy."""
    from trustwatch.lab.example_data import prepare_example

    return made_once(tmp_path_factory, "lab", lambda folder: prepare_example(folder / "example")) / "example"
