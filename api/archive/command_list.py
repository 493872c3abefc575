"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "archive",
        CommandPanel.HISTORY,
        "Show what an archive holds: dates, events, feature vectors, files, and the offset that it reaches.",
        "trustwatch.api.archive.commands:archive_command",
    ),
)
