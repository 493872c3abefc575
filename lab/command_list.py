"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from trustwatch.api.cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "lab",
        CommandPanel.TRIAL,
        "Open the notebooks in JupyterLab (loopback, with a token); they change nothing. Needs the extra `lab`.",
        "trustwatch.lab.commands:lab_command",
    ),
)
