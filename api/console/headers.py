"""Around every answer of the console: security headers, and cookies that a request has renewed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIES_STATE_KEY = "trustwatch_cookies"
"""Member of a request's state: values of `Set-Cookie` that its answer gets."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def content_security_policy(form_targets: Collection[str] = ()) -> str:
    """Value of Content-Security-Policy: nothing from elsewhere, nothing inline.

    Args:
        form_targets: URLs that a form may lead to by a redirect; browsers check those too.
    """
    origins = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in form_targets})
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "font-src 'self'",
            " ".join(("form-action 'self'", *origins)),
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )


class SecurityHeadersMiddleware:
    """The console with its headers.

    Args:
        app: what answers.
        form_targets: asked at each answer, see `content_security_policy`.
    """

    def __init__(self, app: ASGIApp, form_targets: Callable[[], Collection[str]]) -> None:
        self._app = app
        self._form_targets = form_targets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers["Content-Security-Policy"] = content_security_policy(self._form_targets())
                headers.setdefault("Cache-Control", "no-store")
                for cookie in scope.get("state", {}).get(COOKIES_STATE_KEY, ()):
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await self._app(scope, receive, headed)
