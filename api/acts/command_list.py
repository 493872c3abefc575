"""Help of the command before it is loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "acts",
        CommandPanel.PEOPLE,
        "List what people did: to which agent, case, model or erasure, when and why; newest first.",
        "trustwatch.api.acts.commands:list_acts",
    ),
)
