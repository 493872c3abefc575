"""Reasons in words: which features and signals moved the risk, what was seen, and what is usual."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC

import numpy as np
import numpy.typing as npt

from ..ingest.columns import EventColumns
from ..ingest.events import AuditEvent
from ..ingest.features import layout as l
from ..ingest.features.kernel import Scratch, scope_keys
from ..ingest.features.layout import Baseline
from ..ingest.features.reference import distance_from_reference
from ..ingest.features.surprise import usual
from ..ingest.features.table import FEATURES, Feature
from ..ingest.features.tables import scope_row
from ..ingest.features.vector import FEATURE_OF_KIND, FEATURE_OF_QUANTITY
from .records import Reason
from .signals import Signal

MOST_REASONS = 4
_LEAST_SHARE = 0.08
_LEAST_VALUE = 0.1
"""Bits or standard deviations: less is nothing to tell, even where its absence is what is odd."""
LONGEST_NAME = 200
"""Characters of a name in a reason."""

Memory = npt.NDArray[np.float32]

_KIND_OF_FEATURE = {int(feature): kind for kind, feature in enumerate(FEATURE_OF_KIND.tolist()) if feature >= 0}
_QUANTITY_OF_FEATURE = {int(feature): q for q, feature in enumerate(FEATURE_OF_QUANTITY.tolist())}

# Composite features speak of the item that carries them.
_CARRIER = {
    "action_rarity_peers": l.K_ACTION,
    "identity_shift": l.K_ACTION,
    "external_target": l.K_TARGET,
}
_OF_A_WRITE = (l.K_ACTION, l.K_TARGET, l.K_ACTION_TARGET, l.K_TRANSITION)
"""Kinds whose largest surprise a call's effect weighs (`write_surprise`): what is told is the one that was it."""

GATHERING = frozenset({"session_strangeness", "novelty_1h"})
"""Features that say how much has gathered, and not of what: told last, however much they weigh."""

_PLURAL = {
    l.K_ACTION: "actions",
    l.K_RESOURCE: "resources",
    l.K_TARGET: "targets",
    l.K_AUDIENCE: "audiences",
    l.K_PEER: "peer agents",
    l.K_PRINCIPAL: "principals",
    l.K_NETWORK: "networks",
    l.K_CREDENTIAL: "credentials",
    l.K_SCOPES: "scope sets",
    l.K_CHAIN: "delegation chains",
    l.K_EFFECT: "effects",
    l.K_HOUR: "times of the week",
    l.K_TRANSITION: "transitions",
    l.K_ACTION_TARGET: "uses of actions on targets",
    l.K_REPEAT: "repetitions",
    l.K_PROVENANCE: "origins",
    l.K_OUTCOME: "outcomes",
    l.K_REQUEST_SIZE: "request sizes",
    l.K_ANSWER_SIZE: "answer sizes",
}
_SINGULAR = {kind: words.removesuffix("s") for kind, words in _PLURAL.items()} | {
    l.K_HOUR: "time of the week",
    l.K_ACTION_TARGET: "use of an action on a target",
}


def _client(event: AuditEvent) -> str:
    if event.client is None:
        return "unknown network"
    return f"AS{event.client.asn}" if event.client.asn is not None else (event.client.ip or "unknown network")


def _credential(event: AuditEvent) -> str:
    login = event.credential
    return "no credential" if login is None else f"{login.method or 'unknown method'} {login.thumbprint or ''}".strip()


def _target(event: AuditEvent) -> str:
    return (event.resource and (event.resource.target or event.resource.id)) or "no target"


def plain(text: str, most: int = LONGEST_NAME) -> str:
    """Names come from outside: without control characters, line breaks and reordering marks, and of bounded length."""
    shown = text if len(text) <= most else f"{text[: most - 1]}…"
    return shown if shown.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in shown)


