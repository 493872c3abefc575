"""The recorded week through Kafka and PostgreSQL, and the topics and the database of 0.1 under the present service."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ...golden.collecting import LIVE, MODEL, POSTGRES, WENT_ON_DISTRIBUTED, live, week
from ...golden.opening import check_earlier_rows, distributed, later, restore, went_on, without_wall_time
from ...golden.shapes import postgres_rows
from ...golden.support import (
    RECORDED,
    Service,
    assert_same,
    assert_same_rows,
    assert_same_soon,
    on_kafka,
    on_postgres,
    read_rows,
    run,
    unpack,
)

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster, Postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """Name of an empty database of this test alone."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


def test_the_distributed_form_decides_as_recorded(
    tmp_path: Path, kafka: KafkaCluster, postgres: Postgres, database: str
) -> None:
    """Per agent the same decisions, reasons and answers as embedded; and the recorded tables in PostgreSQL."""
    folder = tmp_path / "service"
    more = on_postgres(folder, postgres, database) + on_kafka(kafka, f"golden-{secrets.token_hex(4)}")
    service = Service(folder, unpack(MODEL, tmp_path / "model"), more)
    run("topics", "create", "--settings", service.settings)
    with service:
        service.send(week())
        service.settle_topics()
        assert_same_soon(lambda: live(service), read_rows(RECORDED / LIVE))
    assert_same_rows(postgres_rows(lambda query: postgres.sql(query, database)), read_rows(RECORDED / POSTGRES))


def test_a_worker_goes_on_from_the_database_and_the_topics_of_0_1(
    tmp_path: Path, kafka: KafkaCluster, postgres: Postgres, database: str
) -> None:
    """All that 0.1 had stored is listed; records behind its positions are applied; further events are taken."""
    restore(postgres, database)
    model = unpack(MODEL, tmp_path / "model")
    name = f"golden-{secrets.token_hex(4)}"
    with distributed(tmp_path / "service", model, postgres, database, kafka, name) as service:
        service.settle_topics()
        check_earlier_rows(service, "distributed")
        service.send(later())
        service.settle_topics()
        assert_same(went_on(service), without_wall_time(read_rows(RECORDED / WENT_ON_DISTRIBUTED)))
