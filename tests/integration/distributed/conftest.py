"""Topics and a database of each test on the real services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ...support.distributed_testbed import DistributedTestbed, Load, Serving

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster, Postgres

    from ...support.service_process import ModelAndDay


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python drops a socket that is closed while it connects: here alone, since our own leaks look the same."""
    dropped = "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(dropped))


@pytest.fixture
def make_rig(
    tmp_path: Path, postgres: Postgres, request: pytest.FixtureRequest
) -> Iterator[Callable[..., DistributedTestbed]]:
    """Makes rigs on a cluster, under *model* or that of the world; closed at the end."""
    made: list[DistributedTestbed] = []

    def make(kafka: KafkaCluster, model: Path | None = None, **members: Any) -> DistributedTestbed:
        folder = tmp_path / f"rig-{len(made)}"
        folder.mkdir()
        installed = model or request.getfixturevalue("world").model
        made.append(DistributedTestbed(folder, kafka, postgres, installed, **members))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., DistributedTestbed], kafka: KafkaCluster) -> DistributedTestbed:
    """A rig on one broker."""
    return make_rig(kafka)


@pytest.fixture
def load(world: ModelAndDay) -> Iterator[Callable[..., Load]]:
    """Starts producers; ended at the end."""
    made: list[Load] = []

    def start(rig: DistributedTestbed, **how: Any) -> Load:
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

    def start(rig: DistributedTestbed, option: str, **members: Any) -> Serving:
        made.append(Serving(rig, option, **members))
        made[-1].start(ready=False)
        return made[-1]

    yield start
    for one in made:
        one.close()