_NAME_OF_KIND: dict[int, Callable[[AuditEvent], str]] = {
    l.K_ACTION: lambda e: e.action,
    l.K_RESOURCE: lambda e: (e.resource and (e.resource.id or e.resource.type)) or "no resource",
    l.K_TARGET: _target,
    l.K_AUDIENCE: lambda e: (e.resource and e.resource.audience) or "no audience",
    l.K_PEER: lambda e: e.peer or "no peer",
    l.K_PRINCIPAL: lambda e: (e.principal and e.principal.id) or "no principal",
    l.K_NETWORK: _client,
    l.K_CREDENTIAL: _credential,
    l.K_SCOPES: lambda e: " ".join((e.scopes and (e.scopes.requested or e.scopes.granted)) or []) or "no scopes",
    l.K_CHAIN: lambda e: " <- ".join(e.delegation or []) or "no delegation",
    l.K_EFFECT: lambda e: e.effect or "unknown",
    l.K_HOUR: lambda e: e.time.astimezone(UTC).strftime("%A %H:%M UTC"),
    l.K_TRANSITION: lambda e: f"{e.action} at this point",
    l.K_ACTION_TARGET: lambda e: f"{e.action} on {_target(e)}",
    l.K_REPEAT: lambda e: f"{e.action} again",
    l.K_PROVENANCE: lambda e: f"{(e.resource and e.resource.provenance) or 'unknown'} argument of {e.action}",
    l.K_OUTCOME: lambda e: f"{e.action}: {e.outcome}",
    l.K_REQUEST_SIZE: lambda e: f"{e.bytes_in or 0:.0f} bytes to {e.action}",
    l.K_ANSWER_SIZE: lambda e: f"{e.bytes_out or 0:.0f} bytes from {e.action}",
}

_QUANTITY_TEXT = {
    l.Q_PACE_1M: "{} events in the last minutes",
    l.Q_PACE_15M: "{} events in the last quarter hour",
    l.Q_PACE_4H: "{} events in the last hours",
    l.Q_GAP: "{} s of silence",
    l.Q_BYTES_IN: "{} bytes in",
    l.Q_BYTES_OUT: "{} bytes out",
    l.Q_DURATION: "{} ms",
    l.Q_SESSION: "{} events in the session",
    l.Q_BREADTH: "{} scopes",
    l.Q_DEPTH: "{} actors",
    l.Q_LIFETIME: "{} s of token lifetime",
    l.Q_FAILURES: "{} errors in the last hour",
    l.Q_DENIALS: "{} denials in the last hour",
    l.Q_VOLUME: "{} bytes in the last hour",
    l.Q_NOVELTY: "{} new names in the last hour",
}


def _amount(logarithm: float) -> str:
    """A quantity from its `log1p`, for people: 0.583, 41.4, 48,600."""
    amount = math.expm1(logarithm)
    return f"{amount:.3g}" if amount < 1000 else f"{amount:,.0f}"


def _phrase(event: AuditEvent, feature: Feature, kind: int, name: str, first: bool) -> str:
    """What is odd about an item, as the beginning of a sentence."""
    if kind == l.K_REPEAT:
        return f"{name}, more often in one session than {'ever' if first else 'usual'}"
    verb = "first use of" if first else "unusual"
    if feature.name != "write_surprise":
        return f"{verb} {feature.noun} {name}"
    call = {"unknown": "", "admin": " in an admin call"}.get(event.effect or "unknown", f" in a {event.effect} call")
    return f"{verb} {_SINGULAR[kind]} {name}{call}"


def _composed(event: AuditEvent, feature: str, value: float) -> tuple[str, str, str]:
    """Of a feature that speaks of no single item or quantity: what was observed, what is usual, and the sentence."""
    if feature == "session_strangeness":
        gathered = f"surprise has gathered over the last events of the session: {value:.0f} bits"
        return f"{value:.0f} bits of surprise", "little surprise", gathered
    if feature == "scope_gap":
        missing = f"{value:.0%} of the requested scopes not granted"
        return missing, "all granted", missing
    if feature == "outside_capabilities":
        action = plain(event.action)
        return action, "its declared capabilities", f"{action} is not among the agent's declared capabilities"
    login = plain(_credential(event))
    return login, "stronger", f"authentication weaker by {value:.0f} ranks than the strongest so far: {login}"


