"""MCP servers: an event for each call of a tool, and the risk answer enforced. Needs the extra `mcp`.

Names of tools, prompts and resources are read. Arguments and results are read only where the server was given an
`OriginTracker`, which keeps them in memory and sends hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

try:
    from mcp.server.auth.middleware.auth_context import get_access_token
    from mcp.server.auth.provider import AccessToken
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.shared.exceptions import MCPError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"trustwatch.client.mcp needs the MCP SDK, but {error.name} is not installed: "
        "pip install '.[mcp]' in a clone of Trustwatch, or 'path/to/WHEEL[mcp]'",
        name=error.name,
    ) from error

from .call_trace import CallTrace
from .caller import Caller, caller_from_claims
from .events import AuditEvent, Effect, EventAgent, EventResource, EventType, Outcome
from .guard import CallJudge, EventSink, Guard, RiskLookup, Ruling
from .origin_tracker import OriginTracker
from .refusal import REFUSAL_DETAILS
from .step_up_approvals import ApprovalSource
from .timing import Clock, SystemClock

Context = ServerRequestContext[Any, Any]
TOOL_CALL = "tools/call"
ACCESS_REFUSED = -32040
"""JSON-RPC error code of refusals, in the range that is left to implementations; `data.error` says which."""
MAX_NAME_CHARACTERS = 256

READ_METHODS = frozenset(
    {
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    }
)
TRACED_METHODS = frozenset({TOOL_CALL, "resources/read"})
_NAME_PARAMETERS: Mapping[str, str] = {TOOL_CALL: "name", "prompts/get": "name", "resources/read": "uri"}


class TrustMcpMiddleware:
    """A server middleware: `MCPServer("tools", middleware=[TrustMcpMiddleware(...)])`.

    Tool calls are events of type `tool.call` whose action is the tool; lists and reads are `api.call` with the method.
    Handshakes, pings and notifications cause no look-up and no event. A refusal is a JSON-RPC error; where HTTP
    clients should see 401 and 403, put `TrustMiddleware` around the app with a client and give this one a sender alone.

    Args:
        server: name of this server; `peer` of the events.
        caller: reads the agent; without one, from the access token that the SDK's own bearer authentication verified.
            None = no agent, and the request passes untold.
        client: asks for risk; None enforces nothing.
        sender: takes the events; None sends none.
        effects: what tools do, by name (`read`, `write`, `delete`, `admin`); others are `unknown`.
        needed: scopes that a tool needs, by name.
        approved: lets step-ups pass: `Approvals`, `shown_by_token`, or your own; None lets none pass.
        origins: traces where the arguments of tools and resources came from; None reads neither them nor answers.
        untrusted: tools whose answers may hold what others wrote (mail, web pages, tickets, files), `resources/read`
            for resources; None = it is not known of any.
        calls: asks about each call of a tool before it is made (`AsyncCallVerdicts`); best with *origins*.
        resource: names the resource of a request, so that single tools can have a type (`risk.sensitive_types`) or lie
            outside; where there is none, or for None, the type is `mcp` and the id the tool's.
    """

    def __init__(
        self,
        server: str,
        *,
        caller: Callable[[Context], Caller | None] | None = None,
        client: RiskLookup | None = None,
        sender: EventSink | None = None,
        effects: Mapping[str, Effect] | None = None,
        needed: Mapping[str, Collection[str]] | None = None,
        approved: ApprovalSource | None = None,
        origins: OriginTracker | None = None,
        untrusted: Collection[str] | None = None,
        calls: CallJudge | None = None,
        resource: Callable[[Context], EventResource | None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._server = server
        self._resource = resource or (lambda _: None)
        self._caller = caller or caller_from_token
        self._guard = Guard(client, sender, approved, calls)
        self._effects = effects or {}
        self._needed = needed or {}
        self._origins = origins
        self._untrusted = untrusted
        self._clock = clock or SystemClock()

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None or (ctx.method != TOOL_CALL and ctx.method not in READ_METHODS):
            return await call_next(ctx)
        caller = self._caller(ctx)
        if caller is None:
            self._guard.count_unidentified()
            return await call_next(ctx)
        began, started = self._clock.wall(), self._clock.steady()
        name = _called_name(ctx)
        effect: Effect = "read" if ctx.method in READ_METHODS else self._effects.get(name or "", "unknown")
        ruling = await self._guard.evaluate(caller, effect, self._needed.get(name or ""))
        outcome: tuple[Outcome, str | None] = "error", "cancelled"
        trace = self._start_trace(ctx, caller, name)
        try:
            if self._guard.judges_calls and ctx.method == TOOL_CALL:
                asked = self._event(ctx, caller, name, effect, ("success", None), began)
                trace.add_to_event(asked)
                given = (ctx.params or {}).get("arguments") or {}
                ruling = await self._guard.judge_call(ruling, caller, asked, trace.hash_arguments(given))
            if ruling.refused:
                outcome = ruling.event_outcome()
                raise refusal_error(ruling)
            result = await call_next(ctx)
            outcome = ("error", "tool_error") if _is_tool_error(result) else ("success", None)
            await self._read_answer(trace, ctx, name, result)
            return result
        except Exception as error:
            if not ruling.refused:
                outcome = "error", f"jsonrpc {error.code}" if isinstance(error, MCPError) else type(error).__name__
            raise
        finally:
            event = self._event(ctx, caller, name, effect, outcome, began)
            event.caused_by = ruling.cause
            trace.add_to_event(event)
            event.duration_ms = max(0.0, self._clock.steady() - started) * 1000.0
            self._guard.send_event(event)

    def counts(self) -> Mapping[str, int]:
        """Counters by name; docs/client.md lists them."""
        return self._guard.counts()

    def _start_trace(self, ctx: Context, caller: Caller, name: str | None) -> CallTrace:
        trace = CallTrace(self._origins, caller)
        if ctx.method in TRACED_METHODS:
            tool = ctx.method == TOOL_CALL
            arguments = (ctx.params or {}).get("arguments") if tool else {"uri": (ctx.params or {}).get("uri")}
            trace.start(_session_id(ctx), name if tool and name else ctx.method, arguments or {})
        return trace

    async def _read_answer(self, trace: CallTrace, ctx: Context, name: str | None, result: HandlerResult) -> None:
        """Remember what the answer tells the agent."""
        if not trace.is_on:
            return
        if ctx.method in TRACED_METHODS:
            called = name if ctx.method == TOOL_CALL else ctx.method
            untrusted = None if self._untrusted is None else called in self._untrusted
            await trace.finish(list(_values_of(result)), untrusted)
        elif ctx.method == "prompts/get":
            trace.add_system(_session_id(ctx), list(_values_of(result)))

    def _event(
        self,
        ctx: Context,
        caller: Caller,
        name: str | None,
        effect: Effect,
        outcome: tuple[Outcome, str | None],
        began: float,
    ) -> AuditEvent:
        tool = ctx.method == TOOL_CALL
        kind: EventType = "tool.call" if tool else "api.call"
        event = AuditEvent(
            time=datetime.fromtimestamp(began, UTC),
            agent=EventAgent(id=caller.agent_id),
            type=kind,
            action=(name if tool and name else ctx.method)[:MAX_NAME_CHARACTERS],
            outcome=outcome[0],
            error=outcome[1],
            effect=effect,
            resource=self._resource(ctx) or _default_resource(ctx, self._server, name),
            peer=self._server,
            session=_session_id(ctx),
        )
        return caller.add_to_event(event)


def caller_from_token(_: Context) -> Caller | None:
    """The caller of the access token that the SDK's bearer authentication verified; None where there is none."""
    token = get_access_token()
    return None if token is None else caller_from_claims(claims_from_token(token))


