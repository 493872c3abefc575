"""One run of one task by one agent: token, steps, refreshes, written as native JSON.

Text is put together from fragments, since encoding a dict per event costs more than everything else together. Fragments
are encoded once per step (`Step.text`), per version (`Epoch.text`), per session and per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .draws import digest, mix64
from .grammar import Kind, Step, Task, json_text
from .lifecycle import Epoch
from .population import SimulatedAgent
from .rows import Stream, Token, Truth

SUCCESS = ',"outcome":"success","status":200'
DENIED = ',"outcome":"denied","status":403,"error":"access_denied"'
REFUSED = ',"outcome":"denied","status":400,"error":"invalid_scope"'
BUSY = ',"outcome":"error","status":429,"error":"rate_limited"'
_ERRORS = (
    ',"outcome":"error","status":500,"error":"internal_error"',
    ',"outcome":"error","status":503,"error":"unavailable"',
    BUSY,
    ',"outcome":"error","status":504,"error":"timeout"',
)
_SAME = 0.6
"""How often a step works on the resource that the session already holds of that kind."""
_REFRESHABLE_MS = 8 * 3_600_000
"""How long after a token's end its refresh token still works."""
_GAP_MS = 2600
_SPREAD = 0.5


class Origin(NamedTuple):
    """Where calls come from, when not from the agent's own instance."""

    ip: str
    asn: int
    user_agent: str


@dataclass(slots=True)
class Chain:
    """On whose behalf a session runs, and what ties it to the session that asked for it.

    Args:
        principal: id of the user; None where the agent acts for itself.
        actors: agents that handed the work down, the nearest first.
        trace: shared by all sessions of one piece of work.
    """

    principal: str | None
    actors: tuple[str, ...]
    trace: int


