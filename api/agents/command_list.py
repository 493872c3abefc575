"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "agents", CommandPanel.AGENTS, "List agents, the riskiest first.", "trustwatch.api.agents.commands:agents"
    ),
    LazyCommand(
        "explain",
        CommandPanel.AGENTS,
        "Say why an agent has the risk it has, and how it got there.",
        "trustwatch.api.agents.commands:explain",
    ),
    LazyCommand(
        "release",
        CommandPanel.PEOPLE,
        "Vouch for an agent: its evidence so far is dropped (scope trust.feedback).",
        "trustwatch.api.agents.commands:release",
    ),
)
