"""The console of `bench_console` over a store that is there: `python -m benchmarks.console_server PORT FOLDER`.

The real application with every agent of the store in memory, as a replica has it; nothing scores beside it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from trustwatch.api.http.app import create_app
from trustwatch.api.http.auth.bearer_tokens import TokenVerifier
from trustwatch.api.http.auth.callers import CallerDirectory
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.connection_guard import ConnectionGuard
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.service.assembly import make_decision_point
from trustwatch.api.service.http_server import guarded_protocol
from trustwatch.api.service.serve import GC_THRESHOLD
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ConsoleSettings, ListenSettings
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.store.sql_store import open_store, sqlite_url


def application(port: int, folder: Path) -> tuple[Any, type[asyncio.Protocol]]:
    """The application over the store in *folder*, with the development login."""
    settings = Settings(
        data_dir=folder, listen=ListenSettings(port=port), console=ConsoleSettings(enabled=True, development_login=True)
    )
    store = open_store(sqlite_url(folder / "store.db"))
    gc.collect()
    gc.freeze()  # collections as the service has them
    gc.set_threshold(*GC_THRESHOLD)
    view, status, policy = RiskView(), PipelineStatus(), LivePolicy(PolicyBook())
    view.apply(store.agents.iterate())
    status.apply_report(PipelineUpdate([], [], 1, 0, {}, {}, risk_offset=1), int(time.time() * 1000))
    log = GroupCommit(EventLog(folder / "log"))
    jwks = JwksCache((), time.time)
    callers = CallerDirectory((), [])
    guard = make_decision_point(settings, log, store, view, policy, status, lambda _: None)
    connections = ConnectionGuard(time.monotonic)
    services = Runtime(
        settings,
        TokenVerifier((), jwks, callers.resolve, settings.verification, time.time),
        log,
        store,
        guard.policy_evaluator,
        view,
        policy,
        "m",
        status,
        services=(guard, connections),
        on_shutdown=(log.close,),
    )
    return create_app(services, SLICES), guarded_protocol(connections)


def main() -> None:
    """Serve until killed."""
    port = int(sys.argv[1])
    app, protocol = application(port, Path(sys.argv[2]))
    uvicorn.run(app, host="127.0.0.1", port=port, http=protocol, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
