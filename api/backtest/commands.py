"""`trustwatch backtest`: history through the live path, and what of it would have been alerts and revocations."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from trustwatch.ingest.compilation import KernelPart, is_kept
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.printable_text import number_text
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.backtest.challenge_counts import CallChallengeReport
from trustwatch.scoring.backtest.counts import run_backtest, total_bytes
from trustwatch.scoring.backtest.plan import (
    BacktestPlan,
    default_budgets,
    first_applied,
    history_end,
    overlap_warning,
    read_labels,
)
from trustwatch.scoring.backtest.result import BacktestResult, BacktestSide, build_result
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.scoring.pipeline.kernel_warm_up import compile_part
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.policy.book import read_policy_book

from .. import clock
from ..cli.history_input import (
    TIME_FORMATS,
    BeforeOption,
    FormatOption,
    HistoriesArgument,
    MappingOption,
    WarmUpOption,
    WindowedSource,
    as_utc,
    history_converter,
    history_files,
    open_histories,
    open_output,
    report_malformed,
    time_window,
)
from ..cli.terminal import (
    JsonOption,
    SettingsFileOption,
    byte_progress,
    fail,
    print_event,
    print_message,
    print_summary,
    readable,
    write_json,
)
from ..composition import engine_settings, policy_book
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from .report import render_report

_MAX_SHOWN_AGENTS = 20
_MAX_SHOWN_KINDS = 10


def backtest_command(
    events: HistoriesArgument,
    model: Annotated[Path | None, typer.Option(help="directory of a model; default: that of the settings")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="label file: adds ROC, precision and recall, detection delay")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="class of labels that is neither good nor bad; again for more")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="directory of a second model, shown next to the first")] = None,
    policy: Annotated[Path | None, typer.Option(help="token policy file; default: the policy of the settings")] = None,
    compare_policy: Annotated[Path | None, typer.Option(help="a second policy, shown next to the first")] = None,
    budget: Annotated[
        str, typer.Option(help="alert budget per 1,000 agent-days, MEDIUM,HIGH,CRITICAL; default: the settings'")
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=TIME_FORMATS, help="count from then on; what comes before warms up"),
    ] = None,
    before: BeforeOption = None,
    warm_up: WarmUpOption = None,
    record_format: FormatOption = None,
    mapping: MappingOption = None,
    jobs: Annotated[int, typer.Option(help="processes, each with a share of the agents; 0: one per core", min=0)] = 0,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="go on learning each agent's own history, as live")
    ] = True,
    agents: Annotated[int, typer.Option(help="agents held in memory at once, by each process", min=1)] = 50_000,
    calls: Annotated[bool, typer.Option("--calls/--no-calls", help="ask about each call, as before it is made")] = True,
    report: Annotated[Path | None, typer.Option(help="write the report, one HTML file")] = None,
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Run history through the live path and report what would have been alerted, refused and revoked."""
    started = clock.monotonic()
    configured = load_process_settings(settings)
    engine = engine_settings(configured, learn=learn, capacity=agents).with_budget(_parse_budget(budget, configured))
    window = time_window(as_utc(since), as_utc(before), warm_up)
    converter = history_converter(record_format, mapping)
    books = [policy_book(configured) if policy is None else read_policy_book(policy)]
    books += [] if compare_policy is None else [read_policy_book(compare_policy)]
    with history_files(events, configured, window, converter) as paths:
        plan = BacktestPlan(
            paths,
            [model or configured.model_dir, *([compare] if compare else [])],
            engine,
            books,
            default_budgets(engine.risk.budget),
            configured.domains(),
            as_utc(since),
            as_utc(before),
            labels,
            tuple(leave_out or ()),
            jobs or os.cpu_count() or 1,
            after=window.after,
            ask_calls=calls,
        )
        if labels is not None and not labels.is_file():
            raise ConfigError(f"{labels}: no such file; labels are JSON lines as `trustwatch simulate --labels` writes")
        known_labels = None if labels is None else read_labels(labels, plan.leave_out)
        if not is_kept(KernelPart.SCORING):  # compile here, not in each process that replays
            compile_part(KernelPart.SCORING, lambda: load_trained_model(plan.models[0]), print_event)
        with byte_progress("replaying", total_bytes(plan)) as progress:
            counts, problems = run_backtest(plan, progress)
    outcome = build_result(plan, counts, problems, known_labels)
    sides = [msgspec.structs.replace(side, malformed=side.malformed + converter.malformed) for side in outcome.sides]
    outcome = msgspec.structs.replace(outcome, files=events, sides=sides)
    seconds = round(clock.monotonic() - started, 2)
    if report is not None:
        report.write_text(render_report(outcome, clock.utc_now()), encoding="utf-8")
    _print_outcome(outcome, seconds, report, json)


