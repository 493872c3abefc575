"""Base of all clients of the service: requests with access tokens, over a given HTTP client or a separate one.

Tokens come from a callable, or by OAuth client credentials (RFC 6749, RFC 7523).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypedDict, TypeVar
from urllib.parse import quote_plus, urlsplit

import httpx2
import msgspec

from .timing import Clock, SystemClock
from .trust_errors import TokenFailed

T = TypeVar("T")
Key = TypeVar("Key")
Value = TypeVar("Value")
SendRequest = Callable[..., Awaitable[httpx2.Response]]

RETRYABLE_ERRORS = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
"""Errors of a connection that ended during a request: a query is retried once, within the same budget."""
_TOKEN_REFUSED = (401, 421)
"""421: the service does not know the host name, and accepts it only with a valid token."""
_JSON_HEADERS = {"content-type": "application/json"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def validate_url(url: str, *, insecure_http: bool = False) -> str:
    """Return *url* without a trailing slash.

    Raises:
        ValueError: it is not an http(s) URL, or would send tokens in clear text to another machine.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError(f"{parts.hostname or 'the address'}: give a URL like https://trustwatch.example")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not insecure_http:
        raise ValueError(f"{parts.hostname}: http sends tokens in clear; use https, or insecure_http=True in a mesh")
    return url.rstrip("/")


def require_positive(settings: msgspec.Struct, *names: str, or_zero: bool = False) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (value > 0 or (or_zero and value == 0)):
            raise ValueError(f"{name} is {value}; it must {'not be below' if or_zero else 'be above'} 0")


RENEWAL_SHARE = 0.8
"""Share of its lifetime after which a token is renewed."""
MIN_TOKEN_LIFETIME_S = 1.0
TOKEN_TIMEOUT_S = 5.0


class ClientAuthentication(Protocol):
    """Authenticates the client at the token endpoint."""

    def authenticate(self, client_id: str, token_url: str, form: dict[str, str], now: float) -> dict[str, str]:
        """Add the authentication to *form*, and return headers. *now*: seconds since 1970."""
        ...


class ClientSecret:
    """Authenticates with a shared secret (RFC 6749 section 2.3.1).

    Args:
        secret: the shared secret; it is never shown.
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
    """Requests tokens with the client credentials grant.

    Args:
        token_url: the token endpoint; https, or http to this machine.
        client_id: of the gateway or agent that calls Trustwatch.
        authentication: `ClientSecret`, or `PrivateKeyJwt` of `trustwatch_client.assertion`.
        scope: requested scopes, separated by spaces: `trust.score:read` to query risk, `trust.ingest` to send events.
        audience, resource: sent if given (RFC 8707 defines `resource`; some servers expect `audience`).
        insecure_http: allows http to another machine, for a service mesh that encrypts.

    Raises:
        ValueError: the URL would send secrets in plain text.
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
        """Return form and headers of a token request at *now* (seconds since 1970)."""
        form = dict(self._form)
        return form, self._authentication.authenticate(self.client_id, self.token_url, form, now)


class _OAuthError(msgspec.Struct, frozen=True):
    error: str = ""


class _TokenResponse(msgspec.Struct, frozen=True):
    access_token: Annotated[str, msgspec.Meta(min_length=1)]
    expires_in: float | str | None = None
    token_type: str = "Bearer"  # noqa: S105 - the type of the token, not one


class _CachedAccessToken(msgspec.Struct, frozen=True):
    token: str
    renew_at: float
    expires_at: float


def _read_token_response(reply: httpx2.Response, now: float) -> _CachedAccessToken:
    if reply.status_code != 200:
        try:  # the description of an error may repeat what was sent, so only its code is quoted
            code = msgspec.json.decode(reply.content, type=_OAuthError).error[:60]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            code = "no error code"
        raise TokenFailed(f"the token endpoint answered HTTP {reply.status_code}: {code}")
    try:
        granted = msgspec.json.decode(reply.content, type=_TokenResponse)
        lifetime = 60.0 if granted.expires_in is None else float(granted.expires_in)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise TokenFailed("the token endpoint's answer has no access_token") from None
    if granted.token_type.lower() != "bearer":
        raise TokenFailed(f"the token endpoint returned a token of type {granted.token_type[:20]!r}; Bearer is needed")
    lifetime = max(lifetime, MIN_TOKEN_LIFETIME_S)
    return _CachedAccessToken(granted.access_token, now + RENEWAL_SHARE * lifetime, now + lifetime)


TokenSource = Callable[[], str] | ClientCredentials
AsyncTokenSource = Callable[[], str | Awaitable[str]] | ClientCredentials


