"""Indicators of scored rows, and those of an agent since it was last quiet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.event_words import credential_of, target_of
from trustwatch.ingest.features.frequency_tables import different_items_known
from trustwatch.ingest.timestamps import DAY_MS, format_rfc3339

from ..records.agents import NEW_STATUSES, Indicator, IndicatorKind, IndicatorStatus
from .explanations import sanitize_text
from .scored_batch import ScoredBatch

MAX_OF_KIND = 4
"""Indicators of one kind that are kept of an agent: the first ones, before all those of something new."""

_CALLERS: dict[IndicatorKind, int] = {"network": layout.K_NETWORK, "credential": layout.K_CREDENTIAL}
"""Kinds that identify the caller and that an agent learns: what comes with a new one is reported as such."""
CALLER_BITS = np.uint32(sum(1 << kind for kind in _CALLERS.values()))
"""Their bits in `RowObservations.new_kinds`."""
_PLACES = {kind: place for place, kind in enumerate(get_args(IndicatorKind))}


def new_callers(scored: ScoredBatch) -> npt.NDArray[np.int64]:
    """Return rows from a network or with a credential that their agents do not know, except self-asserted ones."""
    authenticated = scored.columns.codes[:, event_columns.SELF_ASSERTED] == 0
    return np.flatnonzero(((scored.observations.new_kinds & CALLER_BITS) != 0) & authenticated)


def lately_new(kept: Sequence[Indicator], at_ms: int) -> tuple[Indicator, ...]:
    """Return the *kept* indicators that came with something new within a day before *at_ms*."""
    if not kept:
        return ()
    since = format_rfc3339(max(at_ms - DAY_MS, 0))
    return tuple(indicator for indicator in kept if indicator.status in NEW_STATUSES and indicator.at >= since)


def has_room(kept: Sequence[Indicator], scored: ScoredBatch, row: int) -> bool:
    """Return whether a row's new network or credential would be kept. A caller that changes them in each event costs
    only this check."""
    new = int(scored.observations.new_kinds[row])
    full = Counter(indicator.kind for indicator in kept if indicator.status in NEW_STATUSES)
    return any((new >> at) & 1 and full[kind] < MAX_OF_KIND for kind, at in _CALLERS.items())


def indicators_of_row(scored: ScoredBatch, row: int) -> tuple[Indicator, ...]:
    """Return all indicators of a row's event."""
    at = format_rfc3339(int(scored.columns.time_ms[row]))
    event = scored.columns.events[row]
    client = event.client
    unlearned: list[tuple[IndicatorKind, str | None]] = [
        ("address", None if client is None else client.ip),
        ("software", None if client is None else client.user_agent),
        ("instance", event.agent.instance),
        ("session", event.session),
    ]
    named = [*_learned_names(scored, row, event), *((kind, name, "not_tracked") for kind, name in unlearned if name)]
    return tuple(Indicator(kind, sanitize_text(name), status, at) for kind, name, status in named)


def with_indicators(kept: Sequence[Indicator], more: Sequence[Indicator]) -> tuple[Indicator, ...]:
    """Add the indicators of one more event to those that are *kept*, within the bound of each kind.

    A name counts as new for as long as it is kept so, although it is learned meanwhile.
    """
    before = {(indicator.kind, indicator.value): indicator for indicator in kept}
    merged = [before.get((indicator.kind, indicator.value), indicator) for indicator in more]
    if any(indicator.kind in _CALLERS and indicator.status in NEW_STATUSES for indicator in merged):
        merged = [
            msgspec.structs.replace(indicator, status="with_new") if indicator.status == "not_tracked" else indicator
            for indicator in merged
        ]
    return _bounded([*kept, *(indicator for indicator in merged if (indicator.kind, indicator.value) not in before)])


def _bounded(listed: list[Indicator]) -> tuple[Indicator, ...]:
    """Keep at most `MAX_OF_KIND` of each kind, ordered by kind, then by arrival."""
    first = sorted(listed, key=lambda indicator: indicator.status not in NEW_STATUSES)
    count: Counter[str] = Counter()
    chosen = set()
    for indicator in first:
        count[indicator.kind] += 1
        if count[indicator.kind] <= MAX_OF_KIND:
            chosen.add(indicator)
    return tuple(
        sorted(
            (indicator for indicator in listed if indicator in chosen), key=lambda indicator: _PLACES[indicator.kind]
        )
    )


def _learned_names(
    scored: ScoredBatch, row: int, event: NativeEvent
) -> Iterator[tuple[IndicatorKind, str, IndicatorStatus]]:
    """Yield the names of the event that agents learn, with whether this agent knows them."""
    client, login = event.client, event.credential
    if client is not None and (client.asn is not None or client.ip):
        name = f"AS{client.asn}" if client.asn is not None else event_columns.network_of(client.ip)
        yield "network", name, _status(scored, row, layout.K_NETWORK)
    if login is not None and (login.method or login.thumbprint):
        status = _status(scored, row, layout.K_CREDENTIAL)
        yield "credential", credential_of(event), status
        if login.thumbprint:  # of a new pair of method and key it is not known which of them is new
            yield "key", login.thumbprint, "known" if status == "known" else "not_tracked"
    if scored.columns.codes[row, event_columns.EXTERNAL] == event_columns.OUTSIDE:
        yield "target", target_of(event), _status(scored, row, layout.K_TARGET)


def _status(scored: ScoredBatch, row: int, kind: int) -> IndicatorStatus:
    """Return whether the agent knew the row's item of a kind when the row was scored."""
    if not scored.agent_numbers[row, layout.N_SEEN + kind]:
        return "not_tracked"
    if not (int(scored.observations.new_kinds[row]) >> kind) & 1:
        return "known"
    counted = different_items_known(scored.known_items[row], kind)
    return "new" if counted is not None and counted[1] else "not_remembered"
