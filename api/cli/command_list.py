"""Commands as help shows them before they are loaded, but for those that run the service."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import typer

from .lazy_commands import CommandPanel, LazyCommand, ServiceCommand, operations


class GeneratedCommand(LazyCommand):
    """A command made from one operation, or a group of them and of commands written by hand."""

    def __init__(
        self, name: str, panel: str, made: ServiceCommand | Mapping[str, ServiceCommand | str], summary: str = ""
    ) -> None:
        told = f"{operations()[made.operation].summary}." if isinstance(made, ServiceCommand) else summary
        super().__init__(name, panel, told, "")
        self.made = made

    def resolve(self) -> Any:
        """The function, or the group of functions."""
        from .service_commands import function_of  # help waits for no HTTP client

        if isinstance(self.made, ServiceCommand):
            return function_of(self.made)
        group = typer.Typer(name=self.name, no_args_is_help=True, help=self.help)

        @group.callback(help=self.help)
        def keep_names() -> None:
            """Without a callback, typer drops the name of an only command."""

        for name, below in self.made.items():
            group.command(name)(function_of(below) if isinstance(below, ServiceCommand) else resolve_name(below))
        return group


COMMANDS = (
    GeneratedCommand(
        "agents",
        CommandPanel.AGENTS,
        ServiceCommand(
            "list_agents",
            "agent_id tenant agent_type risk_level risk_score confidence last_seen_at",
            defaults={"order": "risk"},
        ),
    ),
    GeneratedCommand(
        "explain",
        CommandPanel.AGENTS,
        ServiceCommand(
            "get_risk",
            parts={"baseline": "get_baseline", "decisions": "list_agent_decisions"},
            main="risk",
            if_empty={"holds_at": "no hook, gateway, or actuator serves its issuer, so no server applies the policy"},
        ),
    ),
    GeneratedCommand(
        "alerts",
        CommandPanel.AGENTS,
        {
            "list": ServiceCommand("list_deliveries", "created_at target level subject status attempts why"),
            "test": "trustwatch.api.alerts.commands:test",
        },
        "Alerts: their deliveries, and a test of the targets.",
    ),
    LazyCommand(
        "call",
        CommandPanel.AGENTS,
        "Call any operation of the API: print its answer, a list as JSON lines; or list the operations.",
        "trustwatch.api.cli.service_commands:call",
    ),
    GeneratedCommand("release", CommandPanel.PEOPLE, ServiceCommand("release_agent")),
    GeneratedCommand("pin", CommandPanel.PEOPLE, ServiceCommand("pin_agent", arguments=("level",))),
    GeneratedCommand("unpin", CommandPanel.PEOPLE, ServiceCommand("unpin_agent")),
    GeneratedCommand(
        "approvals",
        CommandPanel.PEOPLE,
        {
            "list": ServiceCommand(
                "list_approvals",
                "intervention_id status agent_id tenant level scopes asked_why asked_by expires_at",
                defaults={"status": "pending"},
            ),
            "approve": ServiceCommand("approve_request"),
            "reject": ServiceCommand("reject_request"),
        },
        "Approvals: what waits for a person, and the answers.",
    ),
    GeneratedCommand(
        "cases",
        CommandPanel.PEOPLE,
        {
            "list": ServiceCommand(
                "list_cases",
                "case_id status highest_level agents owner last_risen_at reason",
                defaults={"status": "unresolved"},
            ),
            "show": ServiceCommand("get_case", parts={"timeline": "get_case_timeline"}),
            "acknowledge": ServiceCommand("acknowledge_case"),
            "close": ServiceCommand("close_case"),
        },
        "Cases: rises of risk that belong together, and what people do with them.",
    ),
    GeneratedCommand(
        "feedback",
        CommandPanel.PEOPLE,
        {"add": "trustwatch.api.feedback.commands:add"},
        "Feedback on decisions: false and true positives, and the rules that follow.",
    ),
    GeneratedCommand(
        "models",
        CommandPanel.HISTORY,
        {
            "list": ServiceCommand("list_models", "in_force version status created_at"),
            "promote": ServiceCommand("order_promotion"),
        },
        "Models: versions, and the active one.",
    ),
    LazyCommand(
        "erase",
        CommandPanel.PRIVACY,
        "Erase an agent or a principal everywhere, with a signed proof; or verify a proof (scope trust.admin).",
        "trustwatch.api.privacy.commands:erase",
    ),
    GeneratedCommand(
        "decisions",
        CommandPanel.PRIVACY,
        {"verify": ServiceCommand("verify_decision_chain", holds="intact")},
        "Decisions: whether their chain is intact.",
    ),
    LazyCommand(
        "archive",
        CommandPanel.HISTORY,
        "Show what an archive holds: dates, events, feature vectors, files, and the offset that it reaches.",
        "trustwatch.api.archive.commands:archive_command",
    ),
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
    LazyCommand(
        "train",
        CommandPanel.HISTORY,
        "Learn a model from normal history.",
        "trustwatch.api.models.training_commands:train_command",
    ),
    LazyCommand(
        "signals",
        CommandPanel.SERVICE,
        "Manage our stream at a transmitter of shared signals: make, change, pause and verify it, or remove it.",
        "trustwatch.api.shared_signals.commands:signals",
    ),
)
