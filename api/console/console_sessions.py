"""Console sessions: sealed into a cookie, so that every replica that has the key knows them.

A cookie names the person and the grant, encrypted and authenticated (Fernet). The rights of the grant, and whether the
session was ended (`EndedSessions`), are looked up at every request.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
import structlog
from cachetools import FIFOCache, TTLCache
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.requests import Request

from trustwatch.ingest.durable_files import create_secret_file
from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.scoring.store.partition_store import MetadataStore

from ..http.auth.callers import (
    CONSOLE_NAME_PREFIX,
    SCOPE_ADMIN,
    SCOPE_FEEDBACK,
    SCOPE_SCORE_READ,
    AuthenticatedCaller,
    SourceBinding,
)
from ..http.store_executor import StoreExecutor
from ..settings.access_settings import EventSourceSettings
from ..settings.service_settings import MAX_SESSION_S, ConsoleGrantSettings, ConsoleSettings

# The code itself is not on disk, only its hash, as the name of a file that its first use removes.

LINKS_FOLDER = "console-links"
LINK_VALID_S = 86_400.0


def issue_login_code(data_dir: Path, now_s: float) -> str:
    """Return a code that signs in once within a day. Raises OSError."""
    folder = data_dir / LINKS_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _expired(old, now_s):
            old.unlink(missing_ok=True)
    code = secrets.token_urlsafe(18)
    file = folder / _file_name(code)
    file.touch(mode=0o600)
    file.write_text(str(now_s + LINK_VALID_S))
    return code


def redeem_login_code(data_dir: Path, code: str, now_s: float) -> bool:
    """Return whether *code* may sign in now, and use it up."""
    file = data_dir / LINKS_FOLDER / _file_name(code)
    if _expired(file, now_s):
        return False
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
        return True
    return False


def _file_name(code: str) -> str:
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()


def _expired(file: Path, now_s: float) -> bool:
    try:
        return float(file.read_text()) <= now_s
    except (OSError, ValueError):
        return True


T = TypeVar("T")
KEY_FILE: Final = "console-key"
SIGN_IN_TIMEOUT_S: Final = 600  # Time that a person may take at the provider, s
RENEW_AFTER_S: Final = 30.0  # Age at which a cookie is renewed, s: idle time has this precision
MAX_COOKIE_BYTES = 3_800  # Bytes of a cookie; browsers drop those above 4,096

SessionState = Literal["lasts", "idle", "over"]
"""`idle`: unused for too long, as far as this copy of the session shows. `over`: too old."""


class ConsoleSession(msgspec.Struct, frozen=True):
    """A signed-in person. Times are seconds since 1970."""

    session_id: str
    subject: str  # `sub` at the provider
    name: str  # what records call the person
    shown: str  # what the page calls the person
    grant: str  # name of the grant in the settings; "" = development login
    began_s: float  # when the person signed in
    used_s: float  # time of the last request of a page


class PendingSignIn(msgspec.Struct, frozen=True):
    """A sign-in in progress at the provider."""

    state: str
    nonce: str
    verifier: str
    back: str
    began_s: float


SESSION_S, IDLE_S = 28_800.0, 3_600.0
"""A session ends so long after signing in (a shift), and after so long without a page or click."""


class ConsoleSessions:
    """Seals sessions and sign-ins into cookies with a secret *key* of at least 32 bytes, and opens them.

    *secure*: the console is served over https. Then the names of cookies begin with `__Host-`, so that a sister domain
    can neither read nor plant them. If not, *port* is in the names, because browsers share cookies between ports.
    """

    def __init__(self, key: bytes, clock: Callable[[], float], *, secure: bool = False, port: int = 0) -> None:
        self._clock, self._secure = clock, secure
        self.session_name = "__Host-trustwatch" if secure else f"trustwatch-{port}"
        self.sign_in_name = "__Host-trustwatch-sign-in" if secure else f"trustwatch-sign-in-{port}"
        self._sessions = Fernet(base64.urlsafe_b64encode(_derive_key(key, b"session")))
        self._sign_ins = Fernet(base64.urlsafe_b64encode(_derive_key(key, b"sign-in")))
        self._forms = _derive_key(key, b"form")

    def seal(self, session: ConsoleSession) -> str:
        """Return the cookie value of the session."""
        return self._seal(self._sessions, session)

    def open(self, cookie: str) -> ConsoleSession | None:
        """Return the session in *cookie*, if it is still valid."""
        session = self._open(self._sessions, cookie, ConsoleSession)
        return session if session is not None and self.state(session) == "lasts" else None

    def state(self, session: ConsoleSession) -> SessionState:
        """Return the state of a session that was not ended. A newer copy of an idle session may still be valid."""
        now = self._clock()
        if session.began_s + SESSION_S <= now:
            return "over"
        return "idle" if session.used_s + IDLE_S <= now else "lasts"

    def renew(self, session: ConsoleSession) -> ConsoleSession | None:
        """Return the session with its last use set to now, or None if the cookie is recent enough."""
        now = self._clock()
        return msgspec.structs.replace(session, used_s=now) if now - session.used_s >= RENEW_AFTER_S else None

    def open_sign_in(self, cookie: str) -> PendingSignIn | None:
        """Return the sign-in in *cookie*, if it is not too old."""
        sign_in = self._open(self._sign_ins, cookie, PendingSignIn)
        return sign_in if sign_in is not None and 0 <= self._clock() - sign_in.began_s < SIGN_IN_TIMEOUT_S else None

    def read(self, request: Request) -> ConsoleSession | None:
        """Return the session of a request, if it has a valid one."""
        return self.open(request.cookies.get(self.session_name, ""))

    def write(self, request: Request, session: ConsoleSession | None) -> None:
        """Set the session cookie on the answer to *request*; None deletes it."""
        sealed = "" if session is None else self.seal(session)
        self._set(request, self.session_name, sealed, 0 if session is None else None)

    def write_sign_in(self, request: Request, under_way: PendingSignIn | None) -> None:
        """Set the sign-in cookie on the answer to *request*; None deletes it."""
        sealed = "" if under_way is None else self._seal(self._sign_ins, under_way)
        self._set(request, self.sign_in_name, sealed, 0 if under_way is None else SIGN_IN_TIMEOUT_S)

    def _set(self, request: Request, name: str, value: str, lasts_s: int | None) -> None:
        parts = [f"{name}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
        parts += ["Secure"] if self._secure else []
        parts += [] if lasts_s is None else [f"Max-Age={lasts_s}"]
        request.scope.setdefault("state", {}).setdefault(COOKIES_STATE_KEY, []).append("; ".join(parts))

    def form_token(self, session: ConsoleSession) -> str:
        """Return the token that every form and request of the session's pages must send."""
        return hmac.new(self._forms, session.session_id.encode(), hashlib.sha256).hexdigest()

    def _seal(self, box: Fernet, value: msgspec.Struct) -> str:
        return box.encrypt_at_time(msgspec.json.encode(value), int(self._clock())).decode()

    def _open(self, box: Fernet, cookie: str, kind: type[T]) -> T | None:
        if not cookie or len(cookie) > MAX_COOKIE_BYTES:
            return None
        try:
            return msgspec.json.decode(box.decrypt(cookie.encode()), type=kind)
        except (InvalidToken, msgspec.DecodeError, UnicodeEncodeError):
            return None


