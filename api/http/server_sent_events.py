"""Server-sent events as bytes, for answers that go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack

from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send


def encode_event(name: str, data: str, event_id: str | None = None) -> bytes:
    """One event. Each line of *data*, however it is broken, is a line of the event's data.

    >>> encode_event("decision", "{}", "D1")
    b'id: D1\\nevent: decision\\ndata: {}\\n\\n'
    """
    # The id comes first, as readers have always had it; FastAPI would write it last.
    prefix = b"" if event_id is None else f"id: {event_id}\n".encode()
    return prefix + format_sse_event(event=name, data_str="\n".join(data.splitlines()))


def encode_comment(text: str) -> bytes:
    """A line that readers pass over: it shows them, and everything between, that the stream is alive."""
    return format_sse_event(comment=text)


def encode_retry(after_ms: int) -> bytes:
    """Interval after which a reader that lost the stream opens it anew, as a line of the stream."""
    return format_sse_event(retry=after_ms)


class CountedEventStream(EventSourceResponse):
    """An answer that sends *events* as they come, within *counted*, which its route has entered.

    The route counts the stream, so that it can refuse one; only the answer knows when it is over, also where its
    client went away before the first event.
    """

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str], counted: ExitStack) -> None:
        super().__init__(events, headers=dict(headers))
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self._counted:
            await super().__call__(scope, receive, send)


def event_stream(events: AsyncIterator[bytes], headers: Mapping[str, str]) -> StreamingResponse:
    """The answer that sends *events* as they come."""
    return EventSourceResponse(events, headers=dict(headers))
