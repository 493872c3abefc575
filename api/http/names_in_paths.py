"""Names of agents and principals as part of a path: percent-encoded once, with whatever character they hold.

Starlette's own `path` ends at a line feed: an agent whose id has one could be neither pinned nor exported.
"""

from __future__ import annotations

from typing import Final

from starlette.convertors import Convertor, register_url_convertor


class NameConvertor(Convertor[str]):
    """Any text, with slashes and line feeds."""

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
