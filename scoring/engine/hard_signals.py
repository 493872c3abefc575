"""Hard signals: rules next to the model, in one table. Each has a name, weight and reason, and can be off."""

from __future__ import annotations

from collections.abc import Callable, Collection
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.compilation import allocation_free, inlined
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.event_words import credential_of, network_of
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.features.row_observations import IGNORED_EVENT, RowObservations

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

_MAX_CHAIN_DEPTH = 5


IN_FULL, AS_SIGN, TO_HIGH, OF_MEDIUM = range(4)
"""Columns of evidence of hard signals: in full, as a *sign*, or to *high* at most. A sign refers to a token, session or
system and not to the agent's own behavior: signs raise a level to *medium* at most until that behavior agrees
(`risk_levels`). The last column belongs to no rule: what the event brings at least, as a part of the evidence for
*medium* (`round_kernels.keep_new_networks`)."""
COUNTS = 4


class HardSignal(NamedTuple):
    """One rule. `weight` is its evidence (natural log); medium begins near 6 to 10 and critical near 9 to 14."""

    code: str
    weight: float
    feature: str
    text: str
    meaning: str
    rule: int
    observed: Callable[[NativeEvent], str] = attrgetter("action")
    """The value seen, as its reason names it."""
    counts: int = IN_FULL
    """Column of its evidence: `IN_FULL`, `AS_SIGN` or `TO_HIGH`."""
    of_ignored_events: bool = False
    """True for rules about what others report of an agent, or do with its token: such events are not behavior, and no
    other rule uses them.
    """
    things: tuple[str, ...] = ()
    """Features of the things that make it fire: had one of them been usual, it would not have fired."""


RULES = 10
(
    USE_AFTER_REVOCATION,
    REFUSED_REVOKED_TOKEN,
    TOKEN_ON_TWO_NETWORKS,
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
    """The facts that rules look at, one row per event of a batch."""

    codes: npt.NDArray[np.int8]  # of its columns
    numbers: npt.NDArray[np.float64]  # likewise
    vectors: Matrix
    token_reuse: npt.NDArray[np.uint8]  # this and the next three as in `RowObservations`
    token_gap_ms: npt.NDArray[np.int64]
    new_kinds: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint8]
    most_gap_ms: float  # setting


@inlined
def _fires(rule: int, seen: SignalInput, row: int) -> bool:
    """Return whether a rule fires on a row, as its `meaning` describes."""
    event_type = seen.codes[row, event_columns.TYPE]
    if rule in (USE_AFTER_REVOCATION, REFUSED_REVOKED_TOKEN):
        is_denied = seen.codes[row, event_columns.OUTCOME] == event_columns.DENIED
        return bool(seen.token_reuse[row] != 0 and is_denied == (rule == REFUSED_REVOKED_TOKEN))
    if rule == TOKEN_ON_TWO_NETWORKS:
        return bool(0 <= seen.token_gap_ms[row] <= seen.most_gap_ms)
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
    counts: Rows,
    of_ignored_events: Flags,
    out: Matrix,
    fired: npt.NDArray[np.uint32],
) -> None:
    """Write the summed weights of each row's rules into *out* (n, COUNTS). Bit r of *fired* is rule r of the last row.

    Args:
        weights: (RULES,), 0 for rules that are off.
        counts, of_ignored_events: (RULES,), see `HardSignal`.
    """
    for row in rows:
        out[row, :], fired[0] = 0.0, 0
        for rule in range(RULES):
            may_speak = of_ignored_events[rule] or seen.flags[row] != IGNORED_EVENT
            if may_speak and weights[rule] > 0.0 and _fires(rule, seen, row):
                out[row, counts[rule]] += weights[rule]
                fired[0] |= np.uint32(1) << np.uint32(rule)


