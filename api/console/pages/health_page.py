"""Health: whether the service can do its work, what waits or was lost, what is in force, and the settings that hold."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from trustwatch.ingest.errors import Unavailable

from ...events.ingest_status import IngestStatus
from ...http.auth.callers import SCOPE_ADMIN
from ...http.prometheus_metrics import ServiceMetrics
from ...http.store_executor import StoreExecutor
from ...settings.effective import settings_yaml
from ...settings.event_source_settings import ANY_NAME
from ..page_dependencies import AlertServiceDep, ConsoleContext, ConsoleDep, PageAdministratorDep
from ..rendering import MenuEntry
from ..views.health_display import (
    display_components,
    display_troubles,
    display_versions,
    display_work,
    silence_reports,
    topic_reports,
)

MENU_ENTRY = MenuEntry("Health", "/console/health", SCOPE_ADMIN, key="h")

router = APIRouter()


@router.get("/health")
async def show_health(
    request: Request, console: ConsoleDep, visit: PageAdministratorDep, alerts: AlertServiceDep
) -> Response:
    """The state of the process that answers. What names or counts other tenants is for people of all."""
    runtime, sees_all = console.runtime, ANY_NAME in visit.caller.tenants
    schema, answers_in_s, store_trouble = await _look_at_store(console)
    ingest = console.services.find(IngestStatus)
    sources, topics = silence_reports(console.services, visit.caller), topic_reports(console.services, visit.caller)
    return console.render_page(
        request,
        "health.html",
        visit,
        components=display_components(console.activity.note_components()),
        work=display_work(runtime),
        answers_in_s=answers_in_s,
        store_trouble=store_trouble,
        learning=runtime.learning(),
        restart_needed=runtime.settings_reloads.restart_needed if sees_all else (),
        policy=runtime.live_policy,
        stops=[] if store_trouble else await alerts.target_stops(),
        targets=len(runtime.settings.webhooks),
        sources=sources,
        silent=[source for source in sources if source.silent],
        topics=topics,
        topics_are_read=ingest is not None and ingest.alive,
        troubles=display_troubles(console.services.get(ServiceMetrics)) if sees_all else None,
        versions=display_versions(runtime, schema),
        settings=settings_yaml(runtime.settings) if sees_all else None,
        sees_all=sees_all,
    )


async def _look_at_store(console: ConsoleContext) -> tuple[str | None, float, str]:
    """Revision of the tables, how long the answer took, and why there was none; "" = there was one."""
    runtime, executor = console.runtime, console.services.get(StoreExecutor)
    began = runtime.monotonic()
    try:
        schema = await executor(runtime.store.schema_revision)
    except Unavailable as error:
        return None, runtime.monotonic() - began, str(error)
    return schema, runtime.monotonic() - began, ""
