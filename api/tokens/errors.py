"""Why a request is not authenticated (RFC 6750 section 3.1). Messages are fixed sentences: none holds part of a token.

::

    AuthenticationFailed        invalid_token       base: answered with 401
    ├── MissingToken            missing_token       no credentials: a bare challenge without error code
    ├── BadAuthorization        invalid_request     the header is no bearer credential (answered with 400)
    └── InvalidToken            invalid_token       the token is refused
        └── UnknownKey          invalid_token       the key is not known *yet*: a refresh may help
"""

from __future__ import annotations

from ...ingest.errors import TrustwatchError


class AuthenticationFailed(TrustwatchError):
    """The caller is not known."""

    code = "invalid_token"


class MissingToken(AuthenticationFailed):
    """The request has no Authorization header."""

    code = "missing_token"


class BadAuthorization(AuthenticationFailed):
    """The Authorization header is no bearer credential."""

    code = "invalid_request"


class InvalidToken(AuthenticationFailed):
    """The token is refused.

    Args:
        reason: a sentence for `error_description`, in the characters that RFC 6750 allows there.
        lasting: whether the same token will be refused a moment later too, so that the refusal may be remembered.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


class UnknownKey(InvalidToken):
    """No key of the issuer fits; `issuer` is one that the settings name."""

    def __init__(self, issuer: str) -> None:
        super().__init__("the token is signed with a key that its issuer does not publish", lasting=False)
        self.issuer = issuer
