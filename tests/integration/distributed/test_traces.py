"""Workers and archiver of the distributed form send their spans themselves, each as an instance of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ...support.distributed_testbed import PARTITIONS
from ...support.nightly import is_nightly
from ...support.trace_collector import TraceCollector

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not is_nightly(), reason="half a minute for what unit tests hold, too: in .ci/nightly"),
]

MORE = """\
archive: {{directory: archive, interval_s: 0.3}}
traces: {{endpoint: '{url}', sample_ratio: 1}}
"""


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    made = TraceCollector()
    yield made
    made.close()


def test_each_process_tells_its_partitions(
    make_rig: Any, kafka: Any, load: Any, serve: Any, collector: TraceCollector
) -> None:
    """Batches and commits of every partition, with what was published, and ranges of the archive."""
    rig = make_rig(kafka, more=MORE.format(url=collector.url))
    producer = load(rig, rate=600)
    worker, archiver = serve(rig, "--workers-only"), serve(rig, "--archiver-only")
    producer.reached(300)

    def partitions(name: str) -> set[int]:
        return {span.attributes["trustwatch.partition"] for span in collector.named(name)}

    everywhere = set(range(PARTITIONS))
    collector.wait(lambda: partitions("pipeline.batch") == partitions("archive.write") == everywhere, 120.0)
    collector.wait(lambda: collector.named("pipeline.commit"), 30.0)
    producer.end()
    assert (worker.stop(), archiver.stop()) == (0, 0)

    commits = collector.named("pipeline.commit")
    assert max(commit.attributes["trustwatch.publish_s"] for commit in commits) > 0
    assert {at for commit in commits for at in commit.attributes["trustwatch.partitions"]} == everywhere
    written = sum(span.attributes["trustwatch.events"] for span in collector.named("archive.write"))
    assert written >= 300
    instances = {(span.resource["trustwatch.role"], span.resource["service.instance.id"]) for span in collector.spans}
    assert [role for role, _ in sorted(instances) if role != "service"] == ["archive", "pipeline"]