HARD_SIGNALS: tuple[HardSignal, ...] = (
    HardSignal(
        "use_after_revocation",
        20.0,
        "token",
        "used a token that had been revoked",
        "an event that was not denied carries a token id that an earlier token.revoke event of the agent named",
        USE_AFTER_REVOCATION,
    ),
    HardSignal(
        "refused_revoked_token",
        4.0,
        "token",
        "a token of it that had been revoked was presented, and refused",
        "a denied event carries such a token id",
        REFUSED_REVOKED_TOKEN,
        counts=AS_SIGN,
        of_ignored_events=True,
    ),
    HardSignal(
        "token_on_two_networks",
        20.0,
        "token",
        "one token is in use from two networks, one of them new to it",
        "one token was used from two networks within 300 s, one of them new to the agent, and rare "
        "by its history; raises to *high* at most",
        TOKEN_ON_TWO_NETWORKS,
        network_of,
        counts=TO_HIGH,
        things=("network_surprise",),
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
        "a system that is authorized for it reports that the agent or one of its credentials is compromised",
        "an event `signal.hard`: a transmitter of shared signals reports a compromise",
        REPORTED_COMPROMISE,
        of_ignored_events=True,
    ),
    HardSignal(
        "failed_proof",
        4.0,
        "signal",
        "its token was presented with a proof that is not its own",
        "an event `signal.proof`: a bound token came with another key, or a proof came again",
        FAILED_PROOF,
        counts=AS_SIGN,
        of_ignored_events=True,
    ),
    HardSignal(
        "reported_evidence",
        2.0,
        "signal",
        "a system that is authorized for it reports",
        "an event `signal.evidence`: a transmitter of shared signals reports what may be a sign of compromise, or a "
        "bound token came without its proof",
        REPORTED_EVIDENCE,
        counts=AS_SIGN,
        of_ignored_events=True,
    ),
)


def hard_signal_codes() -> tuple[str, ...]:
    """Return the codes of all signals in table order."""
    return tuple(signal.code for signal in HARD_SIGNALS)


MOST_TOKEN_GAP_MS = 300_000.0
"""Most time between two uses of one token from two networks: within it, one client can hardly have moved."""


class HardSignalRules:
    """The hard signals that are enabled."""

    def __init__(self, disabled: Collection[str] = ()) -> None:
        unknown = set(disabled) - set(hard_signal_codes())
        if unknown:
            codes = ", ".join(hard_signal_codes())
            raise ValueError(f"no such hard signal: {', '.join(sorted(unknown))}; there are {codes}")
        self._enabled = [signal for signal in HARD_SIGNALS if signal.code not in disabled]
        self._weights, self._of_ignored_events = np.zeros(RULES), np.zeros(RULES, np.bool_)
        self._counts = np.zeros(RULES, np.int64)
        for signal in self._enabled:
            self._weights[signal.rule], self._counts[signal.rule] = signal.weight, signal.counts
            self._of_ignored_events[signal.rule] = signal.of_ignored_events
        self._fired = np.zeros(1, np.uint32)

    def write_evidence(
        self,
        columns: EventColumns,
        rows: Rows,
        matrix: Matrix,
        observations: RowObservations,
        out: Matrix,
    ) -> None:
        """Write the summed weights of each row's signals into *out* (n, COUNTS). Our own denials have none."""
        observed = observations.token_reuse, observations.token_gap_ms, observations.new_kinds, observations.flags
        seen = SignalInput(columns.codes, columns.numbers, matrix, *observed, MOST_TOKEN_GAP_MS)
        _write_fired(rows, seen, self._weights, self._counts, self._of_ignored_events, out, self._fired)

    def fired_signals(
        self, columns: EventColumns, row: int, matrix: Matrix, observations: RowObservations
    ) -> list[HardSignal]:
        """Return the signals that fire on one row."""
        self.write_evidence(columns, np.array([row]), matrix, observations, np.zeros((len(columns), COUNTS)))
        fired = int(self._fired[0])
        return [signal for signal in self._enabled if fired >> signal.rule & 1]
