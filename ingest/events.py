"""The native audit event and its typed decoder.

`decode_event` is the only way in: it accepts one JSON object and either returns a `NativeEvent` or raises
`MalformedEvent` with the path of the wrong member. Members that are not in the schema are never an error; the pipeline
does not read them, and the raw record keeps them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from .described import member
from .errors import MalformedEvent

MAX_ID_LENGTH = 2048
"""Characters in an identifier: agents may be https or SPIFFE URIs."""

MAX_EVENT_BYTES = 256 * 1024
"""A larger record is refused: audit events hold no bodies."""

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
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
Effect = Literal["read", "write", "delete", "admin", "unknown"]
EFFECTS: tuple[str, ...] = get_args(Effect)
Outcome = Literal["success", "denied", "error"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)
Provenance = Literal["granted", "derived", "new", "unknown"]
PROVENANCES: tuple[str, ...] = get_args(Provenance)

Origin = Literal["prompt", "system", "tool", "unseen"]
ORIGINS: tuple[str, ...] = get_args(Origin)

CausedBy = Literal["trustwatch"]
CAUSES: tuple[str, ...] = get_args(CausedBy)

CAUSED_BY_US: CausedBy = "trustwatch"
"""Value of `caused_by`: what happened is our doing, and no behaviour of the agent."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
MAX_NAMES = 256
"""Names in a list; a record with more is refused."""
Names = Annotated[list[Text], msgspec.Meta(max_length=MAX_NAMES)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]

MAX_ARGUMENTS = 256
"""Arguments of one call; a record with more is refused."""

MAX_LABEL_LENGTH = 256
"""Characters in the name of an argument or tool."""

MAX_CALL_INDEX = 999_999_999
HASH_PATTERN = r"^([0-9a-f]{8,64}|erased~[0-9A-Z]{1,12})(?!\n)$"
"""A keyed hash, cut: 32 bits or more. An erased subject that is called like one leaves its pseudonym in its place."""

Label = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_LENGTH)]
CallIndex = Annotated[int, msgspec.Meta(ge=0, le=MAX_CALL_INDEX)]
HexHash = Annotated[str, msgspec.Meta(pattern=HASH_PATTERN)]


class Agent(msgspec.Struct, gc=False):
    """The agent that acted: the software that holds the token."""

    id: Annotated[Id, member("id of the agent, as its issuer knows it", "agent-payment-processor-v2.1")]
    issuer: Annotated[Text | None, member("authorization server that knows the agent", "https://as.example")] = None
    type: Annotated[Text | None, member("peer group, from trusted callers or the registry", "PaymentProcessor")] = None
    version: Annotated[Text | None, member("version of the agent's software", "2.1")] = None
    instance: Annotated[Text | None, member("instance of it", "pod-7")] = None
    capabilities: Annotated[Names | None, member("actions that it is meant for", ["process_payment"])] = None
    self_asserted: Annotated[bool, member("no token attests the id: it can only raise risk", False)] = False


class Principal(msgspec.Struct, gc=False):
    """Person or service on whose behalf the agent acts."""

    id: Annotated[Text | None, member("id of the person or service", "john.doe@company.com")] = None
    type: Annotated[Text | None, member("person, service or other", "user")] = None


class Resource(msgspec.Struct, gc=False):
    """The object of the action; `target` is the canonical destination (host, mail address, account)."""

    type: Annotated[Text | None, member("type of the resource", "account")] = None
    id: Annotated[Text | None, member("id of the resource", "acct-42")] = None
    target: Annotated[Text | None, member("destination of the action; default: from `id`", "acct-42")] = None
    external: Annotated[bool | None, member("whether it is outside of the tenant", False)] = None
    audience: Annotated[Text | None, member("audience of the token that was used", "https://payments.example")] = None
    provenance: Annotated[Provenance | None, member("where the name of the resource came from")] = None


class Scopes(msgspec.Struct, gc=False):
    """OAuth scopes asked for and given."""

    requested: Annotated[Names | None, member("scopes that were requested", ["payments:write"])] = None
    granted: Annotated[Names | None, member("scopes that were granted", ["payments:write"])] = None


class Client(msgspec.Struct, gc=False):
    """Network origin and software of the caller."""

    ip: Annotated[Text | None, member("address", "198.51.100.7")] = None
    asn: Annotated[int | None, member("number of its network", 64500)] = None
    user_agent: Annotated[Text | None, member("what it calls itself", "payer/2.1")] = None


class Credential(msgspec.Struct, gc=False):
    """Authentication of the agent; never the secret itself."""

    method: Annotated[Text | None, member("how the client authenticated", "private_key_jwt")] = None
    thumbprint: Annotated[Text | None, member("thumbprint of its key", "x5t")] = None
    token_id: Annotated[Text | None, member("hash of the token's id", "sha256:1f")] = None
    token_lifetime_s: Annotated[NonNegative | None, member("lifetime of the token, s", 300)] = None


