"""`topics restored`: where reading goes on after the database was put back, or the topic was lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trustwatch.api.service.partition_migration import PARTITION_COUNT_KEY, PartitionExtent, resume_offsets
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

TOPIC = {0: PartitionExtent(100, 900), 1: PartitionExtent(0, 50)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = open_store(sqlite_url(tmp_path / "store.db"))
    yield made
    made.close()


@pytest.mark.parametrize("offsets", [{0: 100, 1: 0}, {0: 900, 1: 50}, {0: 500}])
def test_what_the_topic_holds_is_read_on(store: SqlStore, offsets: dict[int, int]) -> None:
    """Both ends included; a partition that was never worked on begins at 0."""
    for partition, offset in offsets.items():
        store.partitions.set_position(partition, offset)
    assert resume_offsets(store, TOPIC, anew=False, accept_loss=False) == {0: offsets[0], 1: offsets.get(1, 0)}


@pytest.mark.parametrize(("offsets", "accepted"), [({0: 99, 1: 51}, {0: 100, 1: 50}), ({}, {0: 100, 1: 0})])
def test_loss_is_accepted_by_name_alone(store: SqlStore, offsets: dict[int, int], accepted: dict[int, int]) -> None:
    """Else the message says what is lost and what to do; an empty database is behind a topic that removed records."""
    for partition, offset in offsets.items():
        store.partitions.set_position(partition, offset)
    with pytest.raises(ConfigError, match=r"0: \d+, holds 100 to 900.*--accept-loss.*--events-anew"):
        resume_offsets(store, TOPIC, anew=False, accept_loss=False)
    assert resume_offsets(store, TOPIC, anew=False, accept_loss=True) == accepted


def test_a_topic_that_was_made_again_is_read_from_its_beginning(store: SqlStore) -> None:
    """Also where the old offset lies in it."""
    store.partitions.set_position(0, 500)
    assert resume_offsets(store, TOPIC, anew=True, accept_loss=False) == {0: 100, 1: 0}


def test_state_of_another_number_of_partitions_is_refused(store: SqlStore) -> None:
    """What came since the topic grew lies where the agents were moved to, and these rows were not."""
    store.metadata.put(PARTITION_COUNT_KEY, "1")
    with pytest.raises(ConfigError, match="has 2 partitions, this state was made for 1"):
        resume_offsets(store, TOPIC, anew=False, accept_loss=True)