def _parse_budget(text: str, configured: Settings) -> AlertBudget:
    if not text:
        return configured.risk.budget
    try:
        medium, high, critical = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter("must be three numbers, MEDIUM,HIGH,CRITICAL", param_hint="--budget") from None
    if not 0.0 < critical <= high <= medium <= 1000.0:
        raise typer.BadParameter(
            "must fall from level to level, above 0 and up to 1000: 0 < critical <= high <= medium",
            param_hint="--budget",
        )
    return AlertBudget(medium, high, critical)


def _print_outcome(outcome: BacktestResult, seconds: float, report: Path | None, as_json: bool) -> None:
    warnings: dict[str, str | None] = {}  # by model
    for side in outcome.sides:
        last_ms = read_manifest(Path(side.model))[0].window.to_ms
        starts = [datetime.fromisoformat(stretch.start) for stretch in side.bins[:2]]
        # The first bin begins before its first event: only if all of it is in the training history, some event is.
        if len(starts) == 2 and starts[1] <= history_end(last_ms):
            warnings[side.model] = overlap_warning(side.model_version, last_ms, starts[0])
    for problem in (*outcome.problems, *filter(None, warnings.values())):
        print_message(problem)
    if as_json:
        value: dict[str, Any] = msgspec.to_builtins(outcome)
        write_json({**value, "seconds": seconds, "report": None if report is None else str(report)})
        return
    for side in outcome.sides:
        _print_side(side, seconds, named=len(outcome.sides) > 1)
    if outcome.comparison is not None:
        for row in outcome.comparison.figures:
            if row.a != row.b:
                print_message(f"{row.figure}: {_number_text(row.a)} in A, {_number_text(row.b)} in B")
    if report is not None:
        print_message(f"report: {report}")


def _print_side(side: BacktestSide, seconds: float, named: bool) -> None:
    head = f"{side.name}: model {side.model}, version {side.model_version}\n" if named else ""
    days = f"{readable(side.agent_days)} agent-days"
    print_message(f"{head}{side.counted:,} events of {_agents(side.agents)} on {days} in {seconds} s")
    for count in ("malformed", "mended", "duplicates", "late"):
        if number := getattr(side, count):
            print_message(f"{count}: {number:,}")
    if words := side.asserted_words:
        print_message(words)
    _print_budget(side)
    about = ", ".join(
        f"{sum(concern_rises.rises.values())} {concern_rises.concern}"
        for concern_rises in side.concerns
        if any(concern_rises.rises.values())
    )
    print_message(f"rises of a level were about: {about or 'nothing, there were none'}")
    _print_policy(side)
    _print_calls(side.calls)
    _print_evaluation(side)


def _print_budget(side: BacktestSide) -> None:
    if words := side.haste_words:
        print_message(words)
    for row in side.alerts:
        print_message(
            f"{row.level}: {row.alerts:,} alerts, {number_text(row.rate)} per 1,000 agent-days, "
            f"budget {number_text(row.budget)}"
        )
    for excess in side.over_budget:
        print_message(f"over budget at {excess.level}:")
        for words in excess.words:
            print_message(f"  {words}")


