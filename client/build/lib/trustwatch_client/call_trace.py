"""One traced call of a middleware: its arguments are looked up, its answer is remembered. Failures break no request."""

from __future__ import annotations

import asyncio
import logging

from .argument_origins import ArgumentOrigins, TracedCall, text_of
from .caller import Caller
from .events import AuditEvent
from .origin_tracker import OriginTracker

log = logging.getLogger("trustwatch_client")

MAX_TEXT_IN_LOOP = 16_384
"""Longer answers are remembered in a thread: one of 10 kB takes about 1 ms."""


class CallTrace:
    """Origins of one call."""

    def __init__(self, origins: OriginTracker | None, caller: Caller | None) -> None:
        self._origins = origins
        self._caller = caller
        self._conversation: ArgumentOrigins | None = None
        self._call: TracedCall | None = None
        self._untrusted: bool | None = None

    @property
    def is_on(self) -> bool:
        """True if answers should be read for `finish`."""
        return self._origins is not None and self._caller is not None

    def start(self, session: str | None, action: str, arguments: object) -> None:
        """Look the arguments of the call up in the conversation of its session."""
        if self._origins is None or self._caller is None:
            return
        try:
            self._conversation = self._origins.conversation_of(self._caller, session)
            if self._conversation is not None:
                self._call = self._conversation.start_call(action, arguments)
        except Exception as error:
            self._give_up(error)

    def add_system(self, session: str | None, value: object) -> None:
        """Remember what a server told the agent about itself."""
        if self._origins is None or self._caller is None:
            return
        try:
            conversation = self._origins.conversation_of(self._caller, session)
            if conversation is not None:
                conversation.add_system(value)
        except Exception as error:
            self._give_up(error)

    async def finish(self, answer: object, untrusted: bool | None) -> None:
        """Remember the answer before the agent has it, so that its next call finds what it held."""
        conversation, call = self._conversation, self._call
        if conversation is None or call is None:
            return
        try:
            text = text_of(answer, conversation.most_characters)
            if len(text) > MAX_TEXT_IN_LOOP:
                self._untrusted = await asyncio.to_thread(conversation.finish_call, call, text, untrusted=untrusted)
            else:
                self._untrusted = conversation.finish_call(call, text, untrusted=untrusted)
        except Exception as error:
            self._give_up(error)

    def hash_arguments(self, arguments: object) -> str | None:
        """Hash of all arguments of the call, for a question about it; None where nothing is traced."""
        if self._origins is None or self._caller is None:
            return None
        try:
            return self._origins.hash_arguments(self._caller, arguments)
        except Exception as error:
            self._give_up(error)
            return None

    def add_to_event(self, event: AuditEvent) -> None:
        """Write what is known of the call into its event."""
        if self._call is not None:
            event.arguments, event.untrusted_result = self._call.arguments, self._untrusted

    def _give_up(self, error: Exception) -> None:
        """Count an error of ours; its text may hold content, so that the log gets its kind alone."""
        if self._origins is not None:
            self._origins.count_failure()
        log.warning("arguments of a call not traced: %s", type(error).__name__)