def claims_from_token(token: AccessToken) -> dict[str, Any]:
    """Claims of a verified token, as its verifier supplied them."""
    said: dict[str, Any] = {"client_id": token.client_id, "scope": " ".join(token.scopes), "sub": token.subject}
    if token.expires_at is not None:
        said["exp"] = token.expires_at
    return said | dict(token.claims or {})


def refusal_error(ruling: Ruling) -> MCPError:
    """Error for a refused request; it discloses nothing of risk."""
    _, code, _, detail = REFUSAL_DETAILS[ruling.action]
    return MCPError(ACCESS_REFUSED, detail, {"error": code})


def _called_name(ctx: Context) -> str | None:
    value = (ctx.params or {}).get(_NAME_PARAMETERS.get(ctx.method, ""))
    return value[:MAX_NAME_CHARACTERS] if isinstance(value, str) and value else None


def _is_tool_error(result: HandlerResult) -> bool:
    if isinstance(result, Mapping):
        return bool(result.get("isError"))
    return bool(getattr(result, "is_error", False))


def _values_of(result: HandlerResult) -> Iterator[object]:
    """Texts and values of an answer; neither names of members nor pictures and sounds."""
    answer = result.model_dump(mode="json", by_alias=True) if isinstance(result, BaseModel) else result
    if answer is None:
        return
    yield answer.get("structuredContent")
    messages = answer.get("messages") or ()
    for block in (*(answer.get("content") or ()), *(answer.get("contents") or ())):
        yield from _values_of_block(block)
    for message in messages:
        yield from _values_of_block(message.get("content") if isinstance(message, Mapping) else None)


def _values_of_block(block: object) -> Iterator[object]:
    if isinstance(block, Mapping):
        yield from (block.get(name) for name in ("text", "uri", "name", "title", "description"))
        yield from _values_of_block(block.get("resource"))


def _default_resource(ctx: Context, server: str, name: str | None) -> EventResource:
    if ctx.method == "resources/read" and name:
        return EventResource(type="mcp", id=urlsplit(name)._replace(query="", fragment="").geturl(), target=server)
    return EventResource(type="mcp", id=f"{server}/{name}" if name else server, target=server)


def _session_id(ctx: Context) -> str | None:
    """`Mcp-Session-Id`, which protocol versions until 2025-11-25 have."""
    headers = getattr(ctx.request, "headers", None)
    session_id = headers.get("mcp-session-id") if headers is not None else None
    return session_id[:MAX_NAME_CHARACTERS] if isinstance(session_id, str) and session_id else None
