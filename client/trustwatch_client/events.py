"""The audit event, which client and service share, its check for tokens, credentials and bodies, and the caller.

The check is a net for mistakes, not a classifier of data.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from .described import member
from .trust_errors import ContentRefused

MAX_ATTRIBUTE_CHARACTERS = 512
"""Characters of a value among `attributes`: identifiers and labels are short, bodies are not."""
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_DEPTH = 3

_SECRET_PATTERN = re.compile(
    r"""
    \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.                # a JWT
    | \b(?:bearer|basic|dpop)\s+[A-Za-z0-9._~+/=-]{16,}        # the value of an Authorization header
    | -----BEGIN\ [A-Z\ ]*(?:PRIVATE\ KEY|CERTIFICATE)         # PEM
    | [?&\#;](?:access_token|refresh_token|id_token|client_secret|client_assertion|assertion|api_key|apikey|password
        |code|sig|signature|x-amz-signature)=                  # in a URL
    | ://[^/@\s:]+:[^/@\s]+@                                   # a password in a URL
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_NAME_PATTERN = re.compile(
    r"(?:^|[._-])(?:authorization|cookie|set-cookie|password|passwd|secret|api[_-]?key|access[_-]?token|refresh[_-]?token"
    r"|id[_-]?token|token|assertion|credentials?|body|payload|content|arguments|prompt|completion|messages?|headers?"
    r"|private[_-]?key)$",
    re.IGNORECASE,
)


def check_content(event: Mapping[str, object]) -> None:
    """Raise an error if *event* (JSON values) seems to contain a secret or content.

    Raises:
        ContentRefused: with the path of the member.
    """
    for name, value in event.items():
        if name == "attributes":
            if isinstance(value, Mapping):
                _check_attributes(value, "$.attributes", 1)
        elif name == "arguments":  # the schema allows only a keyed hash next to names and actions
            for at, argument in enumerate(value if isinstance(value, list) else ()):
                for label in ("name", "from_action"):
                    _check_texts(argument.get(label), f"$.arguments[{at}].{label}")
        else:
            _check_texts(value, f"$.{name}")


