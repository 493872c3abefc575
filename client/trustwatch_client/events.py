"""The audit event, which client and service share, and a check that events hold no token, credential or body.

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
    """Refuse *event* (JSON values) if it seems to hold a secret or content.

    Raises:
        ContentRefused: with the path of the member.
    """
    for name, value in event.items():
        if name == "attributes":
            if isinstance(value, Mapping):
                _check_attributes(value, "$.attributes", 1)
        elif name == "arguments":
            _check_arguments(value)
        else:
            _check_texts(value, f"$.{name}")


def _check_arguments(value: object) -> None:
    """Check names and actions; the schema admits nothing but a keyed hash beside them."""
    for at, argument in enumerate(value if isinstance(value, list) else ()):
        for name in ("name", "from_action"):
            _check_texts(argument.get(name), f"$.arguments[{at}].{name}")


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
"""`error` of a denial that the service's own answer caused: with outcome `denied` it is no behaviour of the agent."""
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

    id: EventId
    issuer: EventText | None = None
    type: EventText | None = None
    version: EventText | None = None
    instance: EventText | None = None
    capabilities: EventNames | None = None
    self_asserted: bool = False


class Principal(EventPart):
    """Person or service on whose behalf the agent acts."""

    id: EventText | None = None
    type: EventText | None = None


class Resource(EventPart):
    """The object of the action; `target` is the canonical destination (host, mail address, account)."""

    type: EventText | None = None
    id: EventText | None = None
    target: EventText | None = None
    external: bool | None = None
    audience: EventText | None = None
    provenance: Provenance | None = None


class Scopes(EventPart):
    """OAuth scopes asked for and given."""

    requested: EventNames | None = None
    granted: EventNames | None = None


class Client(EventPart):
    """Network origin and software of the caller."""

    ip: EventText | None = None
    asn: int | None = None
    user_agent: EventText | None = None


class Credential(EventPart):
    """Authentication of the agent; never the secret itself."""

    method: EventText | None = None
    thumbprint: EventText | None = None
    token_id: EventText | None = None
    token_lifetime_s: NonNegative | None = None


class Argument(EventPart, rename={"from_call": "from"}):
    """Origin of one argument of a call, computed where the content is; the content itself is never sent.

    Attributes:
        name: of the argument; `~` at its end: the value was found inside its text.
        origin: where the agent had the value from; `unseen` = nothing before the call held it.
        hash: keyed hash of the value; None = the sender tells whence it came, and not which value it is.
        from_call: of `tool`: index of the earlier call of the session whose result held it, from 0.
        from_action: action of that call.
        part: true for a text that is mostly copied from there.
        untrusted: of `tool`: whether others may have written that result, which the sender knows; None = what is
            remembered of the session says.
    """

    name: EventLabel
    origin: Origin
    hash: EventHash | None = None
    from_call: EventCallIndex | None = None
    from_action: EventLabel | None = None
    part: bool = False
    untrusted: bool | None = None


EventArguments = Annotated[list[Argument], msgspec.Meta(max_length=MAX_ARGUMENTS)]


class CallDetails(EventPart, kw_only=True):
    """Members that are known before a call is made, and that its event has, too."""

    principal: Principal | None = None
    delegation: EventNames | None = None
    task: EventText | None = None
    effect: Effect | None = None
    resource: Resource | None = None
    peer: EventText | None = None
    scopes: Scopes | None = None
    bytes_in: NonNegative | None = None
    client: Client | None = None
    credential: Credential | None = None
    arguments: EventArguments | None = None


class Call(CallDetails, kw_only=True):
    """A call before it is made, which `CallVerdicts.evaluate` asks about."""

    action: EventId
    type: CallType = "tool.call"


class AuditEvent(CallDetails, kw_only=True):
    """One record of what an agent did or asked for. Units: `time` UTC, bytes, milliseconds."""

    time: datetime
    agent: Agent
    type: EventType
    action: EventId
    outcome: Outcome
    id: EventText | None = None
    source: EventText | None = None
    tenant: EventText | None = None
    status: int | None = None
    error: EventText | None = None
    caused_by: CausedBy | None = None
    unauthorized: EventNames | None = None
    bytes_out: NonNegative | None = None
    duration_ms: NonNegative | None = None
    count: Annotated[float, msgspec.Meta(ge=1)] | None = None
    session: EventText | None = None
    trace_id: EventText | None = None
    txn: EventText | None = None
    untrusted_result: bool | None = None
    attributes: dict[str, Any] | None = None

    def as_call(self) -> Call:
        """The call that this event reports."""
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
    """Id and JSON of *event*; a missing id is made up, so that sending it twice is one event.

    Args:
        source: where the event names none.

    Raises:
        ContentRefused: it holds a token, a credential or a body.
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
    """Name of a token (best its `jti`) for `credential.token_id`, not disclosing it: `sha256:` and 32 hex digits."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]
