"""Hard signals: rules beside the model, in one table. Each has a name, a weight and a reason; each can be off."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.columns import EventColumns
from ...ingest.events import NativeEvent
from ...ingest.features import layout
from ...ingest.features.event_words import credential_of
from ...ingest.features.feature_table import FEATURE_INDEX
from ...ingest.features.row_observations import IGNORED_EVENT, RowObservations

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

_MAX_CHAIN_DEPTH = 5


class SignalInput(NamedTuple):
    """Facts that a rule may look at: a batch, and what the feature builder observed in it."""

    columns: EventColumns
    matrix: Matrix
    observations: RowObservations


def _action_of(event: NativeEvent) -> str:
    return event.action


class HardSignal(NamedTuple):
    """One rule. `weight` is evidence, natural log; medium begins near 6 to 10 and critical near 9 to 14."""

    code: str
    weight: float
    feature: str
    text: str
    meaning: str
    fires: Callable[[SignalInput, Rows], Flags]
    observed: Callable[[NativeEvent], str] = _action_of
    """The value seen, as its reason names it."""
    of_signal_events: bool = False
    """True for rules about what others say of an agent: such events are no behaviour, and no other rule looks at them.
    """


def _use_after_revocation(seen: SignalInput, rows: Rows) -> Flags:
    return np.asarray(seen.observations.token_reuse[rows] != 0)


def _outside_capabilities(seen: SignalInput, rows: Rows) -> Flags:
    return np.asarray(seen.columns.codes[rows, event_columns.CAPABILITY] == event_columns.OUTSIDE)


def _unregistered_key(seen: SignalInput, rows: Rows) -> Flags:
    types = seen.columns.codes[rows, event_columns.TYPE]
    announced = (types == event_columns.CLIENT_CHANGE) | (types == event_columns.CLIENT_REGISTER)
    new = (seen.observations.new_kinds[rows] >> np.uint32(layout.K_CREDENTIAL)) & np.uint32(1)
    return np.asarray(~announced & (new != 0))


def _method_downgrade(seen: SignalInput, rows: Rows) -> Flags:
    return np.asarray(seen.matrix[rows, FEATURE_INDEX["method_downgrade"]] >= 1.0)


def _deep_delegation(seen: SignalInput, rows: Rows) -> Flags:
    return np.asarray(seen.columns.numbers[rows, event_columns.DEPTH] > _MAX_CHAIN_DEPTH)


def _of_type(signal_type: int) -> Callable[[SignalInput, Rows], Flags]:
    """A rule that fires on the events of a type."""
    return lambda seen, rows: np.asarray(seen.columns.codes[rows, event_columns.TYPE] == signal_type)


HARD_SIGNALS: tuple[HardSignal, ...] = (
    HardSignal(
        "use_after_revocation",
        20.0,
        "token",
        "used a token that had been revoked",
        "an event carries a token id that an earlier token.revoke event of the same agent named",
        _use_after_revocation,
    ),
    HardSignal(
        "outside_capabilities",
        3.0,
        "capability",
        "action is not among the declared capabilities",
        "the action is not in the capabilities that a trusted source or the registry gives the agent",
        _outside_capabilities,
    ),
    HardSignal(
        "unregistered_key",
        4.0,
        "credential",
        "authenticated with a key that is not known of it and was not announced",
        "a credential new to the agent appears outside a client.register or client.change event",
        _unregistered_key,
        credential_of,
    ),
    HardSignal(
        "method_downgrade",
        3.0,
        "authentication",
        "authenticated by a weaker method than the strongest that is known of it",
        "the client authentication method ranks below the strongest that the agent has used",
        _method_downgrade,
        credential_of,
    ),
    HardSignal(
        "deep_delegation",
        2.0,
        "delegation",
        f"delegation chain is longer than {_MAX_CHAIN_DEPTH} actors",
        f"the delegation chain has more than {_MAX_CHAIN_DEPTH} actors",
        _deep_delegation,
    ),
    HardSignal(
        "reported_compromise",
        20.0,
        "signal",
        "a system that may speak for it says that it or a credential of it is compromised",
        "an event `signal.hard`: a transmitter of shared signals reports a compromise",
        _of_type(event_columns.SIGNAL_HARD),
        of_signal_events=True,
    ),
    HardSignal(
        "failed_proof",
        4.0,
        "signal",
        "its token was presented with a proof that is not its own",
        "an event `signal.proof`: a bound token came with another key, or a proof came again",
        _of_type(event_columns.SIGNAL_PROOF),
        of_signal_events=True,
    ),
    HardSignal(
        "reported_evidence",
        2.0,
        "signal",
        "a system that may speak for it reports",
        "an event `signal.evidence`: a transmitter of shared signals reports what may be a sign of compromise",
        _of_type(event_columns.SIGNAL_EVIDENCE),
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

    def write_evidence(
        self,
        columns: EventColumns,
        rows: Rows,
        matrix: Matrix,
        observations: RowObservations,
        out: npt.NDArray[np.float64],
    ) -> None:
        """Write the summed weight of each row's signals into *out* (float64, shape (n,)); our own denials have none."""
        seen = SignalInput(columns, matrix, observations)
        behaves = observations.flags[rows] != IGNORED_EVENT
        out[rows] = 0.0
        for signal in self._enabled:
            spoken_of = signal.fires(seen, rows)
            out[rows] += signal.weight * (spoken_of if signal.of_signal_events else spoken_of & behaves)

    def fired_signals(
        self, columns: EventColumns, row: int, matrix: Matrix, observations: RowObservations
    ) -> list[HardSignal]:
        """Signals that fire on one row."""
        ignored = observations.flags[row] == IGNORED_EVENT
        seen, rows = SignalInput(columns, matrix, observations), np.array([row])
        asked = (signal for signal in self._enabled if signal.of_signal_events or not ignored)
        return [signal for signal in asked if signal.fires(seen, rows)[0]]
