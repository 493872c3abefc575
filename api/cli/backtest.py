"""`trustwatch backtest`: history through the live path, and what of it would have been alerts and revocations."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ...ingest.errors import ConfigError
from ...scoring.backtest import Outcome, Plan, backtest, conclude, plain_budgets, read_labels
from ...scoring.backtest.outcome import Side
from ...scoring.backtest.run import total_bytes
from ...scoring.policy import PolicyBook
from ...scoring.risk import Budget
from .. import clock
from ..report import render
from ..serve.wiring import engine_settings, policy_book, policy_book_of
from ..settings import Settings, process_settings
from .console import byte_progress, emit, say
from .histories import files_of
from .offline import Json, SettingsFile
from .within import WHEN, Before, Histories, WarmUp, utc, window_of

_SHOWN_AGENTS = 20


def backtest_command(
    events: Histories,
    model: Annotated[Path | None, typer.Option(help="directory of a model; default: that of the settings")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="label file: adds ROC, precision and recall, detection delay")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="class of labels that is neither good nor bad; again for more")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="directory of a second model, shown beside the first")] = None,
    policy: Annotated[Path | None, typer.Option(help="token policy file; default: the policy of the settings")] = None,
    compare_policy: Annotated[Path | None, typer.Option(help="a second policy, shown beside the first")] = None,
    budget: Annotated[
        str, typer.Option(help="alert budget per 1,000 agent-days, MEDIUM,HIGH,CRITICAL; default: the settings'")
    ] = "",
    since: Annotated[
        datetime | None, typer.Option("--from", formats=WHEN, help="count from then on; what comes before warms up")
    ] = None,
    before: Before = None,
    warm_up: WarmUp = None,
    jobs: Annotated[int, typer.Option(help="processes, each with a share of the agents; 0: one per core", min=0)] = 0,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="go on learning each agent's own history, as live")
    ] = True,
    agents: Annotated[int, typer.Option(help="agents held in memory at once, by each process", min=1)] = 50_000,
    report: Annotated[Path | None, typer.Option(help="write the report, one HTML file")] = None,
    settings: SettingsFile = None,
    json: Json = False,
) -> None:
    """Run history through the live path and tell what would have been alerted, refused and revoked."""
    started = clock.monotonic()
    configured = process_settings(settings)
    engine = engine_settings(configured, learn=learn, capacity=agents)._replace(budget=_budget(budget, configured))
    window = window_of(utc(since), utc(before), warm_up)
    with files_of(events, configured, window) as paths:
        plan = Plan(
            paths,
            [model or configured.model_dir, *([compare] if compare else [])],
            engine,
            _books(configured, policy, compare_policy),
            plain_budgets(engine.budget),
            configured.domains(),
            utc(since),
            utc(before),
            labels,
            tuple(leave_out or ()),
            jobs or os.cpu_count() or 1,
            after=window.after,
        )
        _check_labels(plan)
        known = None if labels is None else read_labels(labels, plan.leave_out)
        with byte_progress("replaying", total_bytes(plan)) as progress:
            counts, problems = backtest(plan, progress)
    outcome = msgspec.structs.replace(conclude(plan, counts, problems, known), files=events)
    seconds = round(clock.monotonic() - started, 2)
    if report is not None:
        report.write_text(render(outcome, clock.utc_now()), encoding="utf-8")
    _tell(outcome, seconds, report, json)


def _budget(text: str, configured: Settings) -> Budget:
    if not text:
        return engine_settings(configured).budget
    try:
        medium, high, critical = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter("must be three numbers, MEDIUM,HIGH,CRITICAL", param_hint="--budget") from None
    if not 0.0 < critical <= high <= medium <= 1000.0:
        raise typer.BadParameter(
            "must fall from level to level, above 0 and up to 1000: 0 < critical <= high <= medium",
            param_hint="--budget",
        )
    return Budget(medium, high, critical)


def _books(configured: Settings, policy: Path | None, second: Path | None) -> list[PolicyBook]:
    first = policy_book(configured) if policy is None else policy_book_of(policy)
    return [first] if second is None else [first, policy_book_of(second)]


def _check_labels(plan: Plan) -> None:
    if plan.labels is not None and not plan.labels.is_file():
        raise ConfigError(
            f"{plan.labels}: no such file; labels are JSON lines as `trustwatch simulate --labels` writes"
        )


def _tell(outcome: Outcome, seconds: float, report: Path | None, as_json: bool) -> None:
    for problem in outcome.problems:
        say(problem)
    if as_json:
        value: dict[str, Any] = msgspec.to_builtins(outcome)
        emit({**value, "seconds": seconds, "report": None if report is None else str(report)})
        return
    for side in outcome.sides:
        _tell_side(side, seconds, named=len(outcome.sides) > 1)
    if outcome.comparison is not None:
        for row in outcome.comparison.figures:
            if row.a != row.b:
                say(f"{row.figure}: {_figure(row.a)} in A, {_figure(row.b)} in B")
    if report is not None:
        say(f"report: {report}")


def _tell_side(side: Side, seconds: float, named: bool) -> None:
    head = f"{side.name}: model {side.model}, version {side.model_version}\n" if named else ""
    say(f"{head}{side.counted} events of {side.agents} agents on {side.agent_days} agent-days in {seconds} s")
    for count in ("malformed", "mended", "duplicates", "late"):
        if number := getattr(side, count):
            say(f"{count}: {number}")
    for row in side.alerts:
        say(f"{row.level}: {row.alerts} alerts, {row.rate:.3g} per 1,000 agent-days, budget {row.budget:g}")
    _tell_policy(side)
    _tell_evaluation(side)


def _tell_policy(side: Side) -> None:
    policy = side.policy
    if policy is None:
        return
    totals = ", ".join(f"{number} {outcome}" for outcome, number in policy.totals.items() if number)
    say(f"policy {policy.version}: requests {totals or 'none'}; {policy.agents_revoked} agents revoked")
    for one in policy.revoked[:_SHOWN_AGENTS]:
        why = f": {one.reasons[0]}" if one.reasons else ""
        say(f"  {one.at} {one.tenant} {one.agent_id} ({one.later_events} events later){why}")
    if len(policy.revoked) > _SHOWN_AGENTS:
        say(f"  and {len(policy.revoked) - _SHOWN_AGENTS} more; --report or --json names them")


def _tell_evaluation(side: Side) -> None:
    found = side.evaluation
    if found is None:
        return
    for unit, one in (("events", found.by_event), ("sessions", found.by_session)):
        say(
            f"{unit}: {one.bad} bad of {one.units}, ROC-AUC {_figure(one.roc_auc)}, average precision "
            f"{_figure(one.average_precision)}, recall {_figure(one.recall_at_1_percent)} at 1 % and "
            f"{_figure(one.recall_at_5_percent)} at 5 % false positives"
        )
    for level in found.levels:
        delay = "" if level.delay_seconds is None else f", half within {level.delay_seconds[0]:.3g} s"
        say(
            f"{level.level}: {level.detected} of {level.sessions} bad sessions detected{delay}; {level.already} of "
            f"agents that were there before; {level.false_alerts} false alerts"
        )
    if found.without_event:
        say(f"{found.without_event} labels belong to no event that was scored")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
