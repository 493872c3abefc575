"""Calls of a history as questions: what a client that asks before each call would have sent of it."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from trustwatch.ingest import columns
from trustwatch.ingest.event_arguments import read_arguments
from trustwatch.ingest.events import NativeEvent
from trustwatch_client.events import Argument

SESSIONS_OF_AGENT = 16
"""Sessions of an agent whose answers are remembered; the one not used longest makes room."""
_NUMBERED_CALLS = 1024


class _SessionAnswers(msgspec.Struct, gc=False):
    """Answers of a session that others may have written.

    Attributes:
        calls: traced so far.
        untrusted: bit i is of the i-th latest call.
        any_untrusted: whether one was, however long ago.
    """

    calls: int = 0
    untrusted: int = 0
    any_untrusted: bool = False

    def add(self, untrusted: bool) -> None:
        """Count a call."""
        self.calls += 1
        self.untrusted = (self.untrusted << 1 | untrusted) & ((1 << _NUMBERED_CALLS) - 1)
        self.any_untrusted |= untrusted

    def is_untrusted(self, call: int) -> bool:
        """True if others may have written the answer of a call; of one that was never seen, always."""
        if call >= self.calls:
            return True
        if self.calls - call > _NUMBERED_CALLS:
            return self.any_untrusted
        return bool(self.untrusted >> (self.calls - call - 1) & 1)


class AskedCalls:
    """Turns events of a history into questions, in order.

    A client knows of each argument whether the answer that it came out of was untrusted; here that is read from the
    session's earlier events. What only the made call could tell is left out.
    """

    def __init__(self) -> None:
        self._agents: dict[tuple[str, str, str], OrderedDict[str, _SessionAnswers]] = {}

    def question(self, event: NativeEvent) -> NativeEvent:
        """The question about the call that *event* tells of, asked before it."""
        arguments = read_arguments(event)
        if arguments:
            answers = self._answers(event)
            arguments = [_argument_before_call(argument, answers) for argument in arguments]
        return NativeEvent(
            time=event.time,
            agent=event.agent,
            type=event.type,
            action=event.action,
            outcome="success",
            tenant=event.tenant,
            principal=event.principal,
            delegation=event.delegation,
            task=event.task,
            effect=event.effect,
            resource=event.resource,
            peer=event.peer,
            scopes=event.scopes,
            client=event.client,
            credential=event.credential,
            bytes_in=event.bytes_in,
            arguments=None if arguments is None else list(arguments),
        )

    def remember(self, event: NativeEvent) -> None:
        """Remember what a traced call answered, whether it was asked about or not."""
        code = columns.untrusted_result_code(event)
        if code == columns.UNTRACED or not event.session or event.agent.self_asserted:
            return
        sessions = self._agents.setdefault(columns.full_name(event), OrderedDict())
        answers = sessions.setdefault(event.session, _SessionAnswers())
        answers.add(code == 1)
        sessions.move_to_end(event.session)
        if len(sessions) > SESSIONS_OF_AGENT:
            sessions.popitem(last=False)

    def _answers(self, event: NativeEvent) -> _SessionAnswers:
        sessions = self._agents.get(columns.full_name(event))
        answers = None if sessions is None or not event.session else sessions.get(event.session)
        return answers or _SessionAnswers()


def _argument_before_call(argument: Argument, answers: _SessionAnswers) -> Argument:
    if argument.origin != "tool" or argument.untrusted is not None or argument.from_call is None:
        return argument
    return msgspec.structs.replace(argument, untrusted=answers.is_untrusted(argument.from_call))
