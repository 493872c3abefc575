"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "convert",
        CommandPanel.HISTORY,
        "Turn logs of any format into native events, in the order of time.",
        "trustwatch.api.events.commands:convert",
    ),
    LazyCommand(
        "mapping",
        CommandPanel.HISTORY,
        "Mappings of other formats to audit events.",
        "trustwatch.api.events.commands:mapping_app",
    ),
    LazyCommand(
        "ingest", CommandPanel.HISTORY, "Send events to a running service.", "trustwatch.api.events.commands:ingest"
    ),
)