def _check_texts(value: object, path: str) -> None:
    if isinstance(value, str):
        if _SECRET_PATTERN.search(value):
            raise ContentRefused(path, "looks like a token or credential")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _check_texts(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _check_texts(inner, f"{path}[{at}]")


def _check_attributes(value: Mapping[str, object], path: str, depth: int) -> None:
    if depth > MAX_ATTRIBUTE_DEPTH or len(value) > MAX_ATTRIBUTES:
        raise ContentRefused(path, f"has more than {MAX_ATTRIBUTES} members or {MAX_ATTRIBUTE_DEPTH} levels")
    for name, inner in value.items():
        member_path = f"{path}.{str(name)[:40]}"
        if _SECRET_NAME_PATTERN.search(str(name)) and isinstance(inner, (str, bytes, list, Mapping)):
            raise ContentRefused(member_path, "is a name of secrets or content")
        if isinstance(inner, Mapping):
            _check_attributes(inner, member_path, depth + 1)
        elif isinstance(inner, list) and len(inner) > MAX_ATTRIBUTES:
            raise ContentRefused(member_path, f"has more than {MAX_ATTRIBUTES} members")
        elif isinstance(inner, str) and len(inner) > MAX_ATTRIBUTE_CHARACTERS:
            raise ContentRefused(member_path, f"is longer than {MAX_ATTRIBUTE_CHARACTERS} characters")
        else:
            _check_texts(inner, member_path)


MAX_ID_LENGTH = 2048
MAX_EVENT_BYTES = 256 * 1024

EventType = Literal[
    "token.request",
    "token.exchange",
    "token.refresh",
    "token.revoke",
    "token.introspect",
    "client.register",
    "client.change",
    "api.call",
    "tool.call",
    "a2a.message",
    "approval",
    "admin",
    "other",
    "signal.hard",
    "signal.proof",
    "signal.evidence",
    "signal.change",
    "signal.note",
]
CallType = Literal["tool.call", "api.call", "a2a.message"]
_CALL_TYPES: Mapping[str, CallType] = {name: name for name in get_args(CallType)}
Effect = Literal["read", "write", "delete", "admin", "unknown"]
Outcome = Literal["success", "denied", "error"]
Provenance = Literal["granted", "derived", "new", "unknown"]
Origin = Literal["prompt", "system", "tool", "unseen"]
CausedBy = Literal["trustwatch"]

DENIED_BY_TRUST = "ext_authz_denied"
"""`error` of a denial that the service's own answer caused: with outcome `denied` it is not behavior of the agent."""
TRUST_UNAVAILABLE = "trustwatch_unavailable"
"""`error` of a request refused since the service did not answer: with outcome `error` no agent did that."""

CAUSED_BY_TRUST: CausedBy = "trustwatch"
"""Mark of both, which the service believes of callers whose settings say `enforces`: no behavior of the agent."""

EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
EventText = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
MAX_NAMES = 256
EventNames = Annotated[list[EventText], msgspec.Meta(max_length=MAX_NAMES)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]

MAX_ARGUMENTS = 256
MAX_LABEL_LENGTH = 256
EventLabel = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_LENGTH)]
MAX_CALL_INDEX = 999_999_999
EventCallIndex = Annotated[int, msgspec.Meta(ge=0, le=MAX_CALL_INDEX)]
HASH_PATTERN = r"^([0-9a-f]{8,64}|erased~[0-9A-Z]{1,12})(?!\n)$"
"""A keyed hash, cut: 32 bits or more. An erased subject that is called like one leaves its pseudonym in its place."""
EventHash = Annotated[str, msgspec.Meta(pattern=HASH_PATTERN)]


class EventPart(msgspec.Struct, omit_defaults=True, gc=False):
    """Base of the parts of an event; members without a value are not sent."""


class Agent(EventPart):
    """The agent that acted: the software that holds the token."""

    id: Annotated[EventId, member("id of the agent, as its issuer knows it", "agent-payment-processor-v2.1")]
    issuer: Annotated[EventText | None, member("authorization server that knows the agent", "https://as.example")] = (
        None
    )
    type: Annotated[
        EventText | None, member("peer group, from trusted callers or the registry", "PaymentProcessor")
    ] = None
    version: Annotated[EventText | None, member("version of the agent's software", "2.1")] = None
    instance: Annotated[EventText | None, member("instance of it", "pod-7")] = None
    capabilities: Annotated[EventNames | None, member("actions that it is meant for", ["process_payment"])] = None
    self_asserted: Annotated[bool, member("no token attests the id: it can only raise risk", False)] = False


class Principal(EventPart):
    """Person or service on whose behalf the agent acts."""

    id: Annotated[EventText | None, member("id of the person or service", "john.doe@company.com")] = None
    type: Annotated[EventText | None, member("person, service or other", "user")] = None


class Resource(EventPart):
    """The object of the action; `target` is the canonical destination (host, mail address, account)."""

    type: Annotated[EventText | None, member("type of the resource", "account")] = None
    id: Annotated[EventText | None, member("id of the resource", "acct-42")] = None
    target: Annotated[EventText | None, member("destination of the action; default: from `id`", "acct-42")] = None
    external: Annotated[bool | None, member("whether it is outside of the tenant", False)] = None
    audience: Annotated[EventText | None, member("audience of the token that was used", "https://payments.example")] = (
        None
    )
    provenance: Annotated[Provenance | None, member("where the name of the resource came from")] = None


class Scopes(EventPart):
    """Requested and granted OAuth scopes."""

    requested: Annotated[EventNames | None, member("scopes that were requested", ["payments:write"])] = None
    granted: Annotated[EventNames | None, member("scopes that were granted", ["payments:write"])] = None


