"""Callers: the clients of verified tokens, with the tenants, issuers and sources that they may act for.

A verified token identifies the client; `callers` of the settings authorize it. A client without an entry is
authenticated but not authorized for anything: an issuer may issue tokens to clients that the operator does not know.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from trustwatch.ingest.errors import SourceNotAllowed, TrustwatchError
from trustwatch.ingest.formats.bodies import BodyFormat
from trustwatch.scoring.store.read_scope import ReadScope

from ...settings.access_settings import ANY_NAME, SELF, CallerSettings, EventSourceSettings, only_name
from .token_verification import UNBOUND, TokenBinding, TokenClaims, read_binding

CONSOLE_NAME_PREFIX: Final = "console:"
"""Prefix of names of people in records: no person can be taken for a client of the settings, nor for a source."""

SCOPE_SCORE_READ: Final = "trust.score:read"
SCOPE_DECIDE: Final = "trust.decide"
SCOPE_INGEST: Final = "trust.ingest"
SCOPE_FEEDBACK: Final = "trust.feedback"
SCOPE_ADMIN: Final = "trust.admin"
SCOPE_METRICS: Final = "trust.metrics"
SCOPE_WORDS: Final[Mapping[str, str]] = {
    SCOPE_SCORE_READ: "Read risk, decisions and their evidence.",
    SCOPE_DECIDE: "Request decisions about tokens and calls.",
    SCOPE_INGEST: "Send audit events.",
    SCOPE_FEEDBACK: "Give feedback on decisions, decide approvals, release agents.",
    SCOPE_ADMIN: "Manage models, erasures, exports, dead letters and actuators.",
    SCOPE_METRICS: "Read metrics.",
}
"""Scopes, with what each lets a token do. A scope includes no other."""
ALL_SCOPES: Final = tuple(SCOPE_WORDS)

OWN_SOURCE_PREFIX: Final = "urn:trustwatch:"
"""Prefix of the sources of our own events, which no caller may use (`SourceBinding.check_claims`)."""
CALLER_SOURCE_PREFIX: Final = "caller:"
"""With the caller's name, the source of an event that names none."""
MAX_ALLOWED_CLAIMS = 4096
"""Combinations of tenant, issuer and source that one binding remembers as allowed."""


class InsufficientScope(TrustwatchError):
    """The token lacks a scope (RFC 6750). Answered with 403 and the required scope."""

    code = "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"the token lacks the scope {scope}")
        self.scope = scope


class TenantNotAllowed(TrustwatchError):
    """The caller may not read or act for the tenant. Answered with 403."""

    code = "tenant_not_allowed"

    def __init__(self, reason: str = "this caller is not bound to that tenant") -> None:
        super().__init__(reason)


