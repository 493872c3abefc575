"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "signals",
        CommandPanel.SERVICE,
        "Manage our stream at a transmitter of shared signals: make, change, pause and verify it, or remove it.",
        "trustwatch.api.shared_signals.commands:signals",
    ),
)
