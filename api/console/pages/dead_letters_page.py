"""Dead letters: what was refused, by source and reason, its bytes, and another try."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.records.dead_letters import DeadLetter

from ...events.intake import Receipt
from ...http.auth.callers import SCOPE_ADMIN
from ..console_sessions import PageRequest
from ..page_dependencies import ConsoleContext, ConsoleDep, DeadLetterServiceDep, PageAdministratorDep
from ..rendering import MenuEntry
from ..views.dead_letter_display import display_bytes, filter_dead_letters, group_dead_letters

MAX_GROUPED = 500
"""Letters that are grouped; older ones are reached page by page."""

MENU_ENTRY = MenuEntry("Dead letters", "/console/dead-letters", SCOPE_ADMIN, key="x")

router = APIRouter()

Text = Annotated[str, Query(max_length=4096)]
Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/dead-letters")
async def list_dead_letters(
    request: Request,
    console: ConsoleDep,
    visit: PageAdministratorDep,
    dead_letters: DeadLetterServiceDep,
    source: Text = "",
    reason: Text = "",
    state: Text = "",
    cursor: Cursor = "",
) -> Response:
    """The newest letters in groups, and those of the group that is chosen."""
    replayed = {"waiting": False, "replayed": True}.get(state)
    page = await dead_letters.list(visit.caller, replayed, MAX_GROUPED, cursor or None)
    return console.render_page(
        request,
        "dead_letters.html",
        visit,
        groups=group_dead_letters(page.items),
        looked_at=len(page.items),
        letters=filter_dead_letters(page.items, source, reason)[:100],
        source=source,
        reason=reason,
        state=state,
        counts=await dead_letters.counts(visit.caller),
        next_cursor=page.next_cursor,
        sees_all=dead_letters.sees_all(visit.caller),
        first_page=not cursor,
    )


@router.get("/dead-letters/{letter_id}")
async def show_dead_letter(
    letter_id: str,
    request: Request,
    console: ConsoleDep,
    visit: PageAdministratorDep,
    dead_letters: DeadLetterServiceDep,
) -> Response:
    """One letter with its bytes."""
    return _dead_letter_page(request, console, visit, await dead_letters.get(visit.caller, letter_id))


@router.post("/dead-letters/{letter_id}/replay")
async def replay_dead_letter(
    letter_id: str,
    request: Request,
    console: ConsoleDep,
    visit: PageAdministratorDep,
    dead_letters: DeadLetterServiceDep,
) -> Response:
    """Send it in once more, with what its sender may speak for."""
    stored = await dead_letters.get(visit.caller, letter_id)
    try:
        receipt = await dead_letters.replay(visit.caller, letter_id, as_sender=True)
    except TrustwatchError as error:
        return _dead_letter_page(request, console, visit, stored, trouble=str(error), status=400)
    stored = await dead_letters.get(visit.caller, letter_id)
    return _dead_letter_page(request, console, visit, stored, receipt=receipt)


def _dead_letter_page(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    letter: DeadLetter,
    *,
    trouble: str = "",
    receipt: Receipt | None = None,
    status: int = 200,
) -> Response:
    settings = console.runtime.settings
    senders = {caller.name for caller in settings.callers} | {topic.name for topic in settings.brokers.topics}
    return console.render_page(
        request,
        "dead_letter.html",
        visit,
        status,
        letter=letter,
        raw=display_bytes(letter.raw),
        trouble=trouble,
        receipt=receipt,
        sender_known=letter.source in senders,
    )