class SourceBinding:
    """Claims that the events of one source may make."""

    def __init__(
        self,
        source: EventSourceSettings,
        *,
        own_agent: str = "",
        own_issuers: Iterable[str] = (),
        bytes_per_day: int | None = None,
        ours: bool = False,
    ) -> None:
        self.source = source
        self.name = source.name
        self.tenants = frozenset(source.tenants)
        self.issuers = frozenset(source.issuers)
        self.bytes_per_day = bytes_per_day
        self.vouches = source.is_gateway
        """True if it authenticates the agents that act. Events of all other sources are self-asserted."""
        self.enforces = source.may_mark
        """True if it may mark an event as caused by Trustwatch."""
        self.ours = ours
        self._own_format = BodyFormat(source.format, msgspec.json.encode(source.mapping) if source.mapping else b"")
        self._source_pattern = _any_of(source.sources)
        agents = (ANY_NAME,) if source.agents is None else source.agents
        self._all_agents = ANY_NAME in agents
        self._agent_pattern = _any_of(agent for agent in agents if agent != SELF)
        self._own_agent = own_agent if SELF in agents else ""
        self._own_issuers = frozenset(own_issuers)
        self.is_bounded = self.vouches and not self._all_agents
        """True if it attests agents, but only some."""
        self._allowed_claims: set[tuple[str | None, str | None, str | None]] = set()

    @property
    def source_without_name(self) -> str:
        """The source of an event that does not name one."""
        return CALLER_SOURCE_PREFIX + self.name

    @property
    def default_tenant(self) -> str | None:
        """Tenant of an event that does not name one: the binding's only tenant, else None."""
        return only_name(self.tenants)

    @property
    def default_issuer(self) -> str | None:
        """Issuer of an agent that does not name one: the only issuer of this binding, else None."""
        return only_name(self.issuers)

    def body_format(self, name: str) -> BodyFormat:
        """Return a format, with this source's mapping if the format is its own."""
        return self._own_format if name == self.source.format else BodyFormat(name)

    def check_claims(self, tenant: str | None, issuer: str | None, source: str | None) -> None:
        """Raise unless an event may claim these, after defaults are filled in.

        A missing tenant or issuer counts as a claim that only `*` covers. A missing source claims nothing.
        Raises SourceNotAllowed.
        """
        claim = (tenant, issuer, source)
        if claim in self._allowed_claims:
            return
        if not _covers(self.tenants, tenant):
            raise SourceNotAllowed(_refusal_reason("tenant", tenant), "$.tenant")
        if not _covers(self.issuers, issuer):
            raise SourceNotAllowed(_refusal_reason("issuer", issuer), "$.agent.issuer")
        if source and self._source_pattern.match(source) is None:
            raise SourceNotAllowed(_refusal_reason("source", source), "$.source")
        if source and not self.ours:  # sources of this service and of other callers, whatever the settings allow
            spelled = source.strip().casefold()
            if spelled.startswith(OWN_SOURCE_PREFIX):
                reason = f"sources that begin with `{OWN_SOURCE_PREFIX}` are this service's own"
                raise SourceNotAllowed(reason, "$.source")
            if spelled.startswith(CALLER_SOURCE_PREFIX) and source != self.source_without_name:
                reason = f"sources that begin with `{CALLER_SOURCE_PREFIX}` belong to callers of the settings"
                raise SourceNotAllowed(reason, "$.source")
        if len(self._allowed_claims) >= MAX_ALLOWED_CLAIMS:
            self._allowed_claims.clear()
        self._allowed_claims.add(claim)

    def check_agent(self, issuer: str | None, agent_id: str) -> None:
        """Raise SourceNotAllowed, with the path `$.agent.id`, unless an event may be about that agent."""
        if self._covers_agent(issuer, agent_id):
            return
        raise SourceNotAllowed(
            "this source may not act for that agent: `agents` of its entry in the settings does not cover it; list "
            "the ids, or globs of them, that it reports (`self` is the client of its own token)",
            "$.agent.id",
        )

    def _covers_agent(self, issuer: str | None, agent_id: str) -> bool:
        if self._all_agents or self._agent_pattern.match(agent_id) is not None:
            return True
        return bool(self._own_agent) and agent_id == self._own_agent and issuer in self._own_issuers

    def unauthorized_agents(self, issuer: str | None, names: Iterable[str | None]) -> list[str]:
        """Return those of *names* that an event may show but not affect: agents that `agents` does not cover.

        Applies to every member that names another agent than the event's own. Empty for a source whose events are
        self-asserted, because these affect no other agent.
        """
        if not self.is_bounded:
            return []
        return [name for name in dict.fromkeys(names) if name and not self._covers_agent(issuer, name)]

    def may_speak_for(self, tenant: str | None, issuer: str | None, agent_id: str) -> bool:
        """Return whether events of that agent are accepted from this source."""
        try:
            self.check_claims(tenant, issuer, None)
            self.check_agent(issuer, agent_id)
        except SourceNotAllowed:
            return False
        return True


def _any_of(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, globs)) or r"(?!)")


def _covers(names: frozenset[str], name: str | None) -> bool:
    return ANY_NAME in names or (bool(name) and name in names)


def _refusal_reason(what: str, name: str | None) -> str:
    if not name:
        return f"the event must name the {what} it is about: the settings bind its source to no single one"
    return f"this source may not act for that {what}: `{what}s` of its entry in the settings does not cover it"


