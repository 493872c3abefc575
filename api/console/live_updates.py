"""`/console/live`: server-sent events that notify a page of what to reload.

Events carry no risk data but names and levels of the person's own tenants: `change` (some agent's level changed),
`agent-…` (that of one agent, by a digest of its name), `opened` (earlier events were not received), `said` (a sentence
for people who listen to the page), `tick` (figures changed), `end` (the session is over).

Opening a stream is not use of the session, and the stream ends with the session. If the session only seems idle here
(a click renewed a younger copy of its cookie), the stream is closed, and the browser opens the next one with its
current cookie.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from markupsafe import Markup

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.pipeline.ipc import LevelChange
from trustwatch.scoring.records.agents import RiskLevel

from ..decisions.service import DecisionService, LevelChangeSubscription, SubscriptionEnded
from ..http.auth.callers import SCOPE_SCORE_READ
from ..http.responses import encode_event
from .console_sessions import SessionState
from .page_dependencies import ConsoleDep, SignInNeeded, require_console_scope
from .rendering import LEVEL_SYMBOLS, agent_url

TICK_INTERVAL_S = 5.0
RETRY_AFTER_MS = 2_000  # A page that lost its stream opens the next one after so long
GATHER_CHANGES_S = 0.3  # Changes within this time are sent as one event, even a storm of them
MAX_NAMED_AGENTS = 50
MAX_OPEN_STREAMS, MAX_STREAMS_OF_PERSON = 500, 50
"""Open streams of this process, and of one person; a further one is refused, and retries. The pages of one person do
not block those of others."""

_UNBUFFERED = {"X-Accel-Buffering": "no"}

router = APIRouter()


def agent_event_name(tenant: str, agent_id: str) -> str:
    """Return the name of the event about an agent, a digest because event names may not contain every character."""
    return "agent-" + hashlib.sha256(f"{tenant}\x1f{agent_id}".encode()).hexdigest()[:16]


@router.get("/live")
async def stream_updates(request: Request, console: ConsoleDep) -> StreamingResponse:
    """Stream the changes from now on."""
    try:
        visit = await _authorise_stream(request)
    except SignInNeeded:
        if console.sessions.session_name not in request.cookies:
            raise

        async def session_over() -> AsyncIterator[bytes]:  # otherwise the page would retry forever
            yield encode_event("end", "over")

        return EventSourceResponse(session_over(), headers=_UNBUFFERED)
    person = visit.caller.name
    of_person = sum(name == person for name in console.streams.values())
    if len(console.streams) >= MAX_OPEN_STREAMS or of_person >= MAX_STREAMS_OF_PERSON:
        raise Unavailable("too many pages are open")
    subscription = console.services.get(DecisionService).subscribe(visit.caller)

    async def session_state() -> SessionState:
        return "over" if await console.ended.has_ended(visit.session) else console.sessions.state(visit.session)

    events = _update_events(subscription, session_state, console.streams, person)
    return EventSourceResponse(events, headers=_UNBUFFERED)


_authorise_stream = require_console_scope(SCOPE_SCORE_READ, quiet=True)


async def _update_events(
    subscription: LevelChangeSubscription,
    session_state: Callable[[], Awaitable[SessionState]],
    streams: dict[object, str],
    person: str,
) -> AsyncIterator[bytes]:
    streams[subscription] = person
    try:
        with subscription:
            # Changes that came before are loaded now.
            yield format_sse_event(retry=RETRY_AFTER_MS) + encode_event("opened", "")
            while True:
                first, changes = await subscription.next_change(TICK_INTERVAL_S), list[LevelChange]()
                if first is not None:
                    await asyncio.sleep(GATHER_CHANGES_S)
                    changes = [first, *subscription.pending_changes()]
                state = await session_state()
                if state == "over":
                    yield encode_event("end", "over")
                if state != "lasts":
                    return
                for line in _change_events(changes) if changes else [encode_event("tick", "")]:
                    yield line
    except (SubscriptionEnded, Unavailable):  # the browser opens the next one
        return
    finally:
        streams.pop(subscription, None)


def _change_events(changes: list[LevelChange]) -> list[bytes]:
    lines = [encode_event("change", str(len(changes)))]
    named = dict.fromkeys(agent_event_name(change.tenant, change.agent_id) for change in changes)
    lines += [encode_event(name, "") for name in list(named)[:MAX_NAMED_AGENTS]]
    risen = [change for change in changes if change.level > change.previous_level and change.level >= RiskLevel.MEDIUM]
    if risen:
        worst = max(risen, key=lambda change: change.level)
        lines.append(encode_event("said", _announcement(worst, len(risen) - 1)))
    return lines


def _announcement(change: LevelChange, more: int) -> Markup:
    word = RiskLevel(change.level).label
    others = Markup(" and {} more").format(more) if more else ""
    return Markup('<a href="{}"><span class="mark level-{}" aria-hidden="true">{}</span> {} is now {}</a>{}').format(
        agent_url(change.tenant, None, change.agent_id), word, LEVEL_SYMBOLS[word], change.agent_id, word, others
    )
