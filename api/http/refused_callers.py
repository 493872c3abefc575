"""Bounded log lines, and the log of refused callers: invalid tokens, and known callers that exceed their permissions.

Among the latter, a stolen token and a curious administrator look the same. They are also counted. Lines are bounded for
each caller separately, so that no caller can hide another. Callers without an entry in the settings and users of the
console also have a common bound, because an issuer may have any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

import structlog
from starlette.types import Scope

from trustwatch.scoring.records.agents import AgentName

from .auth.callers import CONSOLE_NAME_PREFIX, AuthenticatedCaller

_log = structlog.get_logger(__name__)

LINES_PER_S: Final = 20


class LineLimit:
    """Limits lines of one kind to a number per second. For one event loop."""

    def __init__(self, monotonic: Callable[[], float], per_s: int = LINES_PER_S) -> None:
        self._monotonic = monotonic
        self._per_s = per_s
        self._second = -1
        self._written = 0
        self._left_out = 0

    def write(self, line: Callable[..., Any], event: str, **members: Any) -> None:
        """Write a line, or omit it. The next written line states how many were omitted."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_s:
            self._left_out += 1 + members.get("left_out", 0)
            return
        self._written += 1
        if self._left_out:
            members["left_out"] = members.get("left_out", 0) + self._left_out
            self._left_out = 0
        line(event, **members)


_CAUSED_BY_AGENTS = (".request", ".expire")
"""Suffixes of actions that agents can cause in any number."""


class OrderLines:
    """Logs orders, at most a number per second. Orders that agents cause never hide those of a person. For one event
    loop."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._of_people, self._of_agents = LineLimit(monotonic), LineLimit(monotonic)

    def write(self, agent: AgentName, action: str, by: str, intervention_id: str | None = None) -> None:
        """Log an order and who gave it. Reasons are free text and stay in the records."""
        lines = self._of_agents if action.endswith(_CAUSED_BY_AGENTS) else self._of_people
        lines.write(
            _log.info,
            "order",
            action=action,
            by=by,
            tenant=agent.tenant,
            issuer=agent.issuer,
            agent_id=agent.agent_id,
            intervention_id=intervention_id,
        )


CALLER_OF_REQUEST: Final = "trustwatch.caller"
"""Member of an ASGI scope: the caller, once it is known."""
BEYOND_CALLER: Final = frozenset({"insufficient_scope", "tenant_not_allowed", "source_not_allowed", "own_decision"})
"""Codes of problems that mean: another caller may, this one may not."""
INVALID_TOKEN: Final = "invalid_token"  # noqa: S105 - a code, no token
"""Code of the problem, and of the answer to a gateway, for an invalid token."""
AGENT_NOT_ALLOWED: Final = "agent_not_allowed"
"""A request about an agent that the caller may not act for was denied."""
LINES_PER_CALLER_S: Final = 5
LINES_UNLISTED_S: Final = 100
"""Bound of all callers without an entry together; users of the console have the same."""
MAX_ASKED_LENGTH: Final = 256
MAX_LIMITS: Final = 1_000
_UNLISTED, _CONSOLE = "(no entry)", "console"
_AGENTS_PREFIX: Final = b"/v1/agents/"


class RefusedCallers:
    """Counts and logs refused callers. For one event loop.

    Attributes:
        counts: refusals by (name of the caller, code); all users of the console count as one caller.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.counts: dict[tuple[str, str], int] = {}
        self._limits: dict[tuple[str, ...], LineLimit] = {}
        self._unlisted_limits: dict[tuple[str, ...], LineLimit] = {}
        self._person_limits: dict[tuple[str, ...], LineLimit] = {}
        self._tokens = LineLimit(monotonic)
        self._all_unlisted, self._all_persons = (LineLimit(monotonic, LINES_UNLISTED_S) for _ in range(2))

    def tell_of(self, scope: Scope, code: str, detail: str) -> None:
        """Log a request that is refused with a problem, if its token is invalid or its caller exceeds its
        permissions.
        """
        if code == INVALID_TOKEN:
            self.tell_of_token("api", detail)
            return
        caller: AuthenticatedCaller | None = scope.get(CALLER_OF_REQUEST)
        if caller is not None and code in BEYOND_CALLER:
            tenant = parse_qs(scope["query_string"][:4096].decode("latin-1")).get("tenant", [None])[0]
            path: bytes = scope.get("raw_path") or b""
            agent_id = None  # names of principals do not belong in a log
            if path.startswith(_AGENTS_PREFIX):
                raw = path[len(_AGENTS_PREFIX) :].partition(b"/")[0][: 4 * MAX_ASKED_LENGTH]
                agent_id = unquote_to_bytes(raw).decode("utf-8", "replace")
            self.tell(caller, code, why=detail, method=scope["method"], tenant=tenant, agent_id=agent_id)

    def tell_of_token(self, via: str, why: str) -> None:
        """Log an invalid token."""
        self._tokens.write(_log.warning, "a token is not accepted", code=INVALID_TOKEN, via=via, why=why)

    def tell(self, caller: AuthenticatedCaller, code: str, **members: Any) -> None:
        """Log a caller that exceeds its permissions."""
        name, is_person = caller.name or _UNLISTED, caller.name.startswith(CONSOLE_NAME_PREFIX)
        counted = _CONSOLE if is_person else name
        self.counts[counted, code] = self.counts.get((counted, code), 0) + 1
        members |= {"caller": name, "client_id": caller.client_id or None, "subject": caller.subject}
        bounded = {key: value[:MAX_ASKED_LENGTH] if isinstance(value, str) else value for key, value in members.items()}
        line: Callable[..., Any] = _log.warning
        key: tuple[str, ...]
        if is_person:
            limits, key = self._person_limits, (name[:MAX_ASKED_LENGTH],)
            line = partial(self._all_persons.write, _log.warning)
        elif caller.name:
            limits, key = self._limits, (name,)
        else:
            limits, key = (
                self._unlisted_limits,
                (caller.issuer, (caller.client_id or caller.subject)[:MAX_ASKED_LENGTH]),
            )
            line = partial(self._all_unlisted.write, _log.warning)
        if key not in limits:
            if len(limits) >= MAX_LIMITS:
                limits.clear()
            limits[key] = LineLimit(self._monotonic, LINES_PER_CALLER_S)
        limits[key].write(line, "a caller reaches beyond its entry", code=code, **bounded)

    def metric_values(self) -> dict[str, dict[tuple[str, ...], float]]:
        return {"trustwatch_callers_refused_total": {labels: float(count) for labels, count in self.counts.items()}}