class Session:
    """A session in progress; `at` is its clock in milliseconds and only moves forward.

    Args:
        origin: where the calls come from, if not from the agent's own instance.
    """

    def __init__(
        self,
        stream: Stream,
        agent: SimulatedAgent,
        task: Task,
        at_ms: float,
        chain: Chain,
        origin: Origin | None = None,
    ) -> None:
        self.stream = stream
        self.agent = agent
        self.task = task
        self.at = at_ms
        self.chain = chain
        self.origin = origin
        self.held: dict[str, int] = {}
        name = stream.name()
        tainted = 0 if stream.learns else 1
        self.truth = Truth(
            agent.id, agent.tenant.name, f"conv-{mix64(name ^ stream.salt):016x}", tainted, stream.scenario
        )
        self._work = self._work_text()
        self._epoch: Epoch | None = None
        self._head = self._tail = ""
        self._token_until = 0.0

    # -- text -------------------------------------------------------------------------------------------------------

    def _work_text(self) -> str:
        """Principal, delegation, task, session and trace."""
        chain, session = self.chain, self.truth.session
        parts = ""
        if chain.principal is not None:
            parts = f',"principal":{{"id":{json_text(chain.principal)},"type":"user"}}'
        if chain.principal is not None or chain.actors:
            parts += f',"delegation":{json_text([self.agent.id, *chain.actors])}'
        trace = mix64(chain.trace ^ self.stream.salt)
        ids = f',"session":"{session}","trace_id":"{trace:016x}{mix64(trace):016x}","txn":"{trace % 10**12}"'
        return f'{parts},"task":{json_text(self.task.name)}{ids}'

    def _enter(self, at_ms: int) -> Epoch:
        """The epoch in force; fragments that depend on it are rebuilt when it changes."""
        epoch = self.agent.epoch_at(at_ms)
        if epoch is not self._epoch:
            self._epoch = epoch
            self._head = agent_text(self.agent, epoch, here=self.origin is None) + self._work
        return epoch

    def _new_token(self, at_ms: int) -> None:
        """A token issued now; whoever got it keeps it for the next session of this kind."""
        until = at_ms + self.agent.role.lifetime_s * 1000
        token = Token(digest("token", self.stream.salt, self.stream.name()), until, self._enter(at_ms).thumbprint)
        self._use(token, at_ms)
        if self._keeps_tokens:
            self.stream.tokens[self.task.name, self.chain.principal] = token

    def _use(self, token: Token, at_ms: int) -> None:
        agent, epoch = self.agent, self._enter(at_ms)
        self._token_until = token.until_ms
        self._tail = client_text(agent, epoch, self.origin) + credential_text(agent, epoch, token.name) + "}"

    # -- events -----------------------------------------------------------------------------------------------------

    def open(self, event_label: int = 0) -> None:
        """Get a token: the one still at hand, a refresh of it, an exchange for the principal, or a fresh request."""
        at_ms = int(self.at)
        held = self.stream.tokens.get((self.task.name, self.chain.principal)) if self._keeps_tokens else None
        if held is not None and held.thumbprint == self._enter(at_ms).thumbprint:
            if at_ms < held.until_ms:
                return self._use(held, at_ms)
            if at_ms < held.until_ms + _REFRESHABLE_MS:
                return self.token("token.refresh", self.task.scopes, event_label=event_label)
        kind = "token.request" if self.chain.principal is None else "token.exchange"
        return self.token(kind, self.task.scopes, event_label=event_label)

    @property
    def _keeps_tokens(self) -> bool:
        # Tokens for work handed down die with it.
        return not self.chain.actors

    def token(self, kind: str, scopes: list[str], *, event_label: int = 0, denied: bool = False) -> None:
        """One event of the token's life at the authorization server.

        Args:
            kind: `token.request`, `token.exchange` or `token.refresh`.
            denied: none of the scopes are given, and the token in use stays the one before.
        """
        if not (denied and self._tail):
            self._new_token(int(self.at))
        given = [] if denied else scopes
        issuer = self.agent.tenant.issuer
        resource = f',"resource":{{"type":"token","id":"{issuer}/token","external":false,"audience":"{issuer}"}}'
        asked = f',"scopes":{json_text({"requested": scopes, "granted": given})}'
        outcome = REFUSED if denied else SUCCESS
        text = f',"type":"{kind}","action":"{kind}","effect":"unknown"'
        self._write(text, resource, asked + outcome, (420, 180 if denied else 900, 18), event_label)

    def step(
        self,
        step: Step,
        *,
        event_label: int = 0,
        resource: str | None = None,
        outcome: str | None = None,
        scale: float = 1.0,
        peer: str | None = None,
    ) -> bool:
        """One action.

        Args:
            resource: text of the resource, where the session shall not choose; see `resource_text`.
            outcome: text of the outcome, where chance shall not decide.
            scale: factor on both byte counts.
            peer: agent that is spoken to.

        Returns:
            Whether it succeeded.
        """
        draws = self.stream.draws
        if self.at >= self._token_until:
            self.token("token.refresh", self.task.scopes, event_label=event_label)
            self.at += 40
        if resource is None:
            resource = self._resource(step)
        if outcome is None:
            outcome = self._outcome(step)
        factor = self.agent.volume * self._enter(int(self.at)).drift * scale
        numbers = (
            int(draws.lognormal(step.size_in * scale, 0.3)),
            int(draws.lognormal(step.size_out * factor, _SPREAD)) if outcome is SUCCESS else 180,
            int(draws.lognormal(step.duration_ms, _SPREAD)) + 1,
        )
        middle = step.scopes + outcome if peer is None else f',"peer":{json_text(peer)}{step.scopes}{outcome}'
        self._write(step.text, resource, middle, numbers, event_label)
        self.at += numbers[2]
        return outcome is SUCCESS

    def think(self, factor: float = 1.0) -> None:
        """Let the time pass that an agent of this kind usually takes between two actions."""
        self.at += self.stream.draws.lognormal(_GAP_MS * self.agent.pace * factor, 0.7)

    def _write(self, kind: str, resource: str, middle: str, numbers: tuple[int, int, int], event_label: int) -> None:
        at_ms = int(self.at)
        self._enter(at_ms)
        head = self._head.replace("urn:gateway:", "urn:as:", 1) if kind.startswith(',"type":"token') else self._head
        size_in, size_out, duration = numbers
        text = (
            f'{kind}{head}{resource}{middle},"bytes_in":{size_in},"bytes_out":{size_out},'
            f'"duration_ms":{duration}{self._tail}'
        )
        self.stream.add(at_ms, text, self.truth, event_label)

    # -- choices ----------------------------------------------------------------------------------------------------

    def _outcome(self, step: Step) -> str:
        draw = self.stream.draws.unit()
        if draw >= step.error + step.denied:
            return SUCCESS
        if draw < step.denied:
            return DENIED
        return _ERRORS[self.stream.draws.index(len(_ERRORS))]

    def _resource(self, step: Step) -> str:
        """Choose among what the agent knows, by a Zipf-like law; now and then it meets something new."""
        kind, draws = step.kind, self.stream.draws
        held = self.held.get(kind.name)
        if held is not None and draws.unit() < _SAME:
            return resource_text(self.agent, kind, held, "derived" if step.derived else "granted")
        size = self.agent.pools.get(kind.name, kind.size)
        if self.stream.learns and draws.unit() < kind.growth:
            self.agent.pools[kind.name] = size + 1
            rank, provenance = size, "new" if draws.unit() < 0.3 else "derived"
        else:
            rank, provenance = draws.rank(size), "derived" if step.derived else "granted"
        self.held[kind.name] = rank
        return resource_text(self.agent, kind, rank, provenance)


