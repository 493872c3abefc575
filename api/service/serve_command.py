"""The command `serve`. It reads the settings before it loads the service."""

from __future__ import annotations

from typing import Annotated

import typer

from trustwatch.ingest.errors import TrustwatchError

from ..cli.terminal import SettingsFileOption, fail, not_available, print_message
from ..settings.loading import read_process_settings


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
    read = read_process_settings(settings)
    configured = read.settings
    try:  # only now: settings that are refused do not wait for the libraries of the service
        from .backends import ServiceRoles
        from .serve import run_service
    except ImportError as error:
        raise not_available("serve", error) from None
    alone = workers_only or api_only or archiver_only
    roles = ServiceRoles(
        api=api_only or not alone, workers=workers_only or not alone, archiver=archiver_only or not alone
    )
    if roles.api and not configured.issuers:
        print_message(
            "no issuers are configured: nobody can be authenticated, so every call but health checks is refused"
        )
    try:
        run_service(configured, settings, roles, read.removed)
    except BaseExceptionGroup as group:
        errors, rest = group.split(TrustwatchError)
        if rest is not None or errors is None:
            raise
        raise fail(errors.exceptions[0]) from None