class Client(EventPart):
    """Network origin and software of the caller."""

    ip: Annotated[EventText | None, member("address", "198.51.100.7")] = None
    asn: Annotated[int | None, member("number of its network", 64500)] = None
    user_agent: Annotated[EventText | None, member("what it calls itself", "payer/2.1")] = None


class Credential(EventPart):
    """Authentication of the agent; never the secret itself."""

    method: Annotated[EventText | None, member("how the client authenticated", "private_key_jwt")] = None
    thumbprint: Annotated[EventText | None, member("thumbprint of its key", "x5t")] = None
    token_id: Annotated[EventText | None, member("hash of the token's id", "sha256:1f")] = None
    token_lifetime_s: Annotated[NonNegative | None, member("lifetime of the token, s", 300)] = None


class Argument(EventPart, rename={"from_call": "from"}):
    """Origin of one argument of a call, computed where the content is; the content itself is never sent."""

    name: Annotated[EventLabel, member("parameter; `~` at its end: found inside its text", "recipient")]
    origin: Annotated[Origin, member("where the value came from; `unseen`: nothing before the call held it", "tool")]
    hash: Annotated[EventHash | None, member("keyed hash of the value; null: unknown", "3bfecd2242bc")] = None
    from_call: Annotated[EventCallIndex | None, member("of `tool`: the earlier call of the session, from 0", 2)] = None
    from_action: Annotated[EventLabel | None, member("of `tool`: action of that call", "read_mail")] = None
    part: Annotated[bool, member("true for a text that is mostly copied from there", False)] = False
    untrusted: Annotated[bool | None, member("of `tool`: whether others may have written it", True)] = None


EventArguments = Annotated[list[Argument], msgspec.Meta(max_length=MAX_ARGUMENTS)]


class CallDetails(EventPart, kw_only=True):
    """Members that are known before a call is made, and that its event has, too."""

    principal: Annotated[Principal | None, member("on whose behalf the agent acted")] = None
    delegation: Annotated[EventNames | None, member("actors, the current one first (RFC 8693)", ["agent-ledger"])] = (
        None
    )
    task: Annotated[EventText | None, member("purpose that the token is bound to", "pay-approved-invoices")] = None
    effect: Annotated[Effect | None, member("what the action does to its resource", "write")] = None
    resource: Annotated[Resource | None, member("what was acted on")] = None
    peer: Annotated[EventText | None, member("agent that was called", "agent-ledger")] = None
    scopes: Annotated[Scopes | None, member("scopes requested and granted")] = None
    bytes_in: Annotated[NonNegative | None, member("bytes that the agent sent", 512)] = None
    client: Annotated[Client | None, member("where the request came from")] = None
    credential: Annotated[Credential | None, member("credential of the agent; never a secret")] = None
    arguments: Annotated[EventArguments | None, member("origin of the arguments, with keyed hashes of values")] = None


class Call(CallDetails, kw_only=True):
    """A call before it is made, for `CallVerdicts.evaluate`."""

    action: Annotated[EventId, member("what is to be done, by name", "process_payment")]
    type: Annotated[CallType, member("kind of the call", "tool.call")] = "tool.call"


