"""Hard signals: rules beside the model, in one table. Each has a name, a weight and a reason; each can be off."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.columns import EventColumns
from ...ingest.compilation import allocation_free, inlined
from ...ingest.events import NativeEvent
from ...ingest.features import layout
from ...ingest.features.event_words import credential_of
from ...ingest.features.feature_table import FEATURE_INDEX
from ...ingest.features.row_observations import IGNORED_EVENT, RowObservations

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

_MAX_CHAIN_DEPTH = 5


def _action_of(event: NativeEvent) -> str:
    return event.action


class HardSignal(NamedTuple):
    """One rule. `weight` is evidence, natural log; medium begins near 6 to 10 and critical near 9 to 14."""

    code: str
    weight: float
    feature: str
    text: str
    meaning: str
    rule: int
    observed: Callable[[NativeEvent], str] = _action_of
    """The value seen, as its reason names it."""
    of_signal_events: bool = False
    """True for rules about what others say of an agent: such events are no behaviour, and no other rule looks at them.
    """
    things: tuple[str, ...] = ()
    """Features of the things that make it fire: had one of them been usual, it would not have fired."""


RULES = 8
(
    USE_AFTER_REVOCATION,
    OUTSIDE_CAPABILITIES,
    UNREGISTERED_KEY,
    METHOD_DOWNGRADE,
    DEEP_DELEGATION,
    REPORTED_COMPROMISE,
    FAILED_PROOF,
    REPORTED_EVIDENCE,
) = range(RULES)
"""Numbers of the rules in `_fires`, which is compiled: a call of NumPy for each rule cost more than the rule."""
_F_METHOD_DOWNGRADE = FEATURE_INDEX["method_downgrade"]


class SignalInput(NamedTuple):
    """Facts that a rule may look at, each with a row for each event of a batch."""

    codes: npt.NDArray[np.int8]  # of its columns
    numbers: npt.NDArray[np.float64]  # likewise
    vectors: Matrix
    token_reuse: npt.NDArray[np.uint8]  # this and the next two as in `RowObservations`
    new_kinds: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint8]

    @staticmethod
    def of(columns: EventColumns, vectors: Matrix, observations: RowObservations) -> SignalInput:
        """Facts of a batch with these feature vectors (n, F), and what the feature builder observed in it."""
        seen = observations
        return SignalInput(columns.codes, columns.numbers, vectors, seen.token_reuse, seen.new_kinds, seen.flags)


@inlined
def _fires(rule: int, seen: SignalInput, row: int) -> bool:
    """Tell whether a rule fires on a row, as its `meaning` says."""
    event_type = seen.codes[row, event_columns.TYPE]
    if rule == USE_AFTER_REVOCATION:
        return bool(seen.token_reuse[row] != 0)
    if rule == OUTSIDE_CAPABILITIES:
        return bool(seen.codes[row, event_columns.CAPABILITY] == event_columns.OUTSIDE)
    if rule == UNREGISTERED_KEY:
        if event_type == event_columns.CLIENT_CHANGE or event_type == event_columns.CLIENT_REGISTER:
            return False
        return bool((seen.new_kinds[row] >> np.uint32(layout.K_CREDENTIAL)) & np.uint32(1) != 0)
    if rule == METHOD_DOWNGRADE:
        return bool(seen.vectors[row, _F_METHOD_DOWNGRADE] >= 1.0)
    if rule == DEEP_DELEGATION:
        return bool(seen.numbers[row, event_columns.DEPTH] > _MAX_CHAIN_DEPTH)
    if rule == REPORTED_COMPROMISE:
        return bool(event_type == event_columns.SIGNAL_HARD)
    if rule == FAILED_PROOF:
        return bool(event_type == event_columns.SIGNAL_PROOF)
    return bool(event_type == event_columns.SIGNAL_EVIDENCE)


@allocation_free
def _write_fired(
    rows: Rows,
    seen: SignalInput,
    weights: npt.NDArray[np.float64],
    of_signal_events: Flags,
    out: npt.NDArray[np.float64],
    fired: npt.NDArray[np.uint32],
) -> None:
    """Write the summed weight of each row's rules into *out* (n,); rule number r of the last row is bit r of *fired*.

    Args:
        weights: (RULES,), 0 for rules that are off.
        of_signal_events: (RULES,), see `HardSignal`.
    """
    for row in rows:
        out[row], fired[0] = 0.0, 0
        for rule in range(RULES):
            may_speak = of_signal_events[rule] or seen.flags[row] != IGNORED_EVENT
            if may_speak and weights[rule] > 0.0 and _fires(rule, seen, row):
                out[row] += weights[rule]
                fired[0] |= np.uint32(1) << np.uint32(rule)


HARD_SIGNALS: tuple[HardSignal, ...] = (
    HardSignal(
        "use_after_revocation",
        20.0,
        "token",
        "used a token that had been revoked",
        "an event carries a token id that an earlier token.revoke event of the same agent named",
        USE_AFTER_REVOCATION,
    ),
    HardSignal(
        "outside_capabilities",
        3.0,
        "capability",
        "action is not among the declared capabilities",
        "no capability that a trusted source or the registry gives the agent covers the action, by name or glob",
        OUTSIDE_CAPABILITIES,
        things=("action_surprise",),
    ),
    HardSignal(
        "unregistered_key",
        4.0,
        "credential",
        "authenticated with a key that is not known of it and was not announced",
        "a credential new to the agent appears outside a client.register or client.change event",
        UNREGISTERED_KEY,
        credential_of,
        things=("credential_surprise",),
    ),
    HardSignal(
        "method_downgrade",
        3.0,
        "authentication",
        "authenticated by a weaker method than the strongest that is known of it",
        "the client authentication method ranks below the strongest that the agent has used",
        METHOD_DOWNGRADE,
        credential_of,
        things=("credential_surprise",),
    ),
    HardSignal(
        "deep_delegation",
        2.0,
        "delegation",
        f"delegation chain is longer than {_MAX_CHAIN_DEPTH} actors",
        f"the delegation chain has more than {_MAX_CHAIN_DEPTH} actors",
        DEEP_DELEGATION,
        things=("chain_surprise", "chain_depth"),
    ),
    HardSignal(
        "reported_compromise",
        20.0,
        "signal",
        "a system that may speak for it says that it or a credential of it is compromised",
        "an event `signal.hard`: a transmitter of shared signals reports a compromise",
        REPORTED_COMPROMISE,
        of_signal_events=True,
    ),
    HardSignal(
        "failed_proof",
        4.0,
        "signal",
        "its token was presented with a proof that is not its own",
        "an event `signal.proof`: a bound token came with another key, or a proof came again",
        FAILED_PROOF,
        of_signal_events=True,
    ),
    HardSignal(
        "reported_evidence",
        2.0,
        "signal",
        "a system that may speak for it reports",
        "an event `signal.evidence`: a transmitter of shared signals reports what may be a sign of compromise",
        REPORTED_EVIDENCE,
        of_signal_events=True,
    ),
)


def hard_signal_codes() -> tuple[str, ...]:
    """Codes of all signals, in table order."""
    return tuple(signal.code for signal in HARD_SIGNALS)


class HardSignalRules:
    """The enabled part of the table.

    Args:
        disabled: codes that are switched off. Raises ValueError for a code that is not in the table.
    """

    def __init__(self, disabled: Collection[str] = ()) -> None:
        unknown = set(disabled) - set(hard_signal_codes())
        if unknown:
            codes = ", ".join(hard_signal_codes())
            raise ValueError(f"no such hard signal: {', '.join(sorted(unknown))}; there are {codes}")
        self._enabled = [signal for signal in HARD_SIGNALS if signal.code not in disabled]
        self._weights, self._of_signal_events = np.zeros(RULES), np.zeros(RULES, np.bool_)
        for signal in self._enabled:
            self._weights[signal.rule] = signal.weight
            self._of_signal_events[signal.rule] = signal.of_signal_events
        self._fired = np.zeros(1, np.uint32)

    def write_evidence(
        self,
        columns: EventColumns,
        rows: Rows,
        matrix: Matrix,
        observations: RowObservations,
        out: npt.NDArray[np.float64],
    ) -> None:
        """Write the summed weight of each row's signals into *out* (float64, shape (n,)); our own denials have none."""
        seen = SignalInput.of(columns, matrix, observations)
        _write_fired(rows, seen, self._weights, self._of_signal_events, out, self._fired)

    def fired_signals(
        self, columns: EventColumns, row: int, matrix: Matrix, observations: RowObservations
    ) -> list[HardSignal]:
        """Signals that fire on one row."""
        self.write_evidence(columns, np.array([row]), matrix, observations, np.zeros(len(columns)))
        fired = int(self._fired[0])
        return [signal for signal in self._enabled if fired >> signal.rule & 1]
