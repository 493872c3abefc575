"""Names of agents and principals in paths: percent-encoded once, with whatever character they hold."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor

from .problems import ProblemDetails, ProblemError


class NameConvertor(Convertor[str]):
    """Any text, with slashes and line feeds. Starlette's own `path` ends at a line feed."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """The name as it came."""
        return value

    def to_string(self, value: str) -> str:
        """The name as it is."""
        return value


register_url_convertor("name", NameConvertor())

AGENT_PATH: Final = "/v1/agents/{agent_id:name}"
PRINCIPAL_PATH: Final = "/v1/principals/{principal_id:name}"


def decode_agent_id(raw: bytes) -> str:
    """An agent id out of a path, for what is answered before FastAPI. Percent-decoded once.

    Ids that are URLs come as `https%3A%2F%2F…`, or as they are.

    Raises:
        ProblemError: 400, it is empty or not UTF-8.
    """
    if not raw:
        raise ProblemError(ProblemDetails(400, "invalid_request", "Invalid request", "the path names no agent id"))
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise ProblemError(
            ProblemDetails(400, "invalid_request", "Invalid request", "the agent id in the path is not UTF-8")
        ) from None


def parse_agent_selection(query: bytes) -> tuple[str | None, str | None]:
    """`tenant` and `issuer` of a query string; None = not named.

    Raises:
        ProblemError: 400, one is named twice, or the query is not UTF-8 or endless.
    """
    try:
        members = parse_qs(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        members = {"tenant": ["", ""]}
    named: dict[str, Any] = {name: members.get(name, [None]) for name in ("tenant", "issuer")}
    if any(len(values) > 1 for values in named.values()):
        detail = "the query must be UTF-8 and name `tenant` and `issuer` at most once"
        raise ProblemError(ProblemDetails(400, "invalid_request", "Invalid request", detail))
    return named["tenant"][0], named["issuer"][0]