def _derive_key(key: bytes, use: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"trustwatch console 1 " + use).derive(key)


def session_key(settings: ConsoleSettings, data_dir: Path) -> bytes:
    """Return the key of the settings, or that of *data_dir*, which is created on first use (mode 0600). Raises
    ConfigError.
    """
    if settings.session_key is not None:
        return settings.session_key.reveal().encode()
    path = data_dir / KEY_FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            create_secret_file(path, base64.urlsafe_b64encode(os.urandom(32)))
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read the key of the console's sessions; its mode must be 0600")
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path}: the key of the console's sessions: {error.strerror}") from None
    if len(key) < 32:
        raise ConfigError(f"{path}: is not a key of at least 32 characters; remove it, and another one is created")
    return key


# Sessions become the same `AuthenticatedCaller` that a token makes, so that pages and the API check the same rights.

DEVELOPMENT_SUBJECT: Final = "development login"
MAX_NAME_LENGTH = 200


def matching_grant(claims: Mapping[str, Any], grants: tuple[ConsoleGrantSettings, ...]) -> ConsoleGrantSettings | None:
    """Return the first grant that matches the claims of a person, or None if the person has no access.

    `realm_access.roles` means `claims["realm_access"]["roles"]`; a claim whose name contains the dots takes precedence.
    """
    for grant in grants:
        claim: Any = claims.get(grant.claim)
        if grant.claim not in claims:
            claim = claims
            for step in grant.claim.split("."):
                claim = claim.get(step) if isinstance(claim, Mapping) else None
        if isinstance(claim, str):
            values = {claim, *claim.split()}
        else:
            values = {item for item in claim if isinstance(item, str)} if isinstance(claim, list) else set()
        if grant.value in values or (grant.value == "*" and values - {""}):
            return grant
    return None