def _print_policy(side: BacktestSide) -> None:
    policy = side.policy
    if policy is None:
        return
    totals = ", ".join(f"{number:,} {outcome}" for outcome, number in policy.totals.items() if number)
    print_message(f"policy {policy.version}: requests {totals or 'none'}; {policy.agents_revoked} agents revoked")
    for revocation in policy.revoked[:_MAX_SHOWN_AGENTS]:
        why = f": {revocation.reasons[0]}" if revocation.reasons else ""
        print_message(
            f"  {revocation.at} {revocation.tenant} {revocation.agent_id} ({revocation.later_events} events later){why}"
        )
    if len(policy.revoked) > _MAX_SHOWN_AGENTS:
        print_message(f"  and {len(policy.revoked) - _MAX_SHOWN_AGENTS} more; --report or --json names them")


def _agents(count: int) -> str:
    return "1 agent" if count == 1 else f"{count:,} agents"


def _print_calls(calls: CallChallengeReport) -> None:
    if calls.missing_because is not None:
        print_message(f"calls, asked about before they are made: none; {calls.missing_because}")
        return
    whose = "of good sessions " if calls.honest_only else ""
    for row in calls.effects:
        if row.within is not None and row.per_1000 is not None:
            low, high = map(number_text, row.within)
            rate = f"{number_text(row.per_1000)} of 1,000 ({low} to {high})"
            kept = "" if row.budget is None else f", budget {number_text(row.budget)}: {row.budget_words}"
            print_message(f"calls {whose}({row.effect}): {row.challenged:,} of {row.calls:,} wait, {rate}{kept}")
    if calls.threshold_words:
        print_message(f"  {calls.threshold_words}")
    print_message(
        f"challenged: {calls.sessions_challenged:,} of {calls.sessions:,} sessions, {calls.agents_challenged:,} of "
        f"{_agents(calls.agents)}"
    )
    if calls.effects:
        print_message(
            f"  {calls.left_with_trust:,} of the {calls.effects[-1].challenged:,} calls are left where a person trusts "
            "each new access path with its first call (`approvals approve --trust-path`)"
        )
    for kind in calls.kinds[:_MAX_SHOWN_KINDS]:
        why = ", ".join(f"{code} {times}" for code, times in list(kind.reasons.items())[:3])
        who = " ".join(part for part in (kind.tenant, kind.agent_type) if part)
        print_message(
            f"  {kind.calls:,} x {kind.action} ({kind.effect}) by {_agents(kind.agents)} of {who or '-'}: {why}"
        )
    if calls.kinds_challenged > _MAX_SHOWN_KINDS:
        print_message(f"  and {calls.kinds_challenged - _MAX_SHOWN_KINDS} more kinds; --report or --json names them")


def _print_evaluation(side: BacktestSide) -> None:
    evaluation = side.evaluation
    if evaluation is None:
        return
    for unit, figures in (("events", evaluation.by_event), ("sessions", evaluation.by_session)):
        print_message(
            f"{unit}: {figures.bad:,} bad of {figures.units:,}, ROC-AUC {_number_text(figures.roc_auc)}, "
            f"average precision {_number_text(figures.average_precision)}, "
            f"recall {_number_text(figures.recall_at_1_percent)} at 1 % and "
            f"{_number_text(figures.recall_at_5_percent)} at 5 % false positives"
        )
    for level in evaluation.levels:
        delay = "" if level.delay_seconds is None else f", half within {number_text(level.delay_seconds[0])} s"
        print_message(
            f"{level.level}: {level.detected} of {level.sessions} bad sessions detected{delay}; {level.already} of "
            f"agents that were there before; {level.false_alerts} false alerts"
        )
    if evaluation.calls is not None:
        print_message(
            f"challenges: {evaluation.calls.stopped} of {evaluation.calls.bad} bad sessions stopped at or before their "
            f"first bad call, {evaluation.calls.challenged} of {evaluation.calls.good} good sessions challenged"
        )
    if evaluation.without_event:
        print_message(f"{evaluation.without_event} labels belong to no event that was scored")


