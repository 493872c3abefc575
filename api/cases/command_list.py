"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "cases",
        CommandPanel.PEOPLE,
        "Cases: rises of risk that belong together, and what people do with them.",
        "trustwatch.api.cases.commands:cases_app",
    ),
)