def new_session(claims: Mapping[str, Any], grant: str, name_claim: str, now_s: float) -> ConsoleSession:
    """Return a new session of the person in the claims."""
    named = claims.get(name_claim)
    name = named if isinstance(named, str) and named else str(claims["sub"])
    shown = next(
        (claims[claim] for claim in ("name", "preferred_username", "email") if isinstance(claims.get(claim), str)), name
    )
    return ConsoleSession(
        secrets.token_urlsafe(24),
        str(claims["sub"])[:MAX_NAME_LENGTH],
        name[:MAX_NAME_LENGTH],
        shown[:MAX_NAME_LENGTH],
        grant,
        now_s,
        now_s,
    )


def new_development_session(now_s: float) -> ConsoleSession:
    """Return a new session of the development login."""
    return new_session({"sub": DEVELOPMENT_SUBJECT}, "", "sub", now_s)


def session_caller(session: ConsoleSession, settings: ConsoleSettings) -> AuthenticatedCaller | None:
    """Return the caller of a session under the current settings, or None if they no longer grant it any access."""
    oidc = settings.oidc
    if session.grant:
        grant = next((one for one in (() if oidc is None else oidc.grants) if one.name == session.grant), None)
        if grant is None or oidc is None:
            return None
        scopes, tenants, issuer, client_id = frozenset(grant.scopes), grant.tenants, oidc.issuer, oidc.client_id
    elif settings.development_login:
        scopes, tenants = frozenset((SCOPE_SCORE_READ, SCOPE_FEEDBACK, SCOPE_ADMIN)), ("*",)
        issuer, client_id = "urn:trustwatch:console", ""
    else:
        return None
    # For rejected records that an administrator replays.
    speaks = ("*",) if SCOPE_ADMIN in scopes else ()
    binding = SourceBinding(EventSourceSettings(f"{CONSOLE_NAME_PREFIX}{session.name}", tenants, speaks, speaks))
    ends_s = session.began_s + SESSION_S
    return AuthenticatedCaller(issuer, session.subject, client_id, scopes, ends_s, binding)


COOKIES_STATE_KEY = "trustwatch_cookies"  # Member of a request's state: values of `Set-Cookie` that its answer gets


# Console sessions that people ended: known to every process, and after a restart, by the database.
#
# A cookie is sealed and identifies the user without a lookup, so a stolen copy would open pages until the session is
# too old. Therefore a sign-out is kept until then, and each request checks for it.

KEY_PREFIX: Final = "console-ended/"
LOOK_UP_THREADS, LOOK_UP_S = 2, 3.0
"""Threads that look sessions up, and the longest time that a page waits for one: it waits behind no list."""

GRACE_S: Final = 300.0
"""While the database is unavailable, sessions that were valid at most this long ago stay valid; others must wait, s."""