class Narrator:
    """Puts one scored row into words.

    Args:
        baseline: what rows are measured against.
    """

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline

    def reasons(
        self,
        columns: EventColumns,
        row: int,
        memory: Memory,
        found: Scratch,
        vector: Sequence[float],
        shares: Sequence[float],
        signals: Sequence[Signal],
    ) -> tuple[Reason, ...]:
        """Reasons of one row, the strongest first: hard signals, then the features with the largest shares.

        Those that only say how much has gathered come last: they tell nobody what was done.

        Args:
            memory: the agent's numbers (`layout.NUMBERS`) when the row was measured.
        """
        rules = [self._of_signal(columns.events[row], signal) for signal in signals]
        order = np.argsort(-np.asarray(shares), kind="stable")[:MOST_REASONS]
        told: set[str] = set()
        features = []
        for feature in order.tolist():
            if shares[feature] < _LEAST_SHARE or vector[feature] < _LEAST_VALUE:
                continue
            reason = self._of_feature(columns, row, memory, found, feature, vector[feature], shares[feature])
            if reason.text not in told:
                told.add(reason.text)
                features.append(reason)
        return (*rules, *sorted(features, key=lambda reason: reason.feature in GATHERING))

    def _of_signal(self, event: AuditEvent, signal: Signal) -> Reason:
        observed = _credential(event) if signal.feature in ("credential", "authentication") else event.action
        observed = plain(observed)
        return Reason(signal.code, signal.feature, observed, "never", 1.0, f"{signal.text}: {observed}")

    def _of_feature(
        self, columns: EventColumns, row: int, memory: Memory, found: Scratch, index: int, value: float, share: float
    ) -> Reason:
        feature = FEATURES[index]
        kind = _KIND_OF_FEATURE.get(index, _CARRIER.get(feature.name, -1))
        if kind >= 0:
            return self._of_item(columns, row, memory, found, feature, kind, value, share)
        quantity = _QUANTITY_OF_FEATURE.get(index)
        if quantity is not None:
            return self._of_quantity(columns, row, memory, found, feature, quantity, value, share)
        if feature.name == "drift":
            return self._of_drift(memory, found.quantities[row], feature, share)
        if feature.name == "write_surprise":
            kind = max(_OF_A_WRITE, key=lambda one: float(found.bits[row, one]))
            return self._of_item(columns, row, memory, found, feature, kind, value, share)
        observed, usual_text, text = _composed(columns.events[row], feature.name, value)
        return Reason(feature.name, feature.name, observed, usual_text, round(share, 3), text)

    def _of_item(
        self,
        columns: EventColumns,
        row: int,
        memory: Memory,
        found: Scratch,
        feature: Feature,
        kind: int,
        value: float,
        share: float,
    ) -> Reason:
        name = plain(_NAME_OF_KIND[kind](columns.events[row]))
        known = round(float(memory[l.N_DISTINCT + kind]))
        whose = "this agent"
        if known == 0:
            known, whose = self._peers_know(columns, row, kind), "its peer group"
        usual_text = f"{known or 'no'} known {_SINGULAR[kind] if known == 1 else _PLURAL[kind]} of {whose}"
        first = bool((int(found.fresh[row]) >> kind) & 1)
        code = f"first_seen_{feature.name.removesuffix('_surprise')}" if first else feature.name
        said = _phrase(columns.events[row], feature, kind, name, first)
        text = f"{said} ({value:.1f} bits of surprise); {usual_text}"
        return Reason(code, feature.name, name, usual_text, round(share, 3), text)

    def _rows(self, columns: EventColumns, row: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        keys = np.zeros(l.SCOPES, np.uint64)
        scope_keys(keys, columns.names[row])
        return np.array([scope_row(self._baseline, key) if key else -1 for key in keys], np.int64)

    def _peers_know(self, columns: EventColumns, row: int, kind: int) -> int:
        at = self._rows(columns, row)[l.PEERS]
        return 0 if at < 0 else round(float(self._baseline.totals[at, kind, 1]))

    def _of_quantity(
        self,
        columns: EventColumns,
        row: int,
        memory: Memory,
        found: Scratch,
        feature: Feature,
        quantity: int,
        value: float,
        share: float,
    ) -> Reason:
        mean, _, weight = usual(self._baseline, self._rows(columns, row), memory, quantity)
        form = _QUANTITY_TEXT[quantity]
        observed = form.format(_amount(found.quantities[row, quantity]))
        usual_text = form.format(_amount(mean)) if weight else "nothing known yet"
        text = f"{feature.noun} {value:.1f} standard deviations above usual: {observed}; usual {usual_text}"
        return Reason(feature.name, feature.name, observed, usual_text, round(share, 3), text)

    def _of_drift(self, memory: Memory, quantities: npt.NDArray[np.float64], feature: Feature, share: float) -> Reason:
        z, k = max((distance_from_reference(memory, quantities, k), k) for k in range(len(l.DRIFTING)))
        form = _QUANTITY_TEXT[int(l.DRIFTING[k])]
        observed = form.format(_amount(quantities[l.DRIFTING[k]]))
        usual_text = form.format(_amount(memory[l.N_REF_MEAN + k]))
        text = f"{feature.noun}, {z:.1f} standard deviations above the last weeks: {observed}; usual {usual_text}"
        return Reason(feature.name, feature.name, observed, usual_text, round(share, 3), text)
