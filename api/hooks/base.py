"""What all hooks have in common: requests, answers, and what a product's module does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ...ingest.errors import TrustwatchError
from ...ingest.events import MAX_ID
from ...scoring.policy import Question, Verdict
from ..guard import Decided
from ..settings import HookSettings

MAX_BODY = 1024 * 1024
"""Bytes of a request to a hook."""

MAX_SCOPES = 1_000
EVENT_SCOPES = 256
"""Scopes that an audit event holds."""

MAX_ACTORS = 32

REFRESH = "refresh_token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_KINDS = {REFRESH: "token.refresh", EXCHANGE: "token.exchange", "token_exchange": "token.exchange"}


class Unreadable(TrustwatchError):
    """The product sent something in another shape than is known: the question can not be decided."""

    code = "unreadable"


class ByClient(TrustwatchError):
    """A client may have brought it about, so it never opens the door: denied where policy is enforced, whatever
    `on_failure` says."""

    code = "by_client"


class TooMuch(ByClient):
    """More than a hook takes."""

    code = "too_much"


class HookRequest(NamedTuple):
    """One request as it came in. Header names are in lower case."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The only header of that name; None where there is none, or more than one."""
        found = [value for key, value in self.headers if key == name]
        return found[0] if len(found) == 1 else None


class HookAnswer(NamedTuple):
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Asked(NamedTuple):
    """One question as a product asked it.

    Attributes:
        question: for the guard.
        action: grant type, or what the product says of it.
        data: the request, for the answer.
        more: further members of the audit event; never a token, a secret or a body.
        lifetime_s: how long the token would live without us; None = not told.
        kind: type of the audit event; "" = that of the grant type.
    """

    question: Question
    action: str
    data: Any
    more: dict[str, Any]
    lifetime_s: int | None = None
    kind: str = ""

    @property
    def event_type(self) -> str:
        """Type of the audit event."""
        return self.kind or _KINDS.get(self.action, "token.request")


class Product(ABC):
    """Reads the requests of one product and renders its answers.

    Args:
        settings: of the hook.
    """

    unchanged: HookAnswer
    """The token is issued as it would have been without us: what failing open is."""

    def __init__(self, settings: HookSettings) -> None:
        self.settings = settings
        self._agent = settings.expression()

    @abstractmethod
    def read(self, body: bytes) -> Asked:
        """The question in a body. Raises Unreadable, ByClient."""

    @abstractmethod
    def render(self, asked: Asked, decided: Decided) -> HookAnswer:
        """The answer in the product's words."""

    @abstractmethod
    def fit(self, asked: Asked, verdict: Verdict) -> Verdict:
        """A denial in place of what the product can not do; the same verdict where it can."""

    def lifetime_s(self, asked: Asked, _: Verdict) -> int | None:
        """How long the token will live, as far as is known here."""
        return asked.lifetime_s

    @abstractmethod
    def refused(self, reason: str) -> HookAnswer:
        """No token."""

    @abstractmethod
    def unauthenticated(self) -> HookAnswer:
        """The secret is missing or wrong."""

    def question(self, data: Any, usual: Any, scopes: Iterable[Any], grant: str, act: Any) -> Question:
        """The question about the agent of a request.

        Args:
            data: the request.
            usual: the agent, where the settings do not say that it is elsewhere.
            scopes: that the token would get.
            grant: grant type.
            act: claim of RFC 8693, if the product sent one.
        """
        agent = text(usual if self._agent is None else self._agent(data))
        if not agent:
            raise Unreadable("the request names no agent; see `agent` of the hook in the settings")
        return Question(
            self.settings.tenant or "",
            self.settings.issuer or "",
            bounded(agent),
            names(scopes),
            grant == REFRESH,
            actors(act, agent),
        )

    def claims(self, decided: Decided) -> dict[str, Any]:
        """Claims that the token is to carry."""
        return decided.claims() if self.settings.claims else {}


def decoded(body: bytes) -> dict[str, Any]:
    """A JSON object; members that nobody knows are no error. Raises ByClient, Unreadable."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ByClient("the body is no JSON") from None  # half a surrogate in a parameter of the client is enough
    if type(found) is not dict:
        raise Unreadable("the body is no JSON object")
    return found


def at(data: Any, *path: str) -> Any:
    """The member at *path*, None where there is none."""
    for name in path:
        if type(data) is not dict:
            return None
        data = data.get(name)
    return data


def text(value: Any) -> str:
    """*value* if it is a text, else ""."""
    return value if type(value) is str else ""


def bounded(name: str) -> str:
    """*name* itself. Raises TooMuch where no event could hold it."""
    if len(name) > MAX_ID:
        raise TooMuch(f"a name has more than {MAX_ID} characters")
    return name


def names(values: Iterable[Any]) -> tuple[str, ...]:
    """The texts among *values*, each once, in order. Raises TooMuch."""
    found = tuple(dict.fromkeys(bounded(value) for value in values if type(value) is str and value))
    if len(found) > MAX_SCOPES:
        raise TooMuch(f"more than {MAX_SCOPES} scopes")
    return found


def listed(value: Any) -> list[Any]:
    """*value* if it is a list, else an empty one."""
    return value if type(value) is list else []


def members(value: Any) -> dict[str, Any]:
    """*value* if it is an object, else an empty one."""
    return value if type(value) is dict else {}


def whole(value: Any) -> int | None:
    """Whole seconds of a number or of digits; None where it is neither."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    return int(value) if type(value) in (int, float) and 0 <= value < 1e12 else None


def actors(act: Any, agent: str) -> tuple[str, ...]:
    """Earlier actors of a delegation chain (`act` of RFC 8693), nearest first; the agent itself is not one of them."""
    found: list[str] = []
    while type(act) is dict and len(found) <= MAX_ACTORS:
        found.append(bounded(text(act.get("sub"))))
        act = act.get("act")
    if found[:1] == [agent]:  # the outermost is the current actor
        del found[0]
    return tuple(name for name in found[:MAX_ACTORS] if name)


def event(**members: Any) -> dict[str, Any]:
    """Members of an audit event, without those that are not known."""
    return {name: value for name, value in members.items() if value}


def principal(name: Any, agent: str, kind: str = "user") -> dict[str, str] | None:
    """For whom the agent acts; None where it acts for itself."""
    who = text(name)[:MAX_ID]
    return {"id": who, "type": kind} if who and who != agent else None


def json_answer(status: int, content: Mapping[str, Any], *headers: tuple[bytes, bytes]) -> HookAnswer:
    """An answer that is JSON."""
    return HookAnswer(status, msgspec.json.encode(content), ((b"content-type", b"application/json"), *headers))
