"""Name, panel and summary of the command, as help shows it before it is loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "search",
        CommandPanel.AGENTS,
        "Find agents, people, cases, decisions and events by words, addresses, ids or fields.",
        "trustwatch.api.search.commands:search",
    ),
)