class AuditEvent(CallDetails, kw_only=True):
    """One record of what an agent did or requested. Units: `time` UTC, bytes, milliseconds."""

    time: Annotated[datetime, member("when it happened, RFC 3339 with offset", "2026-11-24T22:23:14.123Z")]
    agent: Annotated[Agent, member("who acted")]
    type: Annotated[EventType, member("what kind of event it is", "tool.call")]
    action: Annotated[EventId, member("what was done, by name", "process_payment")]
    outcome: Annotated[Outcome, member("how it ended", "success")]
    id: Annotated[
        EventText | None, member("unique within tenant and source; default: the record's bytes", "evt-0193")
    ] = None
    source: Annotated[EventText | None, member("who reports it, a URI; without one the caller", "urn:gateway:eu-1")] = (
        None
    )
    tenant: Annotated[EventText | None, member("organization; default: the caller's only one", "acme-corp")] = None
    status: Annotated[int | None, member("status of HTTP, or the tool's own", 200)] = None
    error: Annotated[EventText | None, member("code of the error", "timeout")] = None
    caused_by: Annotated[CausedBy | None, member("`trustwatch`: caused by us, not counted as behavior")] = None
    unauthorized: Annotated[EventNames | None, member("agents the source may not act for; set by Trustwatch")] = None
    bytes_out: Annotated[NonNegative | None, member("bytes that it received", 2048)] = None
    duration_ms: Annotated[NonNegative | None, member("how long it took, ms", 31.0)] = None
    count: Annotated[Annotated[float, msgspec.Meta(ge=1)] | None, member("calls that this record represents", 1)] = None
    session: Annotated[EventText | None, member("conversation or run", "conv-81")] = None
    trace_id: Annotated[EventText | None, member("trace that it belongs to (W3C)", "4bf92f3577b34da6a3ce")] = None
    txn: Annotated[EventText | None, member("transaction that it belongs to", "txn-771")] = None
    untrusted_result: Annotated[bool | None, member("whether the answer may hold what others wrote", False)] = None
    attributes: Annotated[dict[str, Any] | None, member("other members, not judged", {"region": "eu-1"})] = None

    def as_call(self) -> Call:
        """Return the call that this event reports."""
        details = {name: getattr(self, name) for name in CallDetails.__struct_fields__}
        return Call(action=self.action, type=_CALL_TYPES.get(self.type, "tool.call"), **details)


EventAgent = Agent
EventPrincipal = Principal
EventResource = Resource
EventScopes = Scopes
EventClient = Client
EventCredential = Credential
EventArgument = Argument

_event_decoder = msgspec.json.Decoder(AuditEvent)


def encode_event(event: AuditEvent, source: str | None = None) -> tuple[str, bytes]:
    """Return ID and JSON of *event*. A missing ID is generated, so that an event sent twice counts once.

    Args:
        source: of an event that names none.

    Raises:
        ContentRefused: it has a token, a credential or a body.
        ValueError: a member is of the wrong kind or too long, or the time has no offset.
    """
    if not isinstance(event.time, datetime) or event.time.tzinfo is None:
        raise ValueError("event refused: time needs a UTC offset, like datetime.now(UTC)")
    event = msgspec.structs.replace(event, id=event.id or uuid.uuid4().hex, source=event.source or source)
    try:
        check_content(msgspec.to_builtins(event))
        raw = msgspec.json.encode(event)
        _event_decoder.decode(raw)  # structs do not check what they are made of
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"event refused: {error}") from None
    if len(raw) > MAX_EVENT_BYTES:
        raise ContentRefused("$", f"has {len(raw)} bytes; the most is {MAX_EVENT_BYTES}")
    return event.id or "", raw


