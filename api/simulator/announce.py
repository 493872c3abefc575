"""Events about agents rather than by their work: registration, key change, revocation at the end."""

from __future__ import annotations

from collections.abc import Iterator

from .draws import digest
from .grammar import json_text
from .lifecycle import Epoch
from .population import Enterprise, SimulatedAgent
from .rows import Row, Stream, Truth
from .session import SUCCESS, agent_text, client_text, credential_text


class Announcer:
    """Publishes what `lifecycle` and `population` planned, in time order; `next_ms` is the next one's moment."""

    def __init__(self, enterprise: Enterprise, stream: Stream) -> None:
        self._end = enterprise.settings.end_ms
        self._stream = stream
        plan = [item for agent in enterprise.agents for item in _announcements(agent, enterprise.settings.start_ms)]
        self._plan = iter(sorted(plan, key=lambda item: (item[0], item[1].index, item[2])))
        self._ahead = next(self._plan, None)

    @property
    def next_ms(self) -> int:
        """Moment of the next announcement, or the end of the simulation."""
        return self._end if self._ahead is None else self._ahead[0]

    def advance(self) -> list[Row]:
        """The next announcement as a row."""
        if self._ahead is not None:
            self._publish(*self._ahead)
            self._ahead = next(self._plan, None)
        return self._stream.take()

    def _publish(self, at_ms: int, agent: SimulatedAgent, kind: str) -> None:
        epoch = agent.epoch_at(at_ms)
        session = f"admin-{digest(kind, self._stream.salt, self._stream.name())[:16]}"
        text = _text(agent, epoch, kind, session, digest("token", self._stream.salt, self._stream.name()))
        self._stream.add(at_ms, text, Truth(agent.id, agent.tenant.name, session, 0, self._stream.scenario), 0)


def _announcements(agent: SimulatedAgent, start_ms: int) -> Iterator[tuple[int, SimulatedAgent, str]]:
    if agent.active_from > start_ms:
        yield agent.active_from, agent, "client.register"
    for epoch in agent.epochs:
        if epoch.rotated and agent.alive(epoch.start_ms):
            yield epoch.start_ms, agent, "client.change"
    if agent.retires:
        yield agent.active_until, agent, "token.revoke"


def _text(agent: SimulatedAgent, epoch: Epoch, kind: str, session: str, token: str) -> str:
    issuer = agent.tenant.issuer
    source = agent_text(agent, epoch).replace("urn:gateway:", "urn:as:", 1)
    return (
        f',"type":"{kind}","action":"{kind}","effect":"admin"{source}'
        f',"resource":{{"type":"client","id":{json_text(agent.id)},"external":false,"audience":"{issuer}"}}'
        f'{SUCCESS},"duration_ms":25,"session":"{session}"{client_text(agent, epoch, None)}'
        f"{credential_text(agent, epoch, token)}}}"
    )
