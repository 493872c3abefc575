"""`trustwatch train`: a model of a history, without a service."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import KernelPart, is_kept, mark_kept
from trustwatch.models.detector import FAMILIAR_EVENTS, ONE_QUESTION, DetectorSettings
from trustwatch.models.input_checks import VOUCHING_ADVICE
from trustwatch.models.model_directory import is_model
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.learning.training import KnownPeerGroups, train_and_save
from trustwatch.scoring.learning.walkforward import walk_forward_events

from .. import clock
from ..cli.history_input import (
    TIME_FORMATS,
    BeforeOption,
    EventHistoryReader,
    FormatOption,
    HistoriesArgument,
    MappingOption,
    as_utc,
    history_converter,
    open_histories,
    time_window,
)
from ..cli.terminal import JsonOption, SettingsFileOption, fail, print_message, print_summary, readable, stage_progress
from ..composition import engine_settings
from ..settings.loading import load_process_settings


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
        bool, typer.Option("--one-question", help="levels follow from all evidence together, not from each concern")
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
        bounds = (("from", window.after), ("up to", window.before))
        within = "".join(f" {word} {at.isoformat()}" for word, at in bounds if at is not None)
        raise fail(f"no events in {', '.join(events)}{within}: nothing to learn from")
    columns = KnownPeerGroups().settle(ColumnEncoder(key, configured.domains()).encode(read))
    name = version or clock.utc_now().strftime("%Y-%m-%d.%H%M%S")
    detector = DetectorSettings(seed=seed, budget_shares=ONE_QUESTION) if one_question else DetectorSettings(seed=seed)
    if not is_kept(KernelPart.TRAINING):
        print_message("compiling kernels: the first training on this machine takes up to a minute longer")
    with stage_progress() as progress:
        engine, now_ms = engine_settings(configured), clock.now_ms()
        trained = train_and_save(model, columns, key, name, detector, engine, now_ms, progress)
    mark_kept(KernelPart.TRAINING)
    rehearsed = walk_forward_events(trained.model)
    asserted = columns.codes[:, event_columns.SELF_ASSERTED] != 0
    left_out = int(asserted.sum())
    learned = len(read) - int((asserted | (columns.codes[:, event_columns.OWN_DENIAL] != 0)).sum())
    expected = trained.expected_challenges
    summary: dict[str, Any] = {
        "model": str(model),
        "version": name,
        "events": len(read),
        "self_asserted": left_out,
        "sessions": trained.manifest.window.sessions,
        "agents": len(trained.model.seeds.keys),
        "peer_groups": len(trained.model.groups) - 1,
        "rehearsed_events": rehearsed,
        "malformed": history.malformed,
        "mended": history.mended,
        "seconds": round(clock.monotonic() - started, 2),
        "expected_challenges": None if expected is None else expected.as_dict(),
        "promise": trained.budget_report.as_dict(),  # last, since it is long
    }
    line = f"learned {readable(learned)} events of {{agents}} agents in {{peer_groups}} peer groups"
    print_summary(summary, json, line + ": {model} ({version})")
    if not json:
        if left_out:
            print_message(f"left out: {readable(left_out)} events that no token attests. {VOUCHING_ADVICE}")
        of_calls = () if expected is None else (expected.describe(),)
        if rehearsed:
            print_message(
                f"rehearsed: agents with {FAMILIAR_EVENTS} events here are compared with {rehearsed:,} events of such "
                "agents, newcomers with events of others"
            )
        else:
            print_message(
                f"not rehearsed: the history's end holds too few events of agents with {FAMILIAR_EVENTS} events before "
                "it. All agents are judged as newcomers, and less is noticed; a longer history fixes that"
            )
        for text in (*trained.budget_report.describe(), *of_calls):
            print_message(text)


def _choose_salt(given: str | None, model: Path) -> bytes:
    """Keep the salt of the model there, so that what the service has learned of its agents stays readable."""
    if given is not None:
        try:
            key = bytes.fromhex(given)
        except ValueError:
            raise typer.BadParameter("must be hexadecimal", param_hint="--salt") from None
        if not 1 <= len(key) <= 64:
            raise typer.BadParameter("must have 1 to 64 bytes", param_hint="--salt")
        return key
    return load_trained_model(model).salt if is_model(model) else secrets.token_bytes(16)
