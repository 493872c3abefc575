"""Dead letters: what was refused, by source and reason, its bytes, and another try."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ....ingest.errors import TrustwatchError
from ....scoring.store import StoredLetter
from ...callers import ADMIN, Caller, binding_of
from ...http import route_events as events
from ...http.finding import no_such
from ...settings import Settings
from ..gate import Administering, Console, Desk, Visit
from ..views.letters import chosen, letter_groups
from ..views.raw import raw_shown
from .entry import Entry

LOOKED_AT = 500
"""Letters that are grouped; older ones are reached page by page."""

ENTRY = Entry("Dead letters", "/console/dead-letters", ADMIN)

router = APIRouter()

Text = Annotated[str, Query(max_length=4096)]
Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/dead-letters")
async def dead_letters(
    request: Request,
    desk: Desk,
    visit: Administering,
    source: Text = "",
    reason: Text = "",
    state: Text = "",
    cursor: Cursor = "",
) -> Response:
    """The newest letters in groups, and those of the group that is chosen."""
    store, seen = desk.parts.services.store, events.visible_sources(visit.caller)
    replayed = {"waiting": False, "replayed": True}.get(state)
    page = await desk.parts.read(store.list_dead_letters, seen, replayed, LOOKED_AT, cursor or None)
    counts = await desk.parts.read(store.letter_counts)
    return desk.page(
        request,
        "dead_letters.html",
        visit,
        groups=letter_groups(page.items),
        looked_at=len(page.items),
        letters=chosen(page.items, source, reason)[:100],
        source=source,
        reason=reason,
        state=state,
        counts=counts,
        next_cursor=page.next_cursor,
        sees_all=seen is None,
        first_page=not cursor,
    )


@router.get("/dead-letters/{letter_id}")
async def dead_letter(letter_id: str, request: Request, desk: Desk, visit: Administering) -> Response:
    """One letter with its bytes."""
    return _page(request, desk, visit, await _found(desk, visit, letter_id))


@router.post("/dead-letters/{letter_id}/replay")
async def replay(letter_id: str, request: Request, desk: Desk, visit: Administering) -> Response:
    """Send it in once more, with what its sender may speak for."""
    found = await _found(desk, visit, letter_id)
    speaker = speaking(visit.caller, found, desk.parts.services.settings)
    try:
        answer = await events.replay(letter_id, desk.parts, speaker, None)
    except TrustwatchError as error:
        return _page(request, desk, visit, found, trouble=str(error), status=400)
    receipt = msgspec.json.decode(bytes(answer.body))
    return _page(request, desk, visit, await _found(desk, visit, letter_id), receipt=receipt)


def speaking(person: Caller, letter: StoredLetter, settings: Settings) -> Caller:
    """*person* with the word of whoever sent the letter, where it still has any: no more than its sender's counts."""
    sender = next((one for one in settings.callers if one.name == letter.letter.source), None)
    return person if sender is None else msgspec.structs.replace(person, binding=binding_of(sender))


async def _found(desk: Console, visit: Visit, letter_id: str) -> StoredLetter:
    seen = events.visible_sources(visit.caller)
    found = await desk.parts.read(desk.parts.services.store.dead_letter, letter_id, seen)
    if found is None:
        raise no_such("dead letter")
    return found


def _page(
    request: Request,
    desk: Console,
    visit: Visit,
    found: StoredLetter,
    *,
    trouble: str = "",
    receipt: dict[str, Any] | None = None,
    status: int = 200,
) -> Response:
    settings = desk.parts.services.settings
    known = {one.name for one in settings.callers} | {one.name for one in settings.kafka.topics}
    return desk.page(
        request,
        "dead_letter.html",
        visit,
        status,
        stored=found,
        letter=found.letter,
        raw=raw_shown(found.letter.raw),
        trouble=trouble,
        receipt=receipt,
        sender_known=found.letter.source in known,
    )
