"""`POST /introspect`: RFC 7662 for gateways that have an introspection plugin and need only another URL.

A token of an agent that policy denies is as inactive as a forged one, and nothing in the answer tells them apart. An
agent that keeps some of its scopes gets an active answer with those alone: this way can narrow, a check can not.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import msgspec
from starlette.types import Receive, Scope

from ...ingest.errors import TrustwatchError
from ..callers import ANY, DECIDE, Caller
from ..problems import problem_of
from ..request_body import TooLong, whole_body
from ..settings import GatewayClientSettings, GatewaySettings
from ..tokens import InvalidToken, UnknownKey
from ..tokens.verify import MAX_TOKEN, named_issuer
from .answers import JSON, NO_STORE, Answer, Header
from .asked import AUTHORIZATION, header
from .holder import Holder
from .issuers import GatewayIssuers, Unreachable
from .judging import Judging, narrowed

VIA = "introspection"
MAX_FORM = 64 * 1024
FORM = b"application/x-www-form-urlencoded"
BASIC: Header = (b"www-authenticate", b'Basic realm="introspection"')

Identify = Callable[[Scope], Awaitable[Caller]]


class NotAuthorized(TrustwatchError):
    """Who asks is no client of gateways."""

    code = "invalid_client"


class Unreadable(TrustwatchError):
    """The request is none of RFC 7662."""

    code = "invalid_request"


class Introspection:
    """Answers introspection requests.

    Args:
        settings: of gateways.
        issuers: verify tokens, or are asked.
        judging: asks the guard.
        identify: the caller of a request by its access token; raises AuthenticationFailed.
    """

    def __init__(
        self, settings: GatewaySettings, issuers: GatewayIssuers, judging: Judging, identify: Identify
    ) -> None:
        self._settings = settings
        self._issuers = issuers
        self._judging = judging
        self._identify = identify
        self._tenant_of = {
            issuer.issuer: issuer.tenant if issuer.tenant_claim is None else None for issuer in settings.issuers
        }
        """None = its tokens say."""
        self._clients = {client.client_id: client for client in settings.clients}

    async def answer(self, scope: Scope, receive: Receive) -> Answer | None:
        """The answer to one request; None where the client went away before it was whole."""
        if scope["method"] != "POST":
            return _answer(405, {"error": "invalid_request"}, "unreadable", (b"allow", b"POST"))
        try:
            tenants = await self._tenants(scope)
            form = await _body(scope, receive)
            return None if form is None else await self._answer(_token(form), tenants)
        except NotAuthorized:
            return _answer(401, {"error": "invalid_client"}, "unauthorized", BASIC)
        except Unreadable as error:
            return _answer(400, {"error": error.code, "error_description": str(error)}, "unreadable")
        except Unreachable:
            return self._unreachable()
        except TrustwatchError as error:
            return _problem(error)

    async def _tenants(self, scope: Scope) -> Collection[str]:
        """Tenants whose tokens the client may ask about. Raises what says that it is none."""
        given = header(scope, AUTHORIZATION) or b""
        scheme, _, credentials = given.partition(b" ")
        if scheme.lower() == b"basic":
            return self._client(credentials.strip(b" ")).tenants
        caller = await self._identify(scope)
        caller.require(DECIDE)
        return caller.tenants

    def _client(self, credentials: bytes) -> GatewayClientSettings:
        """The client of `client_secret_basic`; both halves are form-encoded (RFC 6749, 2.3.1)."""
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise NotAuthorized("the credentials are malformed") from None
        client = self._clients.get(unquote_plus(user))
        wanted = "" if client is None else client.secret.reveal()
        if client is None or not hmac.compare_digest(unquote_plus(password).encode(), wanted.encode()):
            raise NotAuthorized("no such client, or another secret")
        return client

    async def _answer(self, token: bytes, tenants: Collection[str]) -> Answer:
        try:
            holder = await self._holder(token, tenants)
        except InvalidToken:
            return INACTIVE
        question = holder.question
        if question.tenant not in tenants and ANY not in tenants:
            return INACTIVE
        decided = self._judging.introspection(holder, token, VIA)
        self._judging.record(decided, question, VIA, "token.introspect", "introspect", "")
        if not decided.verdict.allow:
            return INACTIVE._replace(kind="denied")
        members: dict[str, Any] = {**narrowed(holder.members(), decided.verdict), "active": True}
        if self._settings.risk_claims and decided.verdict.policy_version:
            members |= decided.claims()
        return _answer(200, members, "active")

    async def _holder(self, token: bytes, tenants: Collection[str]) -> Holder:
        """Whose token it is. Raises InvalidToken, Unreachable."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise InvalidToken("the token is too long")
        try:
            issuer = named_issuer(token.decode())
        except InvalidToken:
            return await self._opaque(token, tenants)
        holder = await self._verified(token, issuer)
        asked = self._issuers.asked.get(issuer)
        if asked is None or asked.settings.tokens != "all":
            return holder
        return self._issuers.holders.of_answer(issuer, {**holder.members(), **await asked.ask(token)})

    async def _verified(self, token: bytes, issuer: str) -> Holder:
        try:
            return await self._issuers.verifier.verify(token)
        except UnknownKey:
            if issuer in self._issuers.names and self._issuers.jwks.keys(issuer) is None:
                self._judging.unverifiable(VIA, issuer)
                raise Unreachable("the issuer's keys can not be had") from None
            raise

    async def _opaque(self, token: bytes, tenants: Collection[str]) -> Holder:
        """Nobody knows whose it is but its issuer: each that can be asked is, until one says that it is active.

        Only those of tenants that the client may ask about: a live token is no business of another tenant's server.
        """
        unreachable: Unreachable | None = None
        for issuer, server in self._issuers.asked.items():
            tenant = self._tenant_of[issuer]
            if tenant is not None and tenant not in tenants and ANY not in tenants:
                continue
            try:
                return self._issuers.holders.of_answer(issuer, await server.ask(token))
            except InvalidToken:
                continue
            except Unreachable as error:
                unreachable = error
        raise unreachable or InvalidToken("the token is not active")

    def _unreachable(self) -> Answer:
        if self._settings.on_unreachable == "inactive":
            return INACTIVE._replace(kind="unreachable")
        return _answer(503, {"error": "temporarily_unavailable"}, "unreachable", (b"retry-after", b"1"))


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != FORM:
        raise Unreadable("the body must be application/x-www-form-urlencoded")
    try:
        return await whole_body(receive, MAX_FORM)
    except TooLong:
        raise Unreadable(f"the body may have {MAX_FORM} bytes") from None


def _token(form: bytes) -> bytes:
    """The only `token` of a form. Raises Unreadable."""
    try:
        found = parse_qs(form.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise Unreadable("the body is no form") from None
    tokens: Iterable[str] = found.get("token", ())
    if len(list(tokens)) != 1 or not found["token"][0]:
        raise Unreadable("the form must have one `token`")
    return found["token"][0].encode()


def _answer(status: int, content: dict[str, Any], kind: str, *more: Header) -> Answer:
    body = msgspec.json.encode(content)
    return Answer(status, [*more, JSON, NO_STORE, (b"content-length", b"%d" % len(body))], body, kind)


def _problem(error: TrustwatchError) -> Answer:
    problem = problem_of(error)
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    return _answer(problem.status, {"error": problem.code}, "unauthorized", *headers)


INACTIVE = _answer(200, {"active": False}, "inactive")
