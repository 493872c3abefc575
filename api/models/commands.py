"""`trustwatch models`: versions, their figures in shadow, drift, the alert budget; training, promotion, roll-back."""

from __future__ import annotations

import secrets
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ...ingest.columns import ColumnEncoder
from ...models.detector import FAMILIAR_EVENTS, ONE_QUESTION, DetectorSettings
from ...models.model_directory import is_model
from ...models.model_persistence import load_trained_model
from ...scoring.learning.training import TrainedVersion, train_and_save
from ...scoring.learning.walkforward import walk_forward_events
from ...scoring.pipeline.kernel_warm_up import KernelPart, is_part_kept
from .. import clock
from ..cli.history_input import (
    TIME_FORMATS,
    BeforeOption,
    EventHistoryReader,
    FormatOption,
    HistoriesArgument,
    MappingOption,
    TimeWindow,
    as_utc,
    history_converter,
    open_histories,
    time_window,
)
from ..cli.remote import DEFAULT_URL, ServiceClient, TenantOption, TokenOption, UrlOption, paged_items
from ..cli.terminal import (
    JsonOption,
    SettingsFileOption,
    fail,
    print_message,
    print_summary,
    stage_progress,
    write_json,
    write_line,
    write_table,
)
from ..composition import engine_settings
from ..settings.loading import load_process_settings

models_app = typer.Typer(
    name="models", no_args_is_help=True, help="Models: versions, shadow, promotion, drift, budget."
)

WhyOption = Annotated[str, typer.Option(help="why; kept in the history")]
DaysOption = Annotated[int, typer.Option(help="days up to today")]


@models_app.command("list")
def list_models(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    limit: Annotated[int, typer.Option(help="most versions")] = 50,
    json: JsonOption = False,
) -> None:
    """List versions, newest first."""
    with closing(ServiceClient(url, token)) as service:
        rows = list(paged_items(service, "/v1/models", limit))
    if json:
        for row in rows:
            write_json(row)
        return
    shown = [
        {
            **row,
            "in_force": "*" if row["in_force"] else "",
            "events": row["trained"].get("events", ""),
            "agent_days": row["figures"].get("agent_days", ""),
        }
        for row in rows
    ]
    write_table(
        shown,
        {
            "in_force": "",
            "version": "version",
            "status": "status",
            "created_at": "trained",
            "events": "events",
            "agent_days": "agent-days in shadow",
        },
    )


