"""An MCP server over stdio: `python -m tests.support.processes.mcp_stdio_server FILE OPTION`.

FILE gets a line for each method served and for each event. OPTION is `nobody` (no `caller=`), `pass` (the same with
`without_caller="pass"`), or `contained` (the caller is a contained agent).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trustwatch_client import AuditEvent, Caller
from trustwatch_client.mcp import TrustMcpMiddleware

from ..client_doubles import DENY, ScriptedAnswer
from ..mcp_task_server import make_task_server


class FileLines(list[str]):
    """A list that is a file, too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")

    def send(self, event: AuditEvent) -> str:
        self.append(f"event {event.action} {event.outcome}")
        return event.action


def main(path: str, option: str) -> None:
    lines = FileLines(Path(path))
    more: dict[str, Any] = {"pass": {"without_caller": "pass"}, "nobody": {}}.get(
        option, {"caller": lambda _: Caller(agent_id="bot")}
    )
    middleware = TrustMcpMiddleware("ledger", client=ScriptedAnswer(DENY), sender=lines, **more)
    make_task_server(middleware, lines).run("stdio")


if __name__ == "__main__":
    main(*sys.argv[1:])
