"""`/console/live`: server-sent events that tell a page what to load again.

Events carry no risk data but names and levels of the person's own tenants: `change` (some agent's level changed),
`agent-…` (that of one agent, by a digest of its name), `opened` (what came before this was not heard), `said` (a
sentence for people who listen to the page), `tick` (figures moved on), `end` (the session is over).

A stream is nothing that a person does: opening one is no use of the session, and it ends with it. Where the session
only looks idle from here (a click prolonged a younger copy of its cookie) the stream is closed, and the browser
opens the next one, with the cookie that it has then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from markupsafe import Markup

from ...ingest.errors import Unavailable
from ...scoring.channel import Change
from ...scoring.records import RiskLevel
from ..callers import SCORE_READ
from ..http.finding import visible_tenants
from ..http.services import Changes, PipelineStatus
from .gate import Desk, SignInNeeded, require
from .render import MARKS, agent_url
from .sessions import Standing

TICK_S = 5.0
GATHER_S = 0.3
"""Changes of so long are told together: a storm of them is one event."""

MOST_TOLD = 50
MOST_STREAMS = 500
"""Open streams of this process; a further one is told to come again."""

router = APIRouter()


def event_of(tenant: str, agent_id: str) -> str:
    """The event that tells of an agent: its name may hold anything, the event's may not."""
    return "agent-" + hashlib.sha256(f"{tenant}\x1f{agent_id}".encode()).hexdigest()[:16]


@router.get("/live")
async def live(request: Request, desk: Desk) -> StreamingResponse:
    """What changes from now on."""
    try:
        visit = await _watching(request)
    except SignInNeeded:
        if desk.cookies.session not in request.cookies:
            raise
        return _stream(_ended())  # a page would go on asking for what is refused
    if len(desk.streams) >= MOST_STREAMS:
        raise Unavailable("too many pages are open")
    tenants = visible_tenants(visit.caller, None)
    standing = partial(desk.sessions.standing, visit.session)
    return _stream(_events(desk.parts.services.status, tenants, standing, desk.streams))


_watching = require(SCORE_READ, quiet=True)


def _stream(lines: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _ended() -> AsyncIterator[bytes]:
    yield _event("end", "over")


async def _events(
    status: PipelineStatus, tenants: Collection[str] | None, standing: Callable[[], Standing], streams: set[object]
) -> AsyncIterator[bytes]:
    queue = status.watch()
    streams.add(queue)
    try:
        yield b"retry: 2000\n\n" + _event("opened", "")  # what changed while nobody listened is loaded now
        while True:
            changes = await _gathered(queue)
            if changes is None:
                return
            stands = standing()
            if stands == "over":
                yield _event("end", "over")
            if stands != "lasts":
                return
            shown = [change for change in changes if tenants is None or change.tenant in tenants]
            for line in _told(shown) if shown else [_event("tick", "")]:
                yield line
    finally:
        streams.discard(queue)
        status.unwatch(queue)


async def _gathered(queue: Changes) -> list[Change] | None:
    """Changes of a short while; none where nothing happened, None at the end of the stream."""
    try:
        async with asyncio.timeout(TICK_S):
            first = await queue.get()
    except TimeoutError:
        return []
    if first is None:
        return None
    await asyncio.sleep(GATHER_S)
    changes = [first]
    while not queue.empty():
        change = queue.get_nowait()
        if change is None:
            queue.put_nowait(None)  # these are told first
            break
        changes.append(change)
    return changes


def _told(changes: list[Change]) -> list[bytes]:
    lines = [_event("change", str(len(changes)))]
    named = dict.fromkeys(event_of(change.tenant, change.agent_id) for change in changes)
    lines += [_event(name, "") for name in list(named)[:MOST_TOLD]]
    risen = [change for change in changes if change.level > change.previous_level and change.level >= RiskLevel.MEDIUM]
    if risen:
        worst = max(risen, key=lambda change: change.level)
        lines.append(_event("said", _sentence(worst, len(risen) - 1)))
    return lines


def _sentence(change: Change, more: int) -> Markup:
    word = RiskLevel(change.level).label
    others = Markup(" and {} more").format(more) if more else ""
    return Markup('<a href="{}"><span class="mark level-{}" aria-hidden="true">{}</span> {} is now {}</a>{}').format(
        agent_url(change.tenant, None, change.agent_id), word, MARKS[word], change.agent_id, word, others
    )


def _event(name: str, data: str) -> bytes:
    """One event. What an agent is called may hold line breaks: each line is data of its own."""
    lines = "".join(f"data: {line}\n" for line in (data.splitlines() or [""]))
    return f"event: {name}\n{lines}\n".encode()
