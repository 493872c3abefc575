"""Commands that belong to the service: `compile`, `topics`, `identities`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import open_identity_key
from trustwatch.ingest.topics.protocols import TOPIC_DEFINITIONS
from trustwatch.scoring.pipeline.topic_publisher import TopicPublisher

from .. import clock
from ..brokers import open_admin, open_reader, open_writer
from ..cli.terminal import (
    JsonOption,
    SettingsFileOption,
    print_event,
    print_message,
    print_summary,
    readable,
    write_json,
    write_line,
)
from ..composition import console_url, identity_key_path, live_policy, open_service_store, store_address
from ..settings.loading import HOW_TO_NAME_BROKERS, load_process_settings
from ..settings.root import Settings
from .kernel_compiler import compile_ahead
from .partition_migration import grow_partitions, partition_extents, restore_partitions, resume_offsets
from .pipeline_worker import GroupPipelineWorker


def compile_command(
    settings: SettingsFileOption = None,
    model: Annotated[Path | None, typer.Option(help="any model of this version; default: that of the settings")] = None,
    json: JsonOption = False,
) -> None:
    """Compile the kernels of the service for this machine, so that its first start is as quick as others."""
    started = clock.monotonic()
    compile_ahead(model or load_process_settings(settings).model_dir, report=print_event)
    seconds = round(clock.monotonic() - started, 2)
    print_summary({"seconds": seconds}, json, "kernels are compiled and kept: {seconds} s")


topics_app = typer.Typer(name="topics", no_args_is_help=True, help="Our topics on the brokers.")

GROUP_LEAVE_S = 30.0
"""Beyond the session time-out, by which a worker that died has lost its partitions."""

_FASTER_CLIENT = "; confluent, of the extra `fast`, reads with far less CPU"


def _load_distributed(settings_file: Path | None) -> Settings:
    """Load the settings. Raises ConfigError if they name no brokers."""
    settings = load_process_settings(settings_file)
    if not settings.distributed:
        raise ConfigError(f"no brokers: {HOW_TO_NAME_BROKERS}")
    return settings


@topics_app.command()
def create(settings: SettingsFileOption = None, json: JsonOption = False) -> None:
    """Create those of our topics that are missing, with the settings of docs/operations.md."""
    configured = _load_distributed(settings)
    brokers = configured.brokers
    with closing(open_admin(brokers)) as admin:
        created = admin.create_topics(brokers.topic_names, brokers.partitions, brokers.replication)
    if json:
        write_json({"created": created})
    else:
        print_message(f"created {', '.join(created)}" if created else "all topics exist")


@topics_app.command()
def status(settings: SettingsFileOption = None, json: JsonOption = False) -> None:
    """Partitions of each topic, and how far the state of each partition of events is."""
    configured = _load_distributed(settings)
    broker_settings = configured.brokers
    names = [definition.name(broker_settings.topic_names) for definition in TOPIC_DEFINITIONS]
    with closing(open_admin(broker_settings)) as admin:
        found = {name: admin.describe(name) for name in names}
    if missing := [name for name, topic in found.items() if topic is None]:
        raise ConfigError(f"missing: {', '.join(missing)}; run `trustwatch topics create`")
    topics = {
        name: {"partitions": topic.partitions, "replication": topic.replication}
        for name, topic in found.items()
        if topic is not None
    }
    with closing(open_service_store(configured)) as store:
        applied = {position.partition: position.offset for position in store.partitions.list_positions()}
    with closing(open_reader(broker_settings, (broker_settings.topic_names.events,))) as reader:
        ends = {partition: end for (_, partition), end in sorted(reader.end_offsets().items())}
    progress = [
        {"partition": at, "applied": applied.get(at, 0), "end": end, "behind": end - applied.get(at, 0)}
        for at, end in ends.items()
    ]
    if json:
        write_json({"client": broker_settings.client, "topics": topics, "events": progress})
        return
    faster = _FASTER_CLIENT if broker_settings.client == "kafka-python" else ""
    write_line(f"client: {broker_settings.client}{faster}")
    for name, shape in topics.items():
        write_line(f"{name}: {shape['partitions']} partitions, {shape['replication']} copies")
    for row in progress:
        state = (
            f"{readable(row['behind'])} wait" if row["behind"] >= 0 else "THE TOPIC HAS LOST RECORDS: workers refuse it"
        )
        write_line(
            f"partition {row['partition']}: applied {readable(row['applied'])} of {readable(row['end'])}, {state}"
        )


@topics_app.command()
def grow(
    partitions: Annotated[int, typer.Argument(help="partitions that the events topic will have")],
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Move to more partitions. Stop senders, API and workers first: it applies what waits, then moves agents."""
    configured = _load_distributed(settings)
    brokers, names = configured.brokers, configured.brokers.topic_names
    with (
        closing(open_service_store(configured)) as store,
        closing(open_admin(brokers)) as admin,
        closing(open_reader(brokers, (names.events,))) as reader,
    ):
        grown = grow_partitions(
            partitions, store, admin, reader, names, lambda: drain_events(configured), print_message
        )
    done = "{before} -> {after} partitions; {moved} agents moved; start workers and API again"
    print_summary(grown._asdict(), json, done)


