"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "feedback",
        CommandPanel.PEOPLE,
        "Feedback on decisions: false and true positives, and the rules that follow.",
        "trustwatch.api.feedback.commands:feedback_app",
    ),
)
