"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "alerts",
        CommandPanel.AGENTS,
        "Alerts: their deliveries, and a test of the targets.",
        "trustwatch.api.alerts.commands:alerts_app",
    ),
)
