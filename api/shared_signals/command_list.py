"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "signals",
        CommandPanel.SERVICE,
        "Our streams at transmitters of shared signals: make, change, pause and verify one, or remove it.",
        "trustwatch.api.shared_signals.commands:signals_app",
    ),
)
