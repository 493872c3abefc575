"""Events about agents rather than by their work: registration, key change, revocation at the end."""

from __future__ import annotations

from collections.abc import Iterator

from .draws import hex_digest
from .grammar import to_json
from .lifecycle import AgentDeployment
from .population import Enterprise, SimulatedAgent
from .rows import ActorStream, DraftEvent, GroundTruth
from .session import SUCCESS_JSON, agent_json, client_json, credential_json


class LifecycleActor:
    """Publishes what `lifecycle` and `population` planned, in time order; `next_ms` is the next one's moment."""

    def __init__(self, enterprise: Enterprise, stream: ActorStream) -> None:
        self._end = enterprise.settings.end_ms
        self._stream = stream
        plan = [item for agent in enterprise.agents for item in _lifecycle_events(agent, enterprise.settings.start_ms)]
        self._plan = iter(sorted(plan, key=lambda item: (item[0], item[1].index, item[2])))
        self._next_event = next(self._plan, None)

    @property
    def next_ms(self) -> int:
        """Moment of the next announcement, or the end of the simulation."""
        return self._end if self._next_event is None else self._next_event[0]

    def advance(self) -> list[DraftEvent]:
        """The next announcement as a row."""
        if self._next_event is not None:
            self._write_event(*self._next_event)
            self._next_event = next(self._plan, None)
        return self._stream.drain()

    def _write_event(self, at_ms: int, agent: SimulatedAgent, kind: str) -> None:
        epoch = agent.deployment_at(at_ms)
        session = f"admin-{hex_digest(kind, self._stream.salt, self._stream.next_number())[:16]}"
        text = _lifecycle_json(
            agent, epoch, kind, session, hex_digest("token", self._stream.salt, self._stream.next_number())
        )
        self._stream.append(at_ms, text, GroundTruth(agent.id, agent.tenant.name, session, 0, self._stream.scenario), 0)


def _lifecycle_events(agent: SimulatedAgent, start_ms: int) -> Iterator[tuple[int, SimulatedAgent, str]]:
    if agent.active_from > start_ms:
        yield agent.active_from, agent, "client.register"
    for epoch in agent.deployments:
        if epoch.rotated_key and agent.is_active(epoch.start_ms):
            yield epoch.start_ms, agent, "client.change"
    if agent.retires:
        yield agent.active_until, agent, "token.revoke"


def _lifecycle_json(agent: SimulatedAgent, epoch: AgentDeployment, kind: str, session: str, token: str) -> str:
    issuer = agent.tenant.issuer
    source = agent_json(agent, epoch).replace("urn:gateway:", "urn:as:", 1)
    return (
        f',"type":"{kind}","action":"{kind}","effect":"admin"{source}'
        f',"resource":{{"type":"client","id":{to_json(agent.id)},"external":false,"audience":"{issuer}"}}'
        f'{SUCCESS_JSON},"duration_ms":25,"session":"{session}"{client_json(agent, epoch, None)}'
        f"{credential_json(agent, epoch, token)}}}"
    )