@models_app.command()
def show(
    version: Annotated[str, typer.Argument(help="name of the version")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Show one version: training, shadow against the champion, whether it may be promoted, history."""
    with closing(ServiceClient(url, token)) as service:
        detail = service.get(f"/v1/models/{quote(version, safe='')}")
    if json:
        write_json(detail)
        return
    force = ", in force" if detail["in_force"] else ""
    write_line(f"{detail['version']}  {detail['status']}{force}  (digest {detail['digest'][:12]})")
    trained = (f", {name} {value}" for name, value in detail["trained"].items() if isinstance(value, int | str))
    write_line(f"learned from {detail['window']['from_at']} to {detail['window']['to_at']}{''.join(trained)}")
    _print_figures(detail["figures"])
    if detail["judgement"] is not None:
        for text in detail["judgement"]["gains"]:
            write_line(f"  for it: {text}")
        for text in detail["judgement"]["reasons"]:
            write_line(f"  against it: {text}")
    for line in detail["history"]:
        write_line(f"  {line['at']}  {line['act']} by {line['by']}: {line['why']}")


def _print_figures(figures: dict[str, Any]) -> None:
    if not figures:
        return
    write_line(f"in shadow over {figures['events']} events, {figures['agent_days']} agent-days:")
    for name in ("champion", "challenger"):
        group_figures = figures[name]
        rates = ", ".join(f"{level} {rate:.3g}" for level, rate in group_figures["per_1000"].items())
        delay = "" if group_figures["delay_s"] is None else f", after {group_figures['delay_s']:.0f} s"
        write_line(
            f"  {name} {group_figures['version']}: alerts per 1,000 agent-days {rates}; "
            f"detects {group_figures['detected']} of {figures['labels']['attacks']} labelled{delay}"
        )


@models_app.command()
def train(url: UrlOption = DEFAULT_URL, token: TokenOption = "", why: WhyOption = "") -> None:
    """Ask the keeper to train a new version now (scope trust.admin)."""
    _post_order(url, token, "/v1/models/train", {"why": why})
    print_message("a training is ordered; `trustwatch models list` shows the version when it is done")


@models_app.command()
def promote(
    version: Annotated[str, typer.Argument(help="name of the version")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    why: WhyOption = "",
    force: Annotated[bool, typer.Option("--force", help="overrule the figures; needs --why")] = False,
) -> None:
    """Put a version in force (scope trust.admin)."""
    _post_order(url, token, f"/v1/models/{quote(version, safe='')}/promote", {"why": why, "force": force})
    print_message(f"{version} comes into force with the next records; `trustwatch models list` marks it then")


@models_app.command()
def rollback(url: UrlOption = DEFAULT_URL, token: TokenOption = "", why: WhyOption = "") -> None:
    """Go back to the version that was in force before (scope trust.admin)."""
    answer = _post_order(url, token, "/v1/models/rollback", {"why": why})
    print_message(f"{answer['version']} comes back into force with the next records")


def _post_order(url: str, token: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with closing(ServiceClient(url, token)) as service:
        return dict(service.post(path, body))


@models_app.command()
def drift(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    days: DaysOption = 30,
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """Show drift of features and scores by day and peer group."""
    with closing(ServiceClient(url, token)) as service:
        page = service.get("/v1/models/drift", days=days, tenant=tenant)
    if json:
        write_json(page)
        return
    shown = [
        {
            **row,
            "scores": "" if row["scores"] is None else f"{row['scores']:.3f}",
            "most": ", ".join(f"{name} {value:.2f}" for name, value in list(row["features"].items())[:3]),
            "drifted": ", ".join(row["drifted"]) or ("" if row["judged"] else "(not judged)"),
        }
        for row in page["items"]
    ]
    write_table(
        shown,
        {
            "day": "day",
            "tenant": "tenant",
            "agent_type": "type",
            "events": "events",
            "scores": "scores",
            "most": "features, largest first",
            "drifted": "drifted",
        },
    )


@models_app.command()
def budget(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    days: DaysOption = 30,
    level: Annotated[str, typer.Option(help="medium, high or critical")] = "medium",
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """Show the false-alert budget as a control chart: expected and observed alerts by day and peer group."""
    with closing(ServiceClient(url, token)) as service:
        page = service.get("/v1/models/budget", days=days, level=level, tenant=tenant)
    if json:
        write_json(page)
        return
    shown = [
        {
            **row,
            "expected": f"{row['expected']:.2f}",
            "agent_days": f"{row['agent_days']}{'~' if row['estimated'] else ''}",
            "flag": "beyond" if row["beyond"] else "run beyond" if row["run_beyond"] else "",
        }
        for row in page["items"]
    ]
    write_table(
        shown,
        {
            "day": "day",
            "tenant": "tenant",
            "agent_type": "type",
            "agent_days": "agent-days",
            "expected": "expected",
            "observed": "observed",
            "limit": "limit",
            "false_positive": "false",
            "true_positive": "true",
            "flag": "",
        },
    )


def train_command(
    events: HistoriesArgument,
    model: Annotated[Path, typer.Option(help="directory of the model; an older model there is replaced")],
    since: Annotated[
        datetime | None, typer.Option("--from", formats=TIME_FORMATS, help="learn from events from then on")
    ] = None,
    before: BeforeOption = None,
    record_format: FormatOption = None,
    mapping: MappingOption = None,
    settings: SettingsFileOption = None,
    seed: Annotated[int, typer.Option(help="seed of forest and folds")] = 0,
    salt: Annotated[
        str | None, typer.Option(help="hex key of name hashes; default: that of the model there, or new")
    ] = None,
    version: Annotated[str | None, typer.Option(help="name of the model; default: date and time")] = None,
    one_question: Annotated[
        bool,
        typer.Option("--one-question", help="levels follow from all evidence together, not from each concern"),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Learn a model from normal history."""
    started = clock.monotonic()
    configured = load_process_settings(settings)
    key = _choose_salt(salt, model)
    window = time_window(as_utc(since), as_utc(before), None if since is None else 0.0)
    history, converter = EventHistoryReader(), history_converter(record_format, mapping)
    with open_histories(events, configured, window, converter) as inputs:
        read = history.read(inputs, window)
    history.malformed += converter.malformed
    if not read:
        raise fail(f"no events in {', '.join(events)}{_window_text(window)}: nothing to learn from")
    columns = ColumnEncoder(key, configured.domains()).encode(read)
    name = version or clock.utc_now().strftime("%Y-%m-%d.%H%M%S")
    if not is_part_kept(KernelPart.FEATURES):
        print_message("compiling kernels: the first training on this machine takes up to a minute longer")
    with stage_progress() as progress:
        trained = train_and_save(
            model,
            columns,
            key,
            name,
            _detector_settings(seed, one_question),
            engine_settings(configured),
            clock.now_ms(),
            progress,
        )
    rehearsed = walk_forward_events(trained.model)
    facts = _training_facts(trained, history, rehearsed) | {"seconds": round(clock.monotonic() - started, 2)}
    summary = {"model": str(model), "version": name, "events": len(read), **facts}
    summary["promise"] = trained.budget_report.as_dict()  # last, since it is long
    print_summary(
        summary, json, "learned {events} events of {agents} agents in {peer_groups} peer groups: {model} ({version})"
    )
    if not json:
        for line in (_calibration_text(rehearsed), *trained.budget_report.describe()):
            print_message(line)


def _detector_settings(seed: int, one_question: bool) -> DetectorSettings:
    return DetectorSettings(seed=seed, budget_shares=ONE_QUESTION) if one_question else DetectorSettings(seed=seed)


def _training_facts(trained: TrainedVersion, history: EventHistoryReader, rehearsed: int) -> dict[str, Any]:
    """Numbers of what a model was trained on."""
    return {
        "sessions": trained.manifest.window.sessions,
        "agents": len(trained.model.seeds.keys),
        "peer_groups": len(trained.model.groups) - 1,
        "rehearsed_events": rehearsed,
        "malformed": history.malformed,
        "mended": history.mended,
    }


def _calibration_text(events: int) -> str:
    if events:
        return (
            f"rehearsed: agents with {FAMILIAR_EVENTS} events here are compared with {events} events of such agents, "
            "newcomers with events of others"
        )
    return (
        f"not rehearsed: the history's end holds too few events of agents with {FAMILIAR_EVENTS} events before it. "
        "All agents are judged as newcomers, and less is noticed; a longer history mends it"
    )


def _choose_salt(given: str | None, model: Path) -> bytes:
    """Retraining keeps the salt, so that what the service has learned of its agents stays readable."""
    if given is not None:
        try:
            key = bytes.fromhex(given)
        except ValueError:
            raise typer.BadParameter("must be hexadecimal", param_hint="--salt") from None
        if not 1 <= len(key) <= 64:
            raise typer.BadParameter("must have 1 to 64 bytes", param_hint="--salt")
        return key
    return load_trained_model(model).salt if is_model(model) else secrets.token_bytes(16)


def _window_text(window: TimeWindow) -> str:
    """The window in words."""
    bounds = (("from", window.after), ("up to", window.before))
    return "".join(f" {word} {at.isoformat()}" for word, at in bounds if at is not None)


def register(app: typer.Typer) -> None:
    """Add `train`, `models` to the command line."""
    app.command("train")(train_command)
    app.add_typer(models_app)
