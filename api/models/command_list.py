"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "train",
        CommandPanel.HISTORY,
        "Learn a model from normal history.",
        "trustwatch.api.models.training_commands:train_command",
    ),
)
