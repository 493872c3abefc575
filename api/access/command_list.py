"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "blast-radius",
        CommandPanel.AGENTS,
        "Show the agents that an agent delegated to or called, directly or through others; the riskiest first.",
        "trustwatch.api.access.commands:blast_radius",
    ),
    LazyCommand(
        "pin",
        CommandPanel.PEOPLE,
        "Fix the level that policy acts on, whatever is measured (scope trust.feedback).",
        "trustwatch.api.access.commands:pin",
    ),
    LazyCommand(
        "unpin",
        CommandPanel.PEOPLE,
        "End a pin: the measured level is acted on again (scope trust.feedback).",
        "trustwatch.api.access.commands:unpin",
    ),
    LazyCommand(
        "approvals",
        CommandPanel.PEOPLE,
        "Approvals: what waits for a person, and the answers.",
        "trustwatch.api.access.commands:approvals_app",
    ),
)
