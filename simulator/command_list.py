"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from trustwatch.api.cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "simulate",
        CommandPanel.TRIAL,
        "Make the events of a seeded enterprise of agents, with labelled attacks.",
        "trustwatch.simulator.commands:simulate_command",
    ),
    LazyCommand(
        "demo",
        CommandPanel.TRIAL,
        "Train on four simulated weeks, serve, play a day with two attacks, and say what happens.",
        "trustwatch.simulator.commands:demo_command",
    ),
)
