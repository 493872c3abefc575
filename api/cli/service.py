"""Commands that run the service or belong to it: `serve`, `token`, `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...ingest.errors import ConfigError, TrustwatchError
from .. import clock
from ..callers import SCOPES
from ..console import new_code
from ..demo import Demo
from ..local import local_token
from ..serve.roles import Roles
from ..serve.service import run as run_service
from ..settings import process_settings
from ..tokens import LOCAL_ISSUER
from .console import fail, say

SettingsFile = Annotated[Path | None, typer.Option("--settings", help="settings file; default: $TRUSTWATCH_SETTINGS")]


def serve(
    settings: SettingsFile = None,
    workers_only: Annotated[
        bool, typer.Option("--workers-only", help="only score events: a member of the consumer group")
    ] = False,
    api_only: Annotated[bool, typer.Option("--api-only", help="only answer and take events in: a replica")] = False,
    archiver_only: Annotated[
        bool, typer.Option("--archiver-only", help="only keep the archive of the events topic; one of a deployment")
    ] = False,
) -> None:
    """Run API, ingest and pipeline until Ctrl-C: all of it, or one part of the distributed form."""
    if workers_only + api_only + archiver_only > 1:
        raise typer.BadParameter(
            "--workers-only, --api-only and --archiver-only exclude each other; without any, all of it runs"
        )
    configured = process_settings(settings)
    alone = workers_only or api_only or archiver_only
    roles = Roles(api=api_only or not alone, workers=workers_only or not alone, archiver=archiver_only or not alone)
    if roles.api and not configured.issuers:
        say("no issuers are configured: nobody can be authenticated, so every call but health checks is refused")
    try:
        run_service(configured, settings, roles)
    except BaseExceptionGroup as group:
        known, rest = group.split(TrustwatchError)
        if rest is not None or known is None:
            raise
        raise fail(known.exceptions[0]) from None


def token(
    settings: SettingsFile = None,
    client_id: Annotated[
        str, typer.Option(help="client the token is for; must be one of the settings' callers")
    ] = "demo",
    scope: Annotated[list[str] | None, typer.Option(help=f"again for more; default: {' '.join(SCOPES)}")] = None,
    audience: Annotated[str, typer.Option(help="audience of this service")] = "trustwatch",
    lifetime: Annotated[int, typer.Option(help="seconds")] = 3600,
) -> None:
    """Print a token signed with the local development key (only accepted where the settings trust it)."""
    configured = process_settings(settings)
    if not any(issuer.issuer == LOCAL_ISSUER for issuer in configured.issuers):
        say(f"note: these settings do not trust {LOCAL_ISSUER}, so a service that runs with them will refuse the token")
    sys.stdout.write(local_token(configured.data_dir, client_id, scope or list(SCOPES), audience, lifetime) + "\n")


def console_link(settings: SettingsFile = None) -> None:
    """Print a link that signs in at the console once (where the settings allow a development login)."""
    configured = process_settings(settings)
    if not (configured.console.enabled and configured.console.development_login):
        raise fail(ConfigError("these settings allow no development login; see `console.development_login`"))
    code = new_code(configured.data_dir, clock.now_s())
    sys.stdout.write(f"{configured.listen.url()}/console/dev-login?code={code}\n")


def demo(
    directory: Annotated[Path, typer.Option(help="where the demo keeps its data; emptied first")] = Path("var/demo"),
    exit: Annotated[bool, typer.Option("--exit", help="end when the day is over")] = False,  # noqa: A002
    seconds: Annotated[float, typer.Option(help="real time that the simulated day takes", min=10)] = 60.0,
    seed: Annotated[int, typer.Option(help="another seed, another enterprise")] = 7,
) -> None:
    """Train on four simulated weeks, serve, play a day with two attacks, and say what happens."""
    raise typer.Exit(Demo(directory, seconds, seed, stay=not exit, say=say).run())
