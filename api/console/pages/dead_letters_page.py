"""Dead letters: what was refused, by source and reason, its bytes, and another try."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ....ingest.errors import TrustwatchError
from ....scoring.records.dead_letters import StoredDeadLetter
from ...events import routes
from ...http.agent_lookup import not_found_error
from ...http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller, binding_of_caller
from ...settings.root import Settings
from ..page_dependencies import ConsoleContext, ConsoleDep, PageAdministratorDep, PageRequest
from ..rendering import MenuEntry
from ..views.dead_letter_display import display_bytes, filter_dead_letters, group_dead_letters

MAX_GROUPED = 500
"""Letters that are grouped; older ones are reached page by page."""

MENU_ENTRY = MenuEntry("Dead letters", "/console/dead-letters", SCOPE_ADMIN)

router = APIRouter()

Text = Annotated[str, Query(max_length=4096)]
Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/dead-letters")
async def list_dead_letters(
    request: Request,
    desk: ConsoleDep,
    visit: PageAdministratorDep,
    source: Text = "",
    reason: Text = "",
    state: Text = "",
    cursor: Cursor = "",
) -> Response:
    """The newest letters in groups, and those of the group that is chosen."""
    store, seen = desk.application.runtime.store, routes.visible_dead_letter_sources(visit.caller)
    replayed = {"waiting": False, "replayed": True}.get(state)
    page = await desk.application.call_store(store.dead_letters.page, seen, replayed, MAX_GROUPED, cursor or None)
    counts = await desk.application.call_store(store.dead_letters.count)
    return desk.render_page(
        request,
        "dead_letters.html",
        visit,
        groups=group_dead_letters(page.items),
        looked_at=len(page.items),
        letters=filter_dead_letters(page.items, source, reason)[:100],
        source=source,
        reason=reason,
        state=state,
        counts=counts,
        next_cursor=page.next_cursor,
        sees_all=seen is None,
        first_page=not cursor,
    )


@router.get("/dead-letters/{letter_id}")
async def show_dead_letter(letter_id: str, request: Request, desk: ConsoleDep, visit: PageAdministratorDep) -> Response:
    """One letter with its bytes."""
    return _dead_letter_page(request, desk, visit, await _find_dead_letter(desk, visit, letter_id))


@router.post("/dead-letters/{letter_id}/replay")
async def replay_dead_letter(
    letter_id: str, request: Request, desk: ConsoleDep, visit: PageAdministratorDep
) -> Response:
    """Send it in once more, with what its sender may speak for."""
    found = await _find_dead_letter(desk, visit, letter_id)
    speaker = caller_with_sender_binding(visit.caller, found, desk.application.runtime.settings)
    try:
        answer = await routes.replay_dead_letter(letter_id, desk.application, speaker, None)
    except TrustwatchError as error:
        return _dead_letter_page(request, desk, visit, found, trouble=str(error), status=400)
    receipt = msgspec.json.decode(bytes(answer.body))
    return _dead_letter_page(request, desk, visit, await _find_dead_letter(desk, visit, letter_id), receipt=receipt)


def caller_with_sender_binding(
    person: AuthenticatedCaller, letter: StoredDeadLetter, settings: Settings
) -> AuthenticatedCaller:
    """*person* with the word of whoever sent the letter, where it still has any: no more than its sender's counts."""
    sender = next((one for one in settings.callers if one.name == letter.letter.source), None)
    return person if sender is None else msgspec.structs.replace(person, binding=binding_of_caller(sender))


async def _find_dead_letter(desk: ConsoleContext, visit: PageRequest, letter_id: str) -> StoredDeadLetter:
    seen = routes.visible_dead_letter_sources(visit.caller)
    found = await desk.application.call_store(desk.application.runtime.store.dead_letters.get, letter_id, seen)
    if found is None:
        raise not_found_error("dead letter")
    return found


def _dead_letter_page(
    request: Request,
    desk: ConsoleContext,
    visit: PageRequest,
    found: StoredDeadLetter,
    *,
    trouble: str = "",
    receipt: dict[str, Any] | None = None,
    status: int = 200,
) -> Response:
    settings = desk.application.runtime.settings
    known = {one.name for one in settings.callers} | {one.name for one in settings.kafka.topics}
    return desk.render_page(
        request,
        "dead_letter.html",
        visit,
        status,
        stored=found,
        letter=found.letter,
        raw=display_bytes(found.letter.raw),
        trouble=trouble,
        receipt=receipt,
        sender_known=found.letter.source in known,
    )
