"""Records that were refused: who sees them, and how one is sent in again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.raw_records import FormatParser, RawRecord
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.database import Page
from trustwatch.scoring.store.dead_letter_store import DeadLetterCounts

from ..http.agent_lookup import not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller, SourceBinding, binding_of_caller, token_issuer
from ..http.problems import ProblemDetails, ProblemError
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from ..settings.access_settings import CallerSettings
from .event_bodies import MEDIA_TYPE_FORMATS, parse_dead_letter, parse_foreign_dead_letter
from .intake import Receipt
from .service import EventService, check_not_all_rejected


class _ReadLetter(NamedTuple):
    """The records in a dead letter, and what they may speak for."""

    records: list[RawRecord]
    binding: SourceBinding


@dataclass(eq=False, repr=False)
class DeadLetterService:
    """Dead letters that a caller may see. For one event loop."""

    runtime: Runtime
    executor: StoreExecutor
    events: EventService

    def sees_all(self, caller: AuthenticatedCaller) -> bool:
        """True if *caller* sees the letters of every sender; else it sees those that it sent itself."""
        return _visible_sources(caller) is None

    async def list(
        self, caller: AuthenticatedCaller, replayed: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[DeadLetter]:
        """Letters, newest first; where *replayed* is given, those that were, or were not, sent in again.

        Raises ProblemError (400), Unavailable.
        """
        return await self.executor(
            self.runtime.store.dead_letters.page, _visible_sources(caller), replayed, limit, cursor
        )

    async def counts(self, caller: AuthenticatedCaller) -> DeadLetterCounts:
        """Letters that *caller* sees and, for callers of all tenants, those that found no room. Raises Unavailable."""
        return await self.executor(self.runtime.store.dead_letters.count, _visible_sources(caller))

    async def get(self, caller: AuthenticatedCaller, letter_id: str) -> DeadLetter:
        """One letter. Raises ProblemError (404), Unavailable."""
        stored = await self.executor(self.runtime.store.dead_letters.get, letter_id, _visible_sources(caller))
        if stored is None:
            raise not_found_error("dead letter")
        return stored

    async def replay(
        self, caller: AuthenticatedCaller, letter_id: str, record_format: str | None = None, *, as_sender: bool = False
    ) -> Receipt:
        """Send a letter in again, and mark it as replayed.

        Records of a foreign topic are read as its mapping says now, and speak for what that topic may; those in a
        format of their sender, for what the sender may. All others are the word of *caller*, or, where *as_sender*, of
        whoever sent them, as far as the settings still know it. Raises ProblemError (400, 404), Overloaded, LogFailed,
        Unavailable.
        """
        letter = await self.get(caller, letter_id)
        sender = self._sender_of(letter)
        source_binding = self._binding_of(sender) if as_sender and sender is not None else caller.binding
        records, binding = self._read(letter, sender, source_binding, record_format)
        receipt = await self.events.receive_again(records, binding)
        check_not_all_rejected(receipt)
        await self.executor.write(self.runtime.store.dead_letters.mark_replayed, [letter_id], self.runtime.now_ms())
        return receipt

    def _sender_of(self, letter: DeadLetter) -> CallerSettings | None:
        callers = self.runtime.settings.callers
        return next((caller for caller in callers if caller.name == letter.source), None)

    def _binding_of(self, sender: CallerSettings) -> SourceBinding:
        issuers = [issuer.issuer for issuer in self.runtime.settings.issuers]
        return binding_of_caller(sender, token_issuer(sender, issuers))

    def _read(
        self,
        letter: DeadLetter,
        sender: CallerSettings | None,
        source_binding: SourceBinding,
        record_format: str | None,
    ) -> _ReadLetter:
        """Letters of topics are seen by callers of all tenants alone."""
        topics = self.runtime.settings.brokers.topics
        topic = next((topic for topic in topics if topic.name == letter.source), None)
        if topic is not None:
            return _ReadLetter(parse_foreign_dead_letter(letter.raw, topic.parser()), SourceBinding(topic))
        name = record_format or ("native" if sender is None else sender.format)
        if name in MEDIA_TYPE_FORMATS:
            return _ReadLetter([parse_dead_letter(letter.raw)], source_binding)
        # Foreign records name no tenant: they are their sender's word, whoever sends them in again.
        binding = source_binding if sender is None else self._binding_of(sender)
        return _ReadLetter(parse_foreign_dead_letter(letter.raw, parser_named(binding, name)), binding)


def _visible_sources(caller: AuthenticatedCaller) -> Collection[str] | None:
    """Senders whose letters *caller* sees; None = all. A record that could not be read has no tenant to go by.

    Raises TenantNotAllowed where it speaks for nobody.
    """
    return None if visible_tenants(caller, None) is None else (caller.name,)


def parser_named(binding: SourceBinding, name: str) -> FormatParser:
    """The parser for a format, as that sender's settings have it. Raises ProblemError (400) where there is none."""
    try:
        return binding.parser(name)
    except ConfigError as error:
        raise ProblemError(ProblemDetails(400, "unknown_format", "Unknown format", str(error))) from None