def _number_text(value: float | None) -> str:
    return "-" if value is None else number_text(value, 4)


def replay_command(
    events: HistoriesArgument,
    model: Annotated[Path, typer.Option(help="directory of a trained model")],
    out: Annotated[Path, typer.Option(help="where scores go, one JSON object a line; - is stdout")],
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=TIME_FORMATS, help="write scores from then on; what comes before warms up"),
    ] = None,
    before: BeforeOption = None,
    warm_up: WarmUpOption = None,
    record_format: FormatOption = None,
    mapping: MappingOption = None,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="go on learning each agent's own history, as live")
    ] = True,
    settings: SettingsFileOption = None,
    agents: Annotated[int, typer.Option(help="agents held in memory at once", min=1)] = 50_000,
    json: JsonOption = False,
) -> None:
    """Run history through the live path and write the scores and levels that it would have given."""
    started = clock.monotonic()
    configured = load_process_settings(settings)
    trained = load_trained_model(model)
    engine = engine_settings(configured, learn=learn, capacity=agents)
    replayed = HistoryReplay(trained, engine, configured.domains())
    first, window = as_utc(since), time_window(as_utc(since), as_utc(before), warm_up)
    converter = history_converter(record_format, mapping)
    with ExitStack() as stack:
        inputs = stack.enter_context(open_histories(events, configured, window, converter))
        progress = stack.enter_context(byte_progress("replaying", FileSource(inputs).total_bytes))
        target = sys.stdout.buffer if str(out) == "-" else stack.enter_context(open_output(out, inputs, converter))
        applied = window._replace(after=first_applied(trained.window_ms[1], first, window.after))
        source = WindowedSource(FileSource(inputs, progress=progress), applied)
        if not is_kept(KernelPart.SCORING):
            compile_part(KernelPart.SCORING, lambda: trained, print_event)
        counts, written_from = _write_replayed(replayed, source, first, target)
    if warning := overlap_warning(trained.version, trained.window_ms[1], written_from):
        print_message(warning)
    summary = replayed.summary()._asdict()
    summary["decisions"] = len(summary["decisions"])
    summary["malformed"] += converter.malformed
    summary |= {
        "levels": dict(counts),
        "written": sum(counts.values()),
        "learn": learn,
        "seconds": round(clock.monotonic() - started, 2),
    }
    print_summary(
        summary,
        json and str(out) != "-",
        "replayed {events} events in {seconds} s: {decisions} changes of level, {levels}",
    )
    if summary["malformed"] and not summary["events"]:
        raise fail("no record of it is an audit event: JSON lines of native events are expected")


def _write_replayed(
    replayed: HistoryReplay, source: WindowedSource, first: datetime | None, target: BinaryIO
) -> tuple[Counter[str], datetime | None]:
    """Write the verdict on each event from *first* on, and report what is not an event.

    Returns events by level, and the time of the earliest.
    """
    counts: Counter[str] = Counter()
    earliest: datetime | None = None
    problems = 0

    def malformed(offset: int, path: str, reason: str) -> None:
        nonlocal problems
        problems += 1
        report_malformed(problems, offset, path, reason)

    encoder = msgspec.json.Encoder()
    for line in replayed.replayed_events(source, malformed):
        at = datetime.fromisoformat(line.time)
        if first is not None and at < first:
            continue
        earliest = at if earliest is None else min(earliest, at)
        target.write(encoder.encode({**line._asdict(), "time": line.time.replace("+00:00", "Z")}) + b"\n")
        counts[line.risk_level] += 1
    return counts, earliest
