"""Access tokens for the client itself: a callable of the user's, or OAuth client credentials (RFC 6749, RFC 7523)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import quote_plus

import httpx2
import msgspec

from .settings import validate_url
from .timing import Clock
from .trust_errors import TokenFailed

RENEWAL_SHARE = 0.8
"""Share of its life after which a token is renewed."""
MIN_TOKEN_LIFETIME_S = 1.0
TOKEN_TIMEOUT_S = 5.0


class ClientAuthentication(Protocol):
    """Client authentication at the token endpoint."""

    def authenticate(self, client_id: str, token_url: str, form: dict[str, str], now: float) -> dict[str, str]:
        """Add what belongs into *form*; returns headers. *now*: seconds since 1970."""
        ...


class ClientSecret:
    """A shared secret (RFC 6749 section 2.3.1).

    Args:
        secret: never shown.
        method: `client_secret_basic` or `client_secret_post`.
    """

    def __init__(
        self, secret: str, method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    ) -> None:
        if method not in ("client_secret_basic", "client_secret_post"):
            raise ValueError(f"method is {method!r}; it is client_secret_basic or client_secret_post")
        self._secret = secret
        self._method = method

    def __repr__(self) -> str:
        return f"ClientSecret({self._method})"

    def authenticate(self, client_id: str, token_url: str, form: dict[str, str], now: float) -> dict[str, str]:  # noqa: ARG002
        if self._method == "client_secret_post":
            form["client_id"], form["client_secret"] = client_id, self._secret
            return {}
        login = httpx2.BasicAuth(quote_plus(client_id), quote_plus(self._secret))
        request = next(login.auth_flow(httpx2.Request("POST", token_url)))
        return {"authorization": request.headers["authorization"]}


class ClientCredentials:
    """The client credentials grant.

    Args:
        token_url: the token endpoint; https, or http to this machine.
        client_id: of the gateway or agent that asks Trustwatch.
        authentication: `ClientSecret`, or `PrivateKeyJwt` of `trustwatch_client.assertion`.
        scope: what to ask for, separated by blanks; `trust.score:read` to look up, `trust.ingest` to send.
        audience, resource: sent where given (RFC 8707 has `resource`; some servers want `audience`).
        insecure_http: allows http to another machine, for a mesh that encrypts by itself.

    Raises:
        ValueError: the URL would send secrets in clear.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str,
        authentication: ClientAuthentication,
        *,
        scope: str = "trust.score:read trust.ingest",
        audience: str | None = None,
        resource: str | None = None,
        insecure_http: bool = False,
    ) -> None:
        self.token_url = validate_url(token_url, insecure_http=insecure_http)
        self.client_id = client_id
        self._authentication = authentication
        self._form = {"grant_type": "client_credentials", "scope": scope}
        self._form |= {name: value for name, value in (("audience", audience), ("resource", resource)) if value}

    def request(self, now: float) -> tuple[dict[str, str], dict[str, str]]:
        """Form and headers of a token request at *now* (seconds since 1970)."""
        form = dict(self._form)
        return form, self._authentication.authenticate(self.client_id, self.token_url, form, now)


class _TokenResponse(msgspec.Struct, frozen=True):
    access_token: Annotated[str, msgspec.Meta(min_length=1)]
    expires_in: float | str | None = None
    token_type: str = "Bearer"  # noqa: S105 - the type of the token, not one


class _CachedAccessToken(msgspec.Struct, frozen=True):
    """A token with the times to renew it and of its end, by the steady clock."""

    token: str
    renew_at: float
    expires_at: float


def _read_token_response(reply: httpx2.Response, now: float) -> _CachedAccessToken:
    if reply.status_code != 200:
        raise TokenFailed(f"the token endpoint answered HTTP {reply.status_code}: {_oauth_error(reply.content)}")
    try:
        granted = msgspec.json.decode(reply.content, type=_TokenResponse)
        lifetime = 60.0 if granted.expires_in is None else float(granted.expires_in)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise TokenFailed("the token endpoint's answer holds no access_token") from None
    if granted.token_type.lower() != "bearer":
        raise TokenFailed(f"the token endpoint gave a token of type {granted.token_type[:20]!r}; Bearer is needed")
    lifetime = max(lifetime, MIN_TOKEN_LIFETIME_S)
    return _CachedAccessToken(granted.access_token, now + RENEWAL_SHARE * lifetime, now + lifetime)


def _oauth_error(body: bytes) -> str:
    """The `error` code of a reply, without its description: that may repeat what was sent."""
    try:
        said = msgspec.json.decode(body).get("error", "")
    except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError):
        return "no error code"
    return said[:60] if isinstance(said, str) else "no error code"


TokenSource = Callable[[], str] | ClientCredentials
AsyncTokenSource = Callable[[], str | Awaitable[str]] | ClientCredentials


class AccessTokens:
    """Tokens for the requests of one connection: one caller fetches, the others wait for it."""

    def __init__(
        self,
        source: AsyncTokenSource,
        clock: Clock,
        request: Callable[..., Awaitable[httpx2.Response]],
        fetching: AbstractAsyncContextManager[object],
        *,
        waits: bool,
    ) -> None:
        self._source = source
        self._clock = clock
        self._request = request
        self._fetching = fetching
        self._waits = waits
        self._cached: _CachedAccessToken | None = None

    async def get(self) -> str:
        """A token that is valid now. Raises TokenFailed."""
        if not isinstance(self._source, ClientCredentials):
            supplied = self._source()
            in_time = self._waits and inspect.isawaitable(supplied)
            return _require_token(await _supplied_in_time(supplied) if in_time else supplied)
        if (token := self._fresh_token()) is not None:
            return token
        async with self._fetching:
            if (token := self._fresh_token()) is not None:
                return token
            try:
                form, headers = self._source.request(self._clock.wall())
                url = self._source.token_url
                reply = await self._request("POST", url, data=form, headers=headers, timeout=TOKEN_TIMEOUT_S)
                self._cached = _read_token_response(reply, self._clock.steady())
            except (httpx2.HTTPError, TokenFailed) as error:
                if self._cached is not None and self._clock.steady() < self._cached.expires_at:
                    return self._cached.token  # no new one can be fetched, and the old one is valid
                if isinstance(error, TokenFailed):
                    raise
                raise TokenFailed(f"the token endpoint does not answer: {type(error).__name__}") from None
            return self._cached.token

    def discard_token(self, token: str) -> None:
        """Forget *token*, which the service refused."""
        cached = self._cached
        if cached is not None and cached.token == token:
            self._cached = None

    def _fresh_token(self) -> str | None:
        cached = self._cached
        return cached.token if cached is not None and self._clock.steady() < cached.renew_at else None


async def _supplied_in_time(token: Any) -> object:
    """A token that a callable gives. Raises TokenFailed where it waits too long: who asks would pile up behind it."""
    try:
        async with asyncio.timeout(TOKEN_TIMEOUT_S):
            return await token
    except TimeoutError:
        raise TokenFailed(f"the token callable gave nothing within {TOKEN_TIMEOUT_S:g} s") from None


def _require_token(token: object) -> str:
    if not isinstance(token, str) or not token:
        raise TokenFailed(f"the token callable gave {type(token).__name__}; it must give a text that is not empty")
    return token
