"""Every risk that was ever published, held against what the records alone say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from trustwatch.ingest.source import Record, RecordBatch
from trustwatch.scoring.pipeline.processor import Processor
from trustwatch.scoring.records.agents import AgentIdentity, AgentSummary
from trustwatch.scoring.records.commits import Position

RiskByOffset = dict[AgentIdentity, list[tuple[int, AgentSummary]]]


def undisturbed_risk(processor: Processor, records: Sequence[Record]) -> RiskByOffset:
    """Risk of each agent, with the offsets from which on it holds, where *processor* applies *records* one by one."""
    steps: RiskByOffset = defaultdict(list)
    for offset, record in enumerate(records):
        processor.apply(RecordBatch(0, offset, [record]))
        for agent in processor.engine.agent_states.take_moved():
            steps[agent.name.identity].append((offset + 1, agent))
    return steps


class PublishedRisk:
    """Collects what pipelines publish: `collect` is their `on_risk`."""

    def __init__(self) -> None:
        self.published: list[tuple[Position, AgentSummary]] = []

    def collect(self, position: Position, agents: Sequence[AgentSummary], _erasures: object = ()) -> None:
        self.published += [(position, agent) for agent in agents]

    def check(self, truth: RiskByOffset) -> None:
        """Hold it against what the records say: as of an offset there is one truth."""
        for position, agent in self.published:
            known = [one for at, one in truth[agent.name.identity] if at <= position.offset]
            assert known and agent == known[-1], f"agent {agent.name.agent_id} as of {position}"

    def check_never_goes_back(self) -> None:
        """Assert that no agent was published as of an earlier offset than before."""
        newest: dict[AgentIdentity, int] = {}
        for position, agent in self.published:
            assert position.offset >= newest.get(agent.name.identity, 0), f"{agent.name.agent_id} as of {position}"
            newest[agent.name.identity] = position.offset