class Argument(msgspec.Struct, gc=False, rename={"from_call": "from"}):
    """Origin of one argument of a call, computed where the content is; the content itself is never sent."""

    name: Annotated[Label, member("parameter; `~` at its end: found inside its text", "recipient")]
    origin: Annotated[Origin, member("where the value came from; `unseen`: nothing before the call held it", "tool")]
    hash: Annotated[HexHash | None, member("keyed hash of the value; null: unknown", "3bfecd2242bc")] = None
    from_call: Annotated[CallIndex | None, member("of `tool`: the earlier call of the session, from 0", 2)] = None
    from_action: Annotated[Label | None, member("of `tool`: action of that call", "read_mail")] = None
    part: Annotated[bool, member("true for a text that is mostly copied from there", False)] = False
    untrusted: Annotated[bool | None, member("of `tool`: whether others may have written it", True)] = None


Arguments = Annotated[list[Argument], msgspec.Meta(max_length=MAX_ARGUMENTS)]


class NativeEvent(msgspec.Struct, gc=False, kw_only=True):
    """One record of what an agent did or asked for. Units: `time` UTC, bytes, milliseconds."""

    time: Annotated[datetime, member("when it happened, RFC 3339 with offset", "2026-11-24T22:23:14.123Z")]
    agent: Annotated[Agent, member("who acted")]
    type: Annotated[EventType, member("what kind of event it is", "tool.call")]
    action: Annotated[Id, member("what was done, by name", "process_payment")]
    outcome: Annotated[Outcome, member("how it ended", "success")]
    id: Annotated[Text | None, member("unique within tenant and source; default: the record's bytes", "evt-0193")] = (
        None
    )
    source: Annotated[Text | None, member("who reports it, a URI; without one the caller", "urn:gateway:eu-1")] = None
    tenant: Annotated[Text | None, member("organization; default: the caller's only one", "acme-corp")] = None
    principal: Annotated[Principal | None, member("on whose behalf the agent acted")] = None
    delegation: Annotated[Names | None, member("actors, the current one first (RFC 8693)", ["agent-ledger"])] = None
    task: Annotated[Text | None, member("purpose that the token is bound to", "pay-approved-invoices")] = None
    effect: Annotated[Effect | None, member("what the action does to its resource", "write")] = None
    resource: Annotated[Resource | None, member("what was acted on")] = None
    peer: Annotated[Text | None, member("agent that was called", "agent-ledger")] = None
    scopes: Annotated[Scopes | None, member("scopes requested and granted")] = None
    status: Annotated[int | None, member("status of HTTP, or the tool's own", 200)] = None
    error: Annotated[Text | None, member("code of the error", "timeout")] = None
    caused_by: Annotated[CausedBy | None, member("`trustwatch`: caused by us, not counted as behavior")] = None
    unauthorized: Annotated[Names | None, member("agents the source may not act for; set by Trustwatch")] = None
    bytes_in: Annotated[NonNegative | None, member("bytes that the agent sent", 512)] = None
    bytes_out: Annotated[NonNegative | None, member("bytes that it received", 2048)] = None
    duration_ms: Annotated[NonNegative | None, member("how long it took, ms", 31.0)] = None
    count: Annotated[Annotated[float, msgspec.Meta(ge=1)] | None, member("calls that this record represents", 1)] = None
    client: Annotated[Client | None, member("where the request came from")] = None
    credential: Annotated[Credential | None, member("credential of the agent; never a secret")] = None
    session: Annotated[Text | None, member("conversation or run", "conv-81")] = None
    trace_id: Annotated[Text | None, member("trace that it belongs to (W3C)", "4bf92f3577b34da6a3ce")] = None
    txn: Annotated[Text | None, member("transaction that it belongs to", "txn-771")] = None
    arguments: Annotated[Arguments | None, member("origin of the arguments, with keyed hashes of values")] = None
    untrusted_result: Annotated[bool | None, member("whether the answer may hold what others wrote", False)] = None
    attributes: Annotated[dict[str, Any] | None, member("other members, not judged", {"region": "eu-1"})] = None


DecodedT = TypeVar("DecodedT")
_MAX_NUMBER = 1e300
_decoder = msgspec.json.Decoder(NativeEvent, strict=True)


