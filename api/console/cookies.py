"""The console's cookies. Over https their names begin `__Host-`: a sister domain can neither read nor plant them."""

from __future__ import annotations

from starlette.requests import Request

from .headers import COOKIES_STATE_KEY
from .sessions import SIGN_IN_TIMEOUT_S, ConsoleSession, ConsoleSessions, PendingSignIn


class SessionCookies:
    """Reads and writes them.

    Args:
        sessions: seals them.
        secure: whether the console is reached over https.
        port: where it listens; browsers share cookies between the ports of a host.
    """

    def __init__(self, sessions: ConsoleSessions, *, secure: bool, port: int) -> None:
        self._sessions = sessions
        self._secure = secure
        self.session_name = "__Host-trustwatch" if secure else f"trustwatch-{port}"
        self.sign_in_name = "__Host-trustwatch-sign-in" if secure else f"trustwatch-sign-in-{port}"

    def read(self, request: Request) -> ConsoleSession | None:
        """The session of a request, if it has one that lasts."""
        return self._sessions.open(request.cookies.get(self.session_name, ""))

    def write(self, request: Request, session: ConsoleSession | None) -> None:
        """Have the answer to *request* set the session; None removes it."""
        if session is None:
            self._set(request, self.session_name, "", 0)
        else:
            self._set(request, self.session_name, self._sessions.seal(session), None)

    def read_sign_in(self, request: Request) -> PendingSignIn | None:
        """The sign-in that the browser of *request* has under way."""
        return self._sessions.open_sign_in(request.cookies.get(self.sign_in_name, ""))

    def write_sign_in(self, request: Request, under_way: PendingSignIn | None) -> None:
        """Have the answer to *request* remember a sign-in; None forgets it."""
        if under_way is None:
            self._set(request, self.sign_in_name, "", 0)
        else:
            self._set(request, self.sign_in_name, self._sessions.seal_sign_in(under_way), SIGN_IN_TIMEOUT_S)

    def _set(self, request: Request, name: str, value: str, lasts_s: int | None) -> None:
        parts = [f"{name}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
        parts += ["Secure"] if self._secure else []
        parts += [] if lasts_s is None else [f"Max-Age={lasts_s}"]
        request.scope.setdefault("state", {}).setdefault(COOKIES_STATE_KEY, []).append("; ".join(parts))