def fingerprint(text: str) -> str:
    """Return a name for a token (preferably for its `jti`) that does not disclose it: `sha256:` and 32 hex digits."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]


MAX_DELEGATION_ACTORS = 16
"""Maximum number of actors read of a delegation chain."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The calling agent. The code that creates it must have verified the agent's token.

    Attributes:
        agent_id, issuer, tenant: together the agent's key at the service.
        agent_type, capabilities: used only if the sender is `trusted` in the service's settings.
        principal: on whose behalf it acts; None = its own.
        delegation: actors, the current one first.
        scopes: of its token.
        token_id: `fingerprint` of the token's `jti`, never the token.
        session: conversation or workflow.
        acr, auth_time: how, and when (seconds since 1970), a person authenticated, according to the token.
    """

    agent_id: str
    issuer: str | None = None
    tenant: str | None = None
    agent_type: str | None = None
    agent_version: str | None = None
    capabilities: tuple[str, ...] | None = None
    principal: str | None = None
    delegation: tuple[str, ...] = ()
    scopes: tuple[str, ...] | None = None
    task: str | None = None
    token_id: str | None = None
    token_lifetime_s: float | None = None
    session: str | None = None
    acr: str | None = None
    auth_time: float | None = None

    def add_to_event(self, event: AuditEvent) -> AuditEvent:
        """Return *event* with the caller's members.

        Scopes and lifetime of its token are left out. If Trustwatch restricts tokens, they follow from its verdicts and
        would look like a change of the agent's habits.
        """
        return msgspec.structs.replace(
            event,
            agent=EventAgent(
                id=self.agent_id,
                issuer=self.issuer,
                type=self.agent_type,
                version=self.agent_version,
                capabilities=None if self.capabilities is None else list(self.capabilities),
            ),
            tenant=self.tenant,
            session=event.session or self.session,
            **self._details(),
        )

    def add_to_call(self, call: Call) -> Call:
        """Return *call* with the caller's values for the members that it does not set."""
        missing = {name: value for name, value in self._details().items() if getattr(call, name) is None}
        return msgspec.structs.replace(call, **missing)

    def _details(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "principal": EventPrincipal(id=self.principal) if self.principal else None,
            "delegation": list(self.delegation) or None,
            "credential": EventCredential(token_id=self.token_id) if self.token_id else None,
        }


def caller_from_claims(
    claims: Mapping[str, Any], *, tenant: str | None = None, tenant_claim: str = "organization_id"
) -> Caller | None:
    """Return the caller that verified claims of a JWT or an introspection response name, or None.

    The agent is the current actor: the outermost `act` (RFC 8693), else `client_id`, `azp` or `cid`, else `sub`.
    Earlier actors decide nothing.

    Args:
        claims: verified by you, with the proof of what `cnf` binds the token to. An unverified token lets any
            client act as any agent.
        tenant: of every caller; else `tenant_claim` names it.
    """
    actors: list[str] = []
    inner = claims.get("act")
    while isinstance(inner, Mapping) and len(actors) < MAX_DELEGATION_ACTORS:
        if (actor := _first_text(inner, "sub", "client_id")) is None:
            break
        actors.append(actor)
        inner = inner.get("act")
    agent = actors[0] if actors else _first_text(claims, "client_id", "azp", "cid", "sub")
    if agent is None:
        return None
    principal = _text_or_none(claims.get("delegated_user_id")) or _text_or_none(claims.get("sub"))
    token_id = _text_or_none(claims.get("jti"))
    issued, ends, auth_time = claims.get("iat"), claims.get("exp"), claims.get("auth_time")
    lifetime_s = None
    if isinstance(issued, (int, float)) and isinstance(ends, (int, float)) and ends >= issued:
        lifetime_s = float(ends - issued)
    return Caller(
        agent_id=agent,
        issuer=_text_or_none(claims.get("iss")),
        tenant=tenant or _text_or_none(claims.get(tenant_claim)),
        agent_type=_text_or_none(claims.get("agent_type")),
        agent_version=_text_or_none(claims.get("agent_version")),
        capabilities=_name_list(claims.get("capabilities")),
        principal=principal if principal != agent else None,
        delegation=tuple(actors),
        scopes=_name_list(claims.get("scope", claims.get("scp"))),
        task=_text_or_none(claims.get("task")),
        token_id=fingerprint(token_id) if token_id else None,
        token_lifetime_s=lifetime_s,
        acr=_text_or_none(claims.get("acr")),
        auth_time=float(auth_time) if isinstance(auth_time, (int, float)) else None,
    )


def _first_text(claims: Mapping[str, Any], *names: str) -> str | None:
    return next((text for name in names if (text := _text_or_none(claims.get(name)))), None)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _name_list(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, (list, tuple)):
        return tuple(name for name in value if isinstance(name, str))
    return None
