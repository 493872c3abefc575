"""Commands that run the service or belong to it: `serve`, `token`, `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...ingest.errors import ConfigError, TrustwatchError
from .. import clock
from ..callers import ALL_SCOPES
from ..console import issue_login_code
from ..demo import Demo
from ..local import issue_local_token
from ..serve.roles import ServiceRoles
from ..serve.service import run_service as run_service
from ..settings import load_process_settings
from ..tokens import LOCAL_ISSUER
from .console import fail, print_message

SettingsFileOption = Annotated[
    Path | None, typer.Option("--settings", help="settings file; default: $TRUSTWATCH_SETTINGS")
]


def serve(
    settings: SettingsFileOption = None,
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
    configured = load_process_settings(settings)
    alone = workers_only or api_only or archiver_only
    roles = ServiceRoles(
        api=api_only or not alone, workers=workers_only or not alone, archiver=archiver_only or not alone
    )
    if roles.api and not configured.issuers:
        print_message(
            "no issuers are configured: nobody can be authenticated, so every call but health checks is refused"
        )
    try:
        run_service(configured, settings, roles)
    except BaseExceptionGroup as group:
        known, rest = group.split(TrustwatchError)
        if rest is not None or known is None:
            raise
        raise fail(known.exceptions[0]) from None


def token(
    settings: SettingsFileOption = None,
    client_id: Annotated[
        str, typer.Option(help="client the token is for; must be one of the settings' callers")
    ] = "demo",
    scope: Annotated[list[str] | None, typer.Option(help=f"again for more; default: {' '.join(ALL_SCOPES)}")] = None,
    audience: Annotated[str, typer.Option(help="audience of this service")] = "trustwatch",
    lifetime: Annotated[int, typer.Option(help="seconds")] = 3600,
) -> None:
    """Print a token signed with the local development key (only accepted where the settings trust it)."""
    configured = load_process_settings(settings)
    if not any(issuer.issuer == LOCAL_ISSUER for issuer in configured.issuers):
        print_message(
            f"note: these settings do not trust {LOCAL_ISSUER}, so a service that runs with them will refuse the token"
        )
    sys.stdout.write(
        issue_local_token(configured.data_dir, client_id, scope or list(ALL_SCOPES), audience, lifetime) + "\n"
    )


def console_link(settings: SettingsFileOption = None) -> None:
    """Print a link that signs in at the console once (where the settings allow a development login)."""
    configured = load_process_settings(settings)
    if not (configured.console.enabled and configured.console.development_login):
        raise fail(ConfigError("these settings allow no development login; see `console.development_login`"))
    code = issue_login_code(configured.data_dir, clock.now_s())
    sys.stdout.write(f"{configured.listen.url()}/console/dev-login?code={code}\n")


def demo(
    directory: Annotated[Path, typer.Option(help="where the demo keeps its data; emptied first")] = Path("var/demo"),
    exit: Annotated[bool, typer.Option("--exit", help="end when the day is over")] = False,  # noqa: A002
    seconds: Annotated[float, typer.Option(help="real time that the simulated day takes", min=10)] = 60.0,
    seed: Annotated[int, typer.Option(help="another seed, another enterprise")] = 7,
) -> None:
    """Train on four simulated weeks, serve, play a day with two attacks, and say what happens."""
    raise typer.Exit(Demo(directory, seconds, seed, stay=not exit, say=print_message).run())
