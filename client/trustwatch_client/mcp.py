"""Guards MCP servers: sends an event for each request, and enforces the risk answer. Needs the extra `mcp`.

Names of tools, prompts and resources are read. Arguments and results are read only with an `OriginTracker`, which
keeps them in memory and sends hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Unpack
from urllib.parse import urlsplit

from pydantic import BaseModel

try:
    from mcp.server.auth.middleware.auth_context import get_access_token
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.shared.exceptions import MCPError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"trustwatch_client.mcp needs the MCP SDK, but {error.name} is not installed: "
        "pip install './client[mcp]' in a clone of Trustwatch, or 'path/to/WHEEL[mcp]'",
        name=error.name,
    ) from error

from .events import AuditEvent, Caller, Effect, EventResource, Outcome, caller_from_claims
from .guard import REFUSAL_DETAILS, UNKNOWN_AGENT, Guard, GuardedRequest, GuardOptions, Ruling

Context = ServerRequestContext[Any, Any]
TOOL_CALL = "tools/call"
ACCESS_REFUSED = -32040
"""JSON-RPC error code of refusals, in the range for implementations; `data.error` names the kind."""
MAX_NAME_CHARACTERS = 256

UNGATED_METHODS = frozenset({"initialize", "server/discover", "ping"})
"""Methods that every client may call, like each notification named `notifications/…`."""
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


class TrustMcpMiddleware(Guard):
    """Server middleware for MCP: `MCPServer("tools", middleware=[TrustMcpMiddleware(...)])`.

    Tool calls are events of type `tool.call` whose action is the tool; every other request is an `api.call` with the
    method as its action, even if the server does not know the method. Handshakes (`initialize`, `server/discover`),
    pings and notifications cause no look-up and no event. A refusal is a JSON-RPC error; a refused message that expects
    no answer is dropped. If HTTP clients should see 401 and 403, put `TrustMiddleware` with a client around the app,
    and give this middleware only a sender.

    A request is judged when it arrives. A `subscriptions/listen` that is open when its agent is contained stays open
    until the client or the server ends it, and is then one event.

    Args:
        server: name of this server; `peer` of the events.
        caller: reads the agent. The default reads the access token that the SDK's bearer authentication verified; over
            stdio there is none. None = no agent. It may raise MCPError to refuse.
        without_caller: `refuse` refuses requests without an agent, with an error that names `caller=`; `pass` lets them
            pass without a look-up or an event. Both are counted as `unnamed`.
        effects: effects of tools and of your own methods, by name (`read`, `write`, `delete`, `admin`); others are
            `unknown`, except `READ_METHODS`.
        needed: scopes that a tool or method needs, by name.
        untrusted: tools whose answers may hold what others wrote (mail, web pages, tickets, files), `resources/read`
            for resources; None = unknown.
        resource: returns the resource of a request, so that single tools can have a type (`risk.sensitive_types`) or be
            external; without it, or if it returns None, the type is `mcp` and the id the tool's.
        options: as in `GuardOptions`. Each tool call and each other request that does more than read is judged by
            *calls*; *origins* traces the arguments of tools and resources.
    """

    def __init__(
        self,
        server: str,
        *,
        caller: Callable[[Context], Caller | None] | None = None,
        without_caller: Literal["refuse", "pass"] = "refuse",
        effects: Mapping[str, Effect] | None = None,
        needed: Mapping[str, Collection[str]] | None = None,
        untrusted: Collection[str] | None = None,
        resource: Callable[[Context], EventResource | None] | None = None,
        **options: Unpack[GuardOptions],
    ) -> None:
        if without_caller not in ("refuse", "pass"):
            raise ValueError(f"without_caller is {without_caller!r}; it is refuse or pass")
        super().__init__(**options)
        self.server = server
        self.resource = resource
        self.untrusted = untrusted
        self._without_caller = without_caller
        self._caller = caller or caller_from_token
        self._effects = effects or {}
        self._needed = needed or {}

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        # Names are compared exactly, as the SDK does.
        if ctx.method in UNGATED_METHODS or (ctx.request_id is None and ctx.method.startswith("notifications/")):
            return await call_next(ctx)
        try:
            caller = self._caller(ctx)
        except MCPError:
            self.count_unidentified()
            raise
        if caller is None:
            self.count_unidentified()
            if self._without_caller == "pass":
                return await call_next(ctx)
            raise MCPError(ACCESS_REFUSED, NO_AGENT, {"error": "no_agent"})
        name = (ctx.params or {}).get(_NAME_PARAMETERS.get(ctx.method, ""))
        name = name[:MAX_NAME_CHARACTERS] if isinstance(name, str) and name else None
        named = name or ctx.method
        effect: Effect = "read" if ctx.method in READ_METHODS else self._effects.get(named, "unknown")
        request = _Request(self, caller, ctx, name, effect)
        await request.evaluate(effect, self._needed.get(named))
        request.look_up_arguments()
        try:
            if ctx.method == TOOL_CALL:
                await request.judge_call((ctx.params or {}).get("arguments") or {})
            elif effect != "read":  # `_meta` is of the transport
                await request.judge_call({name: value for name, value in (ctx.params or {}).items() if name != "_meta"})
            if request.ruling.refused:
                raise refusal_error(request.ruling)
            result = await call_next(ctx)
            is_error = result.get("isError") if isinstance(result, Mapping) else getattr(result, "is_error", False)
            request.outcome, request.error = ("error", "tool_error") if is_error else ("success", None)
            await request.read_answer(result)
            return result
        except Exception as error:
            failure = f"jsonrpc {error.code}" if isinstance(error, MCPError) else type(error).__name__
            request.outcome, request.error = "error", failure
            raise
        finally:
            request.send_event()


@dataclass(eq=False, repr=False)
class _Request(GuardedRequest):
    guard: TrustMcpMiddleware
    ctx: Context
    name: str | None
    effect: Effect

    def __post_init__(self) -> None:
        super().__post_init__()
        self._is_tool = self.ctx.method == TOOL_CALL
        self._action = self.name if self._is_tool and self.name else self.ctx.method
        headers = getattr(self.ctx.request, "headers", None)  # protocol versions up to 2025-11-25 have sessions
        session = headers.get("mcp-session-id") if headers is not None else None
        self._session = session[:MAX_NAME_CHARACTERS] if isinstance(session, str) and session else None
        if self.ctx.method != LISTEN:  # a stream of changes ends when its client leaves
            self.outcome, self.error = "error", "cancelled"

    def look_up_arguments(self) -> None:
        if self.ctx.method in TRACED_METHODS:
            params = self.ctx.params or {}
            arguments = params.get("arguments") if self._is_tool else {"uri": params.get("uri")}
            self.start_trace(self._session, self._action, arguments or {})

    async def read_answer(self, result: HandlerResult) -> None:
        if not self.is_traced:
            return
        if self.ctx.method in TRACED_METHODS:
            called = self.name if self._is_tool else self.ctx.method
            untrusted = None if self.guard.untrusted is None else called in self.guard.untrusted
            await self.finish_trace(list(_values_of(result)), untrusted)
        elif self.ctx.method == "prompts/get":
            self.add_system(self._session, list(_values_of(result)))

    def new_event(self, time: datetime, outcome: Outcome) -> AuditEvent:
        server, name = self.guard.server, self.name
        resource = self.guard.resource(self.ctx) if self.guard.resource else None
        if resource is None:
            object_id = f"{server}/{name}" if name else server
            if self.ctx.method == "resources/read" and name:
                object_id = urlsplit(name)._replace(query="", fragment="").geturl()
            resource = EventResource(type="mcp", id=object_id, target=server)
        return AuditEvent(
            time=time,
            agent=UNKNOWN_AGENT,
            outcome=outcome,
            type="tool.call" if self._is_tool else "api.call",
            action=self._action[:MAX_NAME_CHARACTERS] or "-",
            effect=self.effect,
            resource=resource,
            peer=server,
            session=self._session,
        )


def caller_from_token(_: Context) -> Caller | None:
    """Return the caller of the access token that the SDK's bearer authentication verified; None without a token.

    Raises:
        MCPError: the token is bound to a key or certificate (`cnf`), whose proof that authentication does not check.
    """
    token = get_access_token()
    if token is None:
        return None
    claims: dict[str, Any] = {"client_id": token.client_id, "scope": " ".join(token.scopes), "sub": token.subject}
    if token.expires_at is not None:
        claims["exp"] = token.expires_at
    claims |= token.claims or {}  # as the token's verifier supplied them
    if claims.get("cnf") is not None:
        raise MCPError(ACCESS_REFUSED, BOUND, {"error": "invalid_token"})
    return caller_from_claims(claims)


def refusal_error(ruling: Ruling) -> MCPError:
    """Return the error for a refused request; it discloses nothing about risk."""
    _, code, _, detail = REFUSAL_DETAILS[ruling.action]
    return MCPError(ACCESS_REFUSED, detail, {"error": code})


def _values_of(result: HandlerResult) -> Iterator[object]:
    """Yield texts and values of an answer, but no member names, pictures or sounds."""
    answer = result.model_dump(mode="json", by_alias=True) if isinstance(result, BaseModel) else result
    if answer is None:
        return
    yield answer.get("structuredContent")
    for block in (*(answer.get("content") or ()), *(answer.get("contents") or ())):
        yield from _values_of_block(block)
    for message in answer.get("messages") or ():
        yield from _values_of_block(message.get("content") if isinstance(message, Mapping) else None)


def _values_of_block(block: object) -> Iterator[object]:
    if isinstance(block, Mapping):
        yield from (block.get(name) for name in ("text", "uri", "name", "title", "description"))
        yield from _values_of_block(block.get("resource"))
