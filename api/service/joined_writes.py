"""Head and body of an answer in one write: uvicorn makes two of them, each a system call and a packet of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

MOST_JOINED_BYTES: Final = 64 * 1024
"""More than that is not copied to stand behind a head."""


class JoinedWrites(asyncio.Transport):
    """A transport whose write waits for the next one, at most until the event loop has its next turn.

    Args:
        transport: of the connection; everything else goes to it at once.
        loop: that it runs in.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""
        self.is_closing = transport.is_closing  # type: ignore[method-assign] # asked several times a request

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

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Facts about the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes that were written and not sent."""
        return self._transport.get_write_buffer_size() + len(self._held)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self.flush()
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose connection it is."""
        return self._transport.get_protocol()
