"""MCP servers: an event for each call of a tool, and the risk answer enforced. Needs the extra `mcp`.

Names of tools, prompts and resources are read. Arguments and results are read only where the server was given an
`OriginTracker`, which keeps them in memory and sends hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel

try:
    from mcp.server.auth.middleware.auth_context import get_access_token
    from mcp.server.auth.provider import AccessToken
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.shared.exceptions import MCPError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"trustwatch_client.mcp needs the MCP SDK, but {error.name} is not installed: "
        "pip install './client[mcp]' in a clone of Trustwatch, or 'path/to/WHEEL[mcp]'",
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

UNGATED_METHODS = frozenset({"initialize", "server/discover", "ping"})
"""Methods that every client may call; so is each notification named `notifications/…`."""
LISTEN = "subscriptions/listen"
READ_METHODS = frozenset(
    {
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "resources/subscribe",
        "resources/unsubscribe",
        LISTEN,
        "tasks/get",
        "tasks/list",
        "tasks/result",
    }
)
NO_AGENT = (
    "This request names no agent. The server must pass caller= to TrustMcpMiddleware if there is no verified access "
    'token, as over stdio; without_caller="pass" serves requests without an agent.'
)
BOUND = (
    "The access token is bound to a key or certificate (cnf) and is not accepted as a bearer token. A server that has "
    "its proof checked must pass caller= to TrustMcpMiddleware."
)
TRACED_METHODS = frozenset({TOOL_CALL, "resources/read"})
_NAME_PARAMETERS: Mapping[str, str] = {TOOL_CALL: "name", "prompts/get": "name", "resources/read": "uri"}


class TrustMcpMiddleware:
    """A server middleware: `MCPServer("tools", middleware=[TrustMcpMiddleware(...)])`.

    Tool calls are events of type `tool.call` whose action is the tool; every other request is an `api.call` with the
    method, also one that the server does not know. Handshakes (`initialize`, `server/discover`), pings and
    notifications cause no look-up and no event. A refusal is a JSON-RPC error; a refused message that expects no answer
    is dropped. If HTTP clients should see 401 and 403, put `TrustMiddleware` around the app with a client and give this
    one a sender alone.

    A request is judged when it arrives. A `subscriptions/listen` that is already open when its agent is contained
    stays open until the client or the server ends it, and is one event then.

    Args:
        server: name of this server; `peer` of the events.
        caller: reads the agent; without one, from the access token that the SDK's own bearer authentication verified,
            of which there is none over stdio. None = no agent. It may raise MCPError to refuse.
        without_caller: `refuse` refuses requests without an agent, with an error that names `caller=`; `pass` lets them
            pass without a look-up or an event. Both are counted as `unnamed`.
        client: asks for risk; None enforces nothing.
        sender: takes the events; None sends none.
        effects: what tools, and methods of your own, do, by name (`read`, `write`, `delete`, `admin`); others are
            `unknown`, but for `READ_METHODS`.
        needed: scopes that a tool or method needs, by name.
        approved: lets step-ups pass: `Approvals`, `shown_by_token`, or your own; None lets none pass.
        origins: traces where the arguments of tools and resources came from; None reads neither them nor answers.
        untrusted: tools whose answers may hold what others wrote (mail, web pages, tickets, files), `resources/read`
            for resources; None = it is not known of any.
        calls: asks about each call of a tool, and each other request that does more than read, before it is made
            (`AsyncCallVerdicts`); best with *origins*.
        resource: names the resource of a request, so that single tools can have a type (`risk.sensitive_types`) or lie
            outside; where there is none, or for None, the type is `mcp` and the id the tool's.
    """

    def __init__(
        self,
        server: str,
        *,
        caller: Callable[[Context], Caller | None] | None = None,
        without_caller: Literal["refuse", "pass"] = "refuse",
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
        if without_caller not in ("refuse", "pass"):
            raise ValueError(f"without_caller is {without_caller!r}; it is refuse or pass")
        self._server = server
        self._without_caller = without_caller
        self._resource = resource or (lambda _: None)
        self._caller = caller or caller_from_token
        self._guard = Guard(client, sender, approved, calls)
        self._effects = effects or {}
        self._needed = needed or {}
        self._origins = origins
        self._untrusted = untrusted
        self._clock = clock or SystemClock()

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        if _is_ungated(ctx):
            return await call_next(ctx)
        try:
            caller = self._caller(ctx)
        except MCPError:
            self._guard.count_unidentified()
            raise
        if caller is None:
            self._guard.count_unidentified()
            if self._without_caller == "pass":
                return await call_next(ctx)
            raise MCPError(ACCESS_REFUSED, NO_AGENT, {"error": "no_agent"})
        began, started = self._clock.wall(), self._clock.steady()
        name = _called_name(ctx)
        named = name or ctx.method
        effect: Effect = "read" if ctx.method in READ_METHODS else self._effects.get(named, "unknown")
        ruling = await self._guard.evaluate(caller, effect, self._needed.get(named))
        # A stream of changes ends when its client leaves.
        outcome: tuple[Outcome, str | None] = ("success", None) if ctx.method == LISTEN else ("error", "cancelled")
        trace = self._start_trace(ctx, caller, name)
        try:
            if self._guard.judges_calls and (ctx.method == TOOL_CALL or effect != "read"):
                asked = self._event(ctx, caller, name, effect, outcome, began)
                trace.add_to_event(asked)
                ruling = await self._guard.judge_call(ruling, caller, asked, trace.hash_arguments(_arguments(ctx)))
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
            action=(name if tool and name else ctx.method)[:MAX_NAME_CHARACTERS] or "-",
            outcome=outcome[0],
            error=outcome[1],
            effect=effect,
            resource=self._resource(ctx) or _default_resource(ctx, self._server, name),
            peer=self._server,
            session=_session_id(ctx),
        )
        return caller.add_to_event(event)


def caller_from_token(_: Context) -> Caller | None:
    """The caller of the access token that the SDK's bearer authentication verified; None where there is none.

    Raises:
        MCPError: the token is bound to a key or certificate (`cnf`), whose proof that authentication does not ask for.
    """
    token = get_access_token()
    if token is None:
        return None
    claims = claims_from_token(token)
    if claims.get("cnf") is not None:
        raise MCPError(ACCESS_REFUSED, BOUND, {"error": "invalid_token"})
    return caller_from_claims(claims)


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


def _is_ungated(ctx: Context) -> bool:
    """Names count to the letter, as the SDK reads them; a request is no notification, whatever its name."""
    return ctx.method in UNGATED_METHODS or (ctx.request_id is None and ctx.method.startswith("notifications/"))


def _arguments(ctx: Context) -> Mapping[str, Any]:
    """Arguments of a tool, or parameters of another method without what the transport adds."""
    params = ctx.params or {}
    if ctx.method == TOOL_CALL:
        return params.get("arguments") or {}
    return {name: value for name, value in params.items() if name != "_meta"}


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