@topics_app.command()
def restored(
    settings: SettingsFileOption = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="continue at the first record that the topic still has; the events before it are lost"
        ),
    ] = False,
    events_anew: Annotated[
        bool, typer.Option("--events-anew", help="the events topic was created again: read all that it holds")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Continue after the database was restored or the events topic was lost: publish every risk again, as the newest.

    Stop workers and API first. Without this command replicas drop what workers publish as old. May be run again.
    """
    configured = _load_distributed(settings)
    brokers, names = configured.brokers, configured.brokers.topic_names
    with closing(open_service_store(configured)) as store:
        with closing(open_reader(brokers, (names.events,))) as events:
            next_offsets = resume_offsets(store, partition_extents(events), anew=events_anew, accept_loss=accept_loss)
        if events_anew:
            store.erasures.reset_topic()
        with closing(open_reader(brokers, (names.risk,))) as risk, closing(open_writer(brokers)) as writer:
            publisher = TopicPublisher(
                writer, store, names, live_policy(configured), configured.listen.url(), console_url(configured)
            )
            done = restore_partitions(store, risk, next_offsets, publisher)
    positions = {str(at): offset for at, offset in sorted(next_offsets.items())}
    text = "{partitions} partitions continue above epoch {above}; published the risk of {agents} agents"
    print_summary(done._asdict() | {"positions": positions}, json, f"{text}\nstart workers and API again")


def drain_events(settings: Settings) -> None:
    """Work, as the only worker, until nothing waits. Time is not recorded: that would be something that waits.

    Raises ConfigError.
    """
    worker = GroupPipelineWorker(settings, clock.sleep, check=False)
    alone_within_s = settings.brokers.session_timeout_s + GROUP_LEAVE_S
    alone_by = clock.monotonic() + alone_within_s
    try:
        worker.pipeline.start()
        while True:
            idle = not worker.pipeline.step()
            progress = worker.pipeline.progress()
            if len(progress) < worker.partitions:
                if clock.monotonic() > alone_by:
                    raise ConfigError(f"other workers of group {settings.brokers.group_id} still run: stop them first")
                continue
            alone_by = clock.monotonic() + alone_within_s  # a slow worker loses its partitions and joins again
            if idle and not any(partition.behind for partition in progress.values()):
                worker.pipeline.finish()
                return
    finally:
        worker.close()


identities_app = typer.Typer(
    name="identities", no_args_is_help=True, help="The key under which the database knows its agents."
)


@identities_app.callback()
def _identities() -> None:
    """Keep the name `renew`: typer drops the name of an only command."""


@identities_app.command()
def renew(
    settings: SettingsFileOption = None,
    stopped: Annotated[
        bool, typer.Option("--all-stopped", help="every process of the deployment is stopped; asked for without it")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a new identity key, and give every row of the database a new key. Stop every process first.

    May be run again after it was killed. The old key is kept next to the new one, with `.before` after its name.
    """
    configured = load_process_settings(settings)
    if not stopped:
        typer.confirm("Is every process of this deployment stopped?", abort=True, err=True)
    path = identity_key_path(configured)
    new_key_path = path.with_name(f"{path.name}.new")
    with closing(store_address(configured).open()) as store:
        changed = store.use_identities(open_identity_key(new_key_path, create=True), renew=True)
    if path.exists():
        path.rename(path.with_name(f"{path.name}.before"))
    new_key_path.rename(path)
    done = "{changed_rows} rows have new keys; the identity key is {key_file}: copy it to every host, mode 0600"
    print_summary({"changed_rows": changed, "key_file": str(path)}, json, done)