def resource_text(agent: SimulatedAgent, kind: Kind, rank: int, provenance: str) -> str:
    """JSON of the agent's resource of that rank.

    Pools of neighbours overlap: what is new for one agent is often known in its peer group.
    """
    return target_text(agent, kind, kind.identify(agent.slot * (kind.size // 3 + 1) + rank), provenance)


def target_text(agent: SimulatedAgent, kind: Kind, names: tuple[str, str], provenance: str) -> str:
    """JSON of a resource whose id and target are given."""
    name, target = names
    external = "true" if kind.external else "false"
    return (
        f',"resource":{{"type":"{kind.name}","id":"{name}","target":"{target}","external":{external},'
        f'"audience":"https://{kind.host}.{agent.tenant.domain}","provenance":"{provenance}"}}'
    )


def agent_text(agent: SimulatedAgent, epoch: Epoch, *, here: bool = True) -> str:
    """JSON of source, tenant and agent; without the instance where the calls come from elsewhere."""
    if here and epoch.text:
        return epoch.text
    fields = {"id": agent.id, "issuer": agent.tenant.issuer, "type": agent.role.name, "version": epoch.version}
    if here:
        fields["instance"] = epoch.instance
    who = json_text(fields | {"capabilities": agent.role.capabilities})
    text = f',"source":"urn:gateway:{agent.tenant.name}-1","tenant":{json_text(agent.tenant.name)},"agent":{who}'
    if here:
        epoch.text = text
    return text


def client_text(agent: SimulatedAgent, epoch: Epoch, origin: Origin | None) -> str:
    """JSON of the network and software that the call came from."""
    if origin is None:
        version = f"{agent.role.slug}/{epoch.version}"
        origin = Origin(f"{agent.network}.{epoch.host}", agent.tenant.asn, f"agent-sdk/1.{agent.index % 5} {version}")
    ip, asn, user_agent = origin
    return f',"client":{{"ip":"{ip}","asn":{asn},"user_agent":"{user_agent}"}}'


def credential_text(agent: SimulatedAgent, epoch: Epoch, token: str) -> str:
    """JSON of the credential: fingerprints only."""
    role = agent.role
    return (
        f',"credential":{{"method":"{role.method}","thumbprint":"{epoch.thumbprint}","token_id":"sha256:{token}",'
        f'"token_lifetime_s":{role.lifetime_s}}}'
    )
