"""Topics and a database of each test on the real services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ...support.distributed_rig import Load, Rig, Serving

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster, Postgres

    from ...support.service_process import World


@pytest.fixture
def make_rig(tmp_path: Path, postgres: Postgres, world: World) -> Iterator[Callable[..., Rig]]:
    """Makes rigs on a cluster; closed at the end."""
    made: list[Rig] = []

    def make(kafka: KafkaCluster, **members: Any) -> Rig:
        folder = tmp_path / f"rig-{len(made)}"
        folder.mkdir()
        made.append(Rig(folder, kafka, postgres, world.model, **members))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig], kafka: KafkaCluster) -> Rig:
    """A rig on one broker."""
    return make_rig(kafka)


@pytest.fixture
def load(world: World) -> Iterator[Callable[..., Load]]:
    """Starts producers; ended at the end."""
    made: list[Load] = []

    def start(rig: Rig, **how: Any) -> Load:
        made.append(Load(rig.kafka_settings, world.day, name=f"load-{len(made)}", **how))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts parts of the service; ended at the end."""
    made: list[Serving] = []

    def start(rig: Rig, option: str, **members: Any) -> Serving:
        made.append(Serving(rig, option, **members))
        made[-1].start(ready=False)
        return made[-1]

    yield start
    for one in made:
        one.close()