@dataclass(eq=False, repr=False)
class Requests:
    """Sends requests with access tokens, for threads and for asyncio.

    Attributes:
        request: of the HTTP client.
        tokens: supplies the tokens.
        lock: one task or thread fetches a token while the others wait.
        may_await: whether a token callable may be async.
    """

    request: SendRequest
    tokens: AsyncTokenSource
    clock: Clock
    lock: AbstractAsyncContextManager[object]
    _: KW_ONLY
    may_await: bool
    _cached: _CachedAccessToken | None = field(default=None, init=False)

    async def send(
        self, method: str, url: str, timeout_s: float, *, on_attempt: Callable[[], None] = lambda: None, **given: Any
    ) -> httpx2.Response:
        """Make one attempt. A token that the service refuses is forgotten. Raises TokenFailed, httpx2.HTTPError."""
        token = await self._token()
        on_attempt()
        headers = {**given.pop("headers", {}), "authorization": f"Bearer {token}"}
        reply = await self.request(method, url, headers=headers, timeout=timeout_s, **given)
        if reply.status_code in _TOKEN_REFUSED and (cached := self._cached) is not None and cached.token == token:
            self._cached = None
        return reply

    async def ask(
        self, url: str, question: bytes, timeout_s: float, on_attempt: Callable[[], None] = lambda: None
    ) -> httpx2.Response:
        """POST JSON, and retry once if the token is refused or the service closed a kept connection.

        Raises TokenFailed, httpx2.HTTPError.
        """
        given: dict[str, Any] = {"content": question, "headers": _JSON_HEADERS, "on_attempt": on_attempt}
        try:
            reply = await self.send("POST", url, timeout_s, **given)
            if reply.status_code not in _TOKEN_REFUSED:
                return reply
        except RETRYABLE_ERRORS:
            pass
        return await self.send("POST", url, timeout_s, **given)

    async def _token(self) -> str:
        if isinstance(self.tokens, ClientCredentials):
            if (token := self._fresh_token()) is not None:
                return token
            async with self.lock:
                return self._fresh_token() or await self._fetch_token(self.tokens)
        supplied: object = self.tokens()
        if self.may_await and inspect.isawaitable(supplied):
            try:
                async with asyncio.timeout(TOKEN_TIMEOUT_S):  # callers would queue behind it
                    supplied = await supplied
            except TimeoutError:
                raise TokenFailed(f"the token callable returned nothing within {TOKEN_TIMEOUT_S:g} s") from None
        if not isinstance(supplied, str) or not supplied:
            kind = type(supplied).__name__
            raise TokenFailed(f"the token callable returned {kind}; it must return a non-empty text")
        return supplied

    def _fresh_token(self) -> str | None:
        cached = self._cached
        return cached.token if cached is not None and self.clock.steady() < cached.renew_at else None

    async def _fetch_token(self, credentials: ClientCredentials) -> str:
        try:
            form, headers = credentials.request(self.clock.wall())
            url = credentials.token_url
            reply = await self.request("POST", url, data=form, headers=headers, timeout=TOKEN_TIMEOUT_S)
            self._cached = _read_token_response(reply, self.clock.steady())
        except (httpx2.HTTPError, TokenFailed) as error:
            if self._cached is not None and self.clock.steady() < self._cached.expires_at:
                return self._cached.token  # the old token is still valid
            if isinstance(error, TokenFailed):
                raise
            raise TokenFailed(f"the token endpoint does not answer: {type(error).__name__}") from None
        return self._cached.token


class Counters:
    """Counts by name, which start at 0 and never fall. Thread-safe."""

    def __init__(self, *names: str) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))

    def increment(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def as_dict(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts)


class Counted:
    """Base of objects with counters."""

    _counters: Counters

    def counts(self) -> Mapping[str, int]:
        """Return the counters by name; docs/client.md lists them."""
        return self._counters.as_dict()


class BoundedCache(Generic[Key, Value]):
    """Keeps at most *size* entries and drops the least recently used. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Return the value of *key*, or None. This counts as a use."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key]

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


class _ThreadLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class ThreadOptions(TypedDict, total=False):
    """Options of the clients for threads; `TrustClient` describes them."""

    http: httpx2.Client | None
    clock: Clock | None
    insecure_http: bool


class LoopOptions(TypedDict, total=False):
    """Options of the clients for asyncio; `TrustClient` describes them."""

    http: httpx2.AsyncClient | None
    clock: Clock | None
    insecure_http: bool


class ThreadClient(Counted):
    """Base class of the clients for threads. A `with` block closes them. `completed` runs their coroutines."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        http: httpx2.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http)
        self._clock = clock or SystemClock()
        _check_type(http, httpx2.Client)
        self._owns_http = http is None
        self._http = http or httpx2.Client(trust_env=False)
        self._requests = Requests(self._request, token, self._clock, _ThreadLock(), may_await=False)

    async def _request(self, method: str, url: str, **given: Any) -> httpx2.Response:
        return self._http.request(method, url, **given)

    def close(self) -> object:
        """Close the connections, unless the caller passed its own HTTP client."""
        if self._owns_http:
            self._http.close()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LoopClient(Counted):
    """Base class of the clients for asyncio. An `async with` block closes them."""

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        *,
        http: httpx2.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http)
        self._clock = clock or SystemClock()
        _check_type(http, httpx2.AsyncClient)
        self._owns_http = http is None
        self._http = http or httpx2.AsyncClient(trust_env=False)
        self._requests = Requests(self._http.request, token, self._clock, asyncio.Lock(), may_await=True)
        self._tasks: set[asyncio.Task[Any]] = set()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio complains about an error that is never read

    async def close(self) -> object:
        """Cancel running requests, and close the connections unless the caller passed its own HTTP client."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._owns_http:
            await self._http.aclose()
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def completed(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never suspends, because its HTTP client blocks."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("the coroutine was suspended")


def _check_type(http: object, kind: type) -> None:
    """Raise TypeError for a client of another library, whose errors would be taken for those of the token callable."""
    if not isinstance(http, kind | None):
        given = f"{type(http).__module__}.{type(http).__qualname__}".replace("httpx._client.", "httpx.")
        raise TypeError(f"http is {given}; it must be an httpx2.{kind.__name__}")