AWAY_S: Final = 5.0  # Pause after the database did not answer, so that not every page waits for it
SAVE_EVERY_S: Final = 5.0
MAX_REMEMBERED: Final = 10_000

_log = structlog.get_logger(__name__)


class DatabaseAway(Unavailable):
    """Raised if the database does not answer whether a session was ended."""


@dataclass(eq=False, repr=False)
class EndedSessions:
    """Stores ended sessions in the database, and caches them in memory. Use it from one event loop."""

    metadata: MetadataStore
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._executor = StoreExecutor(LOOK_UP_THREADS, LOOK_UP_S)
        self._places = asyncio.Semaphore(LOOK_UP_THREADS)
        self._away_until_s = 0.0
        self._ended: FIFOCache[str, None] = FIFOCache(MAX_REMEMBERED)
        self._lasted: TTLCache[str, None] = TTLCache(MAX_REMEMBERED, GRACE_S, self.clock)
        self._unsaved: dict[str, None] = {}
        self._saving: set[asyncio.Task[None]] = set()

    def note_begun(self, session: ConsoleSession) -> None:
        """Record that a session began."""
        self._lasted[session.session_id] = None

    async def end(self, session: ConsoleSession) -> bool:
        """End a session and all copies of its cookie. Return False if only this process has recorded it so far.

        In that case it is written when the database answers, unless the process ends first.
        """
        key = _key(session)
        self._ended[session.session_id] = self._unsaved[key] = None
        saving = asyncio.create_task(self._save(key))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)
        await asyncio.wait((saving,), timeout=LOOK_UP_S)  # it continues if a store hangs
        return key not in self._unsaved

    async def has_ended(self, session: ConsoleSession) -> bool:
        """Return whether a session was ended.

        Raises Unavailable: the database does not answer, or too many requests wait for it.
        """
        key = _key(session)
        if session.session_id in self._ended or key in self._unsaved:
            return True
        try:
            ended = await self._look_up(key)
        except DatabaseAway:
            if session.session_id in self._lasted:  # fail open for a while: people need the pages to find the fault
                return False
            raise
        (self._ended if ended else self._lasted)[session.session_id] = None
        return ended

    async def run(self) -> None:
        """Write ends that could not be saved to the database, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self.save_waiting()

    async def save_waiting(self) -> None:
        """Write the ends that could not be saved to the database so far."""
        for key in list(self._unsaved):
            await self._save(key)
            if key in self._unsaved:
                return

    async def _save(self, key: str) -> None:
        try:
            await self._executor.write(self.metadata.put_default, key, "")
        except Unavailable as error:
            _log.warning("a sign-out waits for the database", code="console_end_not_saved", error=str(error))
            return
        self._unsaved.pop(key, None)
        try:
            await self._executor.write(self.metadata.delete_range, KEY_PREFIX, KEY_PREFIX + _moment(self.clock()))
        except Unavailable as error:  # the next sign-out removes them
            _log.info("old ends of sessions stay for now", error=str(error))

    async def _look_up(self, key: str) -> bool:
        if self.clock() < self._away_until_s:
            raise DatabaseAway("the database did not answer just now")
        try:
            await asyncio.wait_for(self._places.acquire(), LOOK_UP_S)
        except TimeoutError:  # not a fault of the database: a flood of requests must not extend an ended session
            raise Unavailable("too many sessions are looked up") from None
        try:
            return await self._executor(self.metadata.get, key) is not None
        except Unavailable as error:
            self._away_until_s = self.clock() + AWAY_S
            raise DatabaseAway(str(error)) from error
        finally:
            self._places.release()


def _key(session: ConsoleSession) -> str:
    """Return the key of a session's end. It begins with the latest expiry of the session under any settings."""
    digest = hashlib.sha256(session.session_id.encode()).hexdigest()[:32]
    return f"{KEY_PREFIX}{_moment(session.began_s + MAX_SESSION_S)}/{digest}"


def _moment(at_s: float) -> str:
    """Return UTC milliseconds as text that sorts by time."""
    return f"{int(at_s * 1000):015d}"
