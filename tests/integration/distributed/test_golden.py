"""The recorded week through Kafka and PostgreSQL: the decisions are those of one machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ...golden.collecting import LIVE, MODEL, POSTGRES, live, week
from ...golden.shapes import postgres_rows
from ...golden.support import (
    RECORDED,
    Service,
    assert_same_rows,
    assert_same_soon,
    on_kafka,
    on_postgres,
    read_rows,
    run,
    unpack,
)

if TYPE_CHECKING:
    from service_stack import KafkaCluster, Postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


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