def decode_event(raw: bytes | memoryview) -> NativeEvent:
    """Decode and check one native event.

    Raises:
        MalformedEvent: with the JSON path of the wrong member; the caller sends the record to the dead letter.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise MalformedEvent(f"record has {len(raw)} bytes, limit is {MAX_EVENT_BYTES}")
    try:
        event = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _malformed(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"not a JSON object: {error}") from None
    _check_values(event)
    return event


def _check_values(event: NativeEvent) -> None:
    """Rules that the type alone can not state."""
    if event.time.tzinfo is None:
        raise MalformedEvent("time has no UTC offset; RFC 3339 requires one (for example a trailing `Z`)", "$.time")
    if not 1970 <= event.time.year <= 9000:
        raise MalformedEvent(f"time is outside the years 1970 to 9000: {event.time.isoformat()}", "$.time")
    # The sum of numbers that are not negative tells at once whether all are finite (or so large that it matters not).
    if (
        not (event.bytes_in or 0.0) + (event.bytes_out or 0.0) + (event.duration_ms or 0.0) + (event.count or 0.0)
        < _MAX_NUMBER
    ):
        _refuse_infinite(event)


def _refuse_infinite(event: NativeEvent) -> None:
    for name in ("bytes_in", "bytes_out", "duration_ms", "count"):
        value = getattr(event, name)
        if value is not None and not math.isfinite(value):
            raise MalformedEvent("number is not finite", f"$.{name}")


_MISSING = re.compile(r"missing required field `(\w+)`")


def _malformed(error: msgspec.ValidationError) -> MalformedEvent:
    """Error with the path of the wrong member; for a missing one msgspec gives the path of its object only."""
    message, path = _split_path(error)
    missing = _MISSING.search(message)
    path = f"{path}.{missing.group(1)}" if missing else path
    advice = _ADVICE_ON_ARGUMENTS.get(_LIST_INDEX.sub("[]", path))
    return MalformedEvent(message if advice is None else f"{message}; {advice}", path)


_LIST_INDEX = re.compile(r"\[\d+\]")
_ADVICE_ON_ARGUMENTS = {
    "$.arguments": f"send a list of at most {MAX_ARGUMENTS} arguments: leave out those from the prompt first",
    "$.arguments[]": "an argument is an object with name and origin, and where it can be with hash",
    "$.arguments[].name": f"give 1 to {MAX_LABEL_LENGTH} characters",
    "$.arguments[].origin": f"it is one of {', '.join(ORIGINS)}",
    "$.arguments[].hash": "give 8 to 64 hexadecimal digits of a keyed hash, never the value",
    "$.arguments[].from": f"it is the index of an earlier call of the session, 0 to {MAX_CALL_INDEX}",
    "$.arguments[].from_action": f"give 1 to {MAX_LABEL_LENGTH} characters",
    "$.arguments[].part": "it is true or false",
    "$.arguments[].untrusted": "it is true or false",
}
"""Help by path: these members are computed by programs that were written for them, and msgspec's words are terse."""


PUBLISHED_NAME = "AuditEvent"
"""`NativeEvent` in published schemas."""


def event_schema_components(prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON Schema of the native event and of what it is made of, by published name; references begin with *prefix*."""
    _, components = msgspec.json.schema_components([NativeEvent], ref_template=prefix + "{name}")
    event = components.pop(NativeEvent.__name__) | {"title": PUBLISHED_NAME}
    components = {PUBLISHED_NAME: event, **components}
    return {"$ref": prefix + PUBLISHED_NAME}, components


def event_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the native event, as served by the API."""
    schema, components = event_schema_components("#/$defs/")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://trustwatch.dev/schema/audit-event.v1.json",
        "title": "Trustwatch audit event v1",
        **schema,
        "$defs": components,
    }


MAX_JSON_VALUES = 2_000_000
"""Values in one piece of foreign JSON. Each takes 50 to 200 bytes once it is decoded, however short it is as text."""

_FEW_JSON_BYTES = 64 * 1024


def check_json_values(raw: bytes) -> None:
    """Raise MalformedEvent for JSON that may hold more than `MAX_JSON_VALUES`; signs within texts count too."""
    if len(raw) > _FEW_JSON_BYTES and sum(map(raw.count, (b",", b"{", b"["))) > MAX_JSON_VALUES:
        raise MalformedEvent(f"the JSON holds more than {MAX_JSON_VALUES} values: send less at once")


def decode_json(decode: Callable[[bytes], DecodedT], raw: bytes) -> DecodedT:
    """Apply *decode* of msgspec to a foreign record. Raises MalformedEvent, with the path of a wrong member."""
    check_json_values(raw)
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise MalformedEvent(*_split_path(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"not a JSON object: {error}") from None


def _split_path(error: msgspec.ValidationError) -> tuple[str, str]:
    """Message and JSON path of an error; msgspec joins them."""
    message, at_path, path = str(error).rpartition(" - at `")
    return (message, path.removesuffix("`")) if at_path else (str(error), "$")