class AuthenticatedCaller(msgspec.Struct, frozen=True):
    """An authenticated caller. `exp` is seconds since 1970."""

    issuer: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    exp: float
    binding: SourceBinding
    bound_to: TokenBinding = UNBOUND
    """The key or certificate that each request has to prove."""
    other_names: frozenset[str] = frozenset()
    """Further names: those of its client certificate."""

    @property
    def name(self) -> str:
        """Name in the settings; "" without an entry."""
        return self.binding.name

    @property
    def audience(self) -> str:
        """`aud` of documents signed for the caller: its client ID at the issuer."""
        return self.client_id or self.subject

    @property
    def recorded_name(self) -> str:
        """The name under which its orders are recorded: the name in the settings, else the token's subject."""
        return self.name or self.subject

    @property
    def tenants(self) -> frozenset[str]:
        """Tenants that it may act for; `*` means all."""
        return self.binding.tenants

    @property
    def read_scope(self) -> ReadScope:
        """Rows of the store that a request of this caller may read."""
        return ReadScope(None if ANY_NAME in self.tenants else self.tenants, self.name)

    def require(self, scope: str) -> None:
        """Raise InsufficientScope unless the token has *scope*; no scope includes another."""
        if scope not in self.scopes:
            raise InsufficientScope(scope)

    def may_see(self, tenant: str) -> bool:
        """Return whether the caller is bound to *tenant*."""
        return tenant in self.binding.tenants or ANY_NAME in self.binding.tenants

    def require_tenant(self, tenant: str | None) -> str:
        """Return the tenant of a request: *tenant*, or the caller's only one if the request does not name a tenant.

        Raises TenantNotAllowed.
        """
        if tenant is None:
            tenant = self.binding.default_tenant
            if not self.tenants:
                raise TenantNotAllowed(
                    "this client is bound to no tenant; `callers` of the settings must name its tenants"
                )
            if tenant is None:
                raise TenantNotAllowed("this caller is not bound to exactly one tenant and must name the one it means")
        if not self.may_see(tenant):
            raise TenantNotAllowed
        return tenant


NO_BINDING: Final = SourceBinding(EventSourceSettings(""))


class CallerDirectory:
    """Finds the entry of a token in the settings: by client and subject, else by client, else by subject."""

    def __init__(self, callers: Iterable[CallerSettings], issuers: Iterable[str]) -> None:
        known = tuple(issuers)
        self._bindings: dict[tuple[str, str | None, str | None], SourceBinding] = {}
        for caller in callers:
            issuer = token_issuer(caller, known)
            if issuer is not None:
                self._bindings[issuer, caller.client_id, caller.subject] = binding_of_caller(caller, issuer)

    def resolve(self, claims: TokenClaims) -> AuthenticatedCaller:
        """Return the caller of a verified token. A caller without an entry is not authorized for anything. Raises
        InvalidToken."""
        client, subject = claims.client_id or None, claims.subject
        keys = ((claims.issuer, *key) for key in ((client, subject), (client, None), (None, subject)))
        binding = next((self._bindings[key] for key in keys if key in self._bindings), NO_BINDING)
        bound_to = read_binding(claims.members)
        return AuthenticatedCaller(
            claims.issuer, subject, claims.client_id, claims.scopes, claims.exp, binding, bound_to
        )


def token_issuer(caller: CallerSettings, issuers: Sequence[str]) -> str | None:
    """Return the issuer of a caller's tokens, or None if neither the caller nor *issuers* determine it."""
    return caller.authenticated_by or (issuers[0] if len(issuers) == 1 else None)


def binding_of_caller(caller: CallerSettings, issuer: str | None) -> SourceBinding:
    """Return the claims that events of a configured caller may make, if *issuer* issues its tokens.

    `self` is an agent of that issuer, and of the one that the settings name for its events.
    """
    own_issuers = [name for name in (issuer, only_name(frozenset(caller.issuers))) if name is not None]
    own_agent = caller.client_id or caller.subject or ""
    return SourceBinding(caller, own_agent=own_agent, own_issuers=own_issuers, bytes_per_day=caller.bytes_per_day)
