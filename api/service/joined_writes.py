"""Head and body of an answer in one write: uvicorn makes two of them, each a system call and a packet of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

MOST_JOINED_BYTES: Final = 64 * 1024
"""More than that is not copied to stand behind a head."""


class JoinedWrites(asyncio.Transport):
    """A transport whose write waits for the next one, at most until the event loop has its next turn.

    It has what uvicorn and the guard of connections ask of one; nothing hands a connection to another protocol.

    Args:
        transport: of the connection; everything else goes to it at once.
        loop: that it runs in.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write behind what is held; hold *data* where nothing is."""
        held = self._held
        if not held:
            self._held = bytes(data)
            self._loop.call_soon(self.flush)
            return
        self._held = b""
        if len(data) <= MOST_JOINED_BYTES:
            self._transport.write(held + data)
        else:
            self._transport.writelines([held, data])

    def flush(self) -> None:
        """Write what is held."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        """Close behind what is held."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """True if the connection is closed, or is being closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Facts about the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()
