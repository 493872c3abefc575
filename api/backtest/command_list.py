"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "backtest",
        CommandPanel.HISTORY,
        "Run history through the live path and report what would have been alerted, refused and revoked.",
        "trustwatch.api.backtest.commands:backtest_command",
    ),
    LazyCommand(
        "replay",
        CommandPanel.HISTORY,
        "Run history through the live path and write the scores and levels that it would have given.",
        "trustwatch.api.backtest.commands:replay_command",
    ),
)
