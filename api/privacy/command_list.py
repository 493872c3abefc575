"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "erase",
        CommandPanel.PRIVACY,
        "Erase an agent or a principal everywhere, with a signed proof; or verify a proof (scope trust.admin).",
        "trustwatch.api.privacy.commands:erase",
    ),
    LazyCommand(
        "export",
        CommandPanel.PRIVACY,
        "Write everything that is known about one agent to a ZIP of JSON lines (scope trust.admin).",
        "trustwatch.api.privacy.commands:export",
    ),
    LazyCommand(
        "decisions",
        CommandPanel.PRIVACY,
        "Decisions: is their chain intact?",
        "trustwatch.api.privacy.commands:decisions_app",
    ),
)
