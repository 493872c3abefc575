"""Checkpoints in a back-up and without a worker: states are those of the one that was killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.publishing_partition import (
    CountedCheckpointFiles,
    PublishingPartition,
    busy_records,
    stored_states,
)
from trustwatch.api.service.backup_checkpoints import copy_with_checkpoints
from trustwatch.api.service.checkpoint_recovery import write_rows_from_checkpoints
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.storage_settings import StoreSettings
from trustwatch.scoring.pipeline.commit_round import CommitRound
from trustwatch.scoring.pipeline.partition import PartitionPipeline

KILLED_AT = 400


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", store=StoreSettings(checkpoints="data"))


@pytest.fixture
def make_site(kit: Any, make: Any) -> Iterator[Any]:
    """Makes a partition whose database and checkpoints lie below a folder."""
    made = []

    def make_one(folder: Path) -> PublishingPartition:
        folder.mkdir(exist_ok=True)
        files = CountedCheckpointFiles(folder / "checkpoints")
        made.append(PublishingPartition(folder / "trustwatch.db", kit, busy_records(kit, make), files))
        return made[-1]

    yield make_one
    for site in made:
        site.preloader.close()
        site.store.close()


def killed(site: PublishingPartition) -> PartitionPipeline:
    """A worker that has committed rows as of offset 250, checkpoints behind them, and something that it never will."""
    site.written, total = 0, site.written
    work = site.worker(capacity=100)
    site.written = total
    site.apply(work, 250)
    work.commit()
    for _ in range(3):
        site.apply(work, 50)
        work.risk.publish_due(at_once=True)
        assert CommitRound([work.commits], work._context).run() == {}
    assert len(site.store.checkpoints.list_all()) == 3
    site.apply(work, 5)
    assert work.position.offset == KILLED_AT
    return work


def to_the_end(site: PublishingPartition) -> dict[str, tuple[bytes, bytes, bytes]]:
    """States of agents once a next owner has applied everything."""
    site.now += 0.001
    heir = site.worker(capacity=100)
    assert heir.next_offset == KILLED_AT
    while heir.next_offset < site.written:
        site.apply(heir, 40)
        site.preloader.step(None)
    heir.finish()
    return stored_states(site)


def test_a_copy_goes_on_as_the_original_does(make_site: Any, settings: Settings, tmp_path: Path) -> None:
    """Its states at the end are equal, although the original has removed its files by then."""
    site = make_site(settings.data_dir)
    killed(site)
    (tmp_path / "copy").mkdir()
    copy_with_checkpoints(settings, tmp_path / "copy" / "trustwatch.db")
    original = to_the_end(site)

    assert site.store.checkpoints.list_all() == []
    copy = make_site(tmp_path / "copy")
    assert len(copy.checkpoints.list_files()) == 3
    assert to_the_end(copy) == original
    assert len(original) > 5


def test_rows_from_checkpoints_are_those_of_the_worker(make_site: Any, settings: Settings, tmp_path: Path) -> None:
    """What `topics restored` writes is what a worker goes on from."""
    site = make_site(settings.data_dir)
    killed(site)
    (tmp_path / "copy").mkdir()
    copy_with_checkpoints(settings, tmp_path / "copy" / "trustwatch.db")
    copy = make_site(tmp_path / "copy")
    before = stored_states(copy)
    place = Settings(data_dir=tmp_path / "copy", store=StoreSettings(checkpoints="data"))
    assert write_rows_from_checkpoints(place, copy.store, accept_loss=False) == []

    assert stored_states(copy) != before
    assert to_the_end(copy) == to_the_end(site)
