"""Evidence that is not a feature: new networks, targets that no person named, and what an agent's state lacks.

New networks: how rare one is in an agent's history, and tokens in use from two networks, one of them new.

The network counts of an agent count events, and a thousand of them are soon reached. But networks change by days: an
agent that met k different ones in d days is expected to meet another one on k of d + 2 days (Laplace's rule of
succession).
"""

from __future__ import annotations

import numpy as np

from .. import columns
from ..compilation import allocation_free, inlined
from ..events import PROVENANCES
from . import layout
from .agent_clock import NEVER_VOUCHED_S
from .frequency_tables import own_count, shared_count
from .layout import AgentState, Array, Baseline
from .row_observations import RowObservations

EVENTS_OF_A_NETWORK = 100.0
"""Events per known network from which another one is rare: behind a pool of addresses, new networks are expected."""
KNOWN, NEW, ACCEPTED = range(3)
"""Values of `AgentState.use_new`: a network was known, or new and rare, when its use was noted; or a person has
confirmed the agent since."""


@inlined
def new_network_probability(new_kinds: np.uint32, numbers: Array, known: Array, age_days: float) -> float:
    """Return the share of days on which the agent's history expects a new network; 1 if the event's network is not new
    or not rare."""
    if (new_kinds >> np.uint32(layout.K_NETWORK)) & np.uint32(1) == 0:
        return 1.0
    counted = known[layout.K_NETWORK] != layout.UNCOUNTED
    networks = max(float(known[layout.K_NETWORK] if counted else numbers[layout.N_DISTINCT + layout.K_NETWORK]), 1.0)
    if np.float64(numbers[layout.N_EVENTS]) < networks * EVENTS_OF_A_NETWORK:
        return 1.0
    return float(min(networks / (age_days + 2.0), 1.0))


@inlined
def _is_accepted(networks: Array, new: Array, network: np.uint32) -> bool:
    found = False
    for k in range(layout.TOKEN_USES):
        found = found or (networks[k] == network and new[k] == ACCEPTED)
    return found


@allocation_free
def note_token_use(state: AgentState, slot: int, names: Array, codes: Array, at_ms: int, is_new: bool) -> int:
    """Record the use of a token; return the milliseconds to its use from another network if one of the two was new and
    rare, otherwise -1.

    A use is work. The order of events does not matter: the honest agent may continue after the thief.
    """
    is_work = codes[columns.TYPE] >= columns.FIRST_WORK
    if (
        names[columns.TOKEN] == 0 or names[columns.NETWORK] == 0 or not is_work
    ):  # an authorization server sees other networks than a resource does
        return -1
    token = np.uint32(names[columns.TOKEN] >> np.uint64(32)) | np.uint32(1)
    network = np.uint32(names[columns.NETWORK] >> np.uint64(32)) | np.uint32(1)
    tokens, networks, times, new = (
        state.use_token[slot],
        state.use_network[slot],
        state.use_ms[slot],
        state.use_new[slot],
    )
    mark = KNOWN if not is_new else ACCEPTED if _is_accepted(networks, new, network) else NEW
    gap_ms, place, oldest = np.int64(-1), -1, 0
    for k in range(layout.TOKEN_USES):
        oldest = k if times[k] < times[oldest] else oldest
        if tokens[k] != token:
            continue
        if networks[k] == network:
            place = k
        elif mark == NEW or new[k] == NEW:
            apart = np.int64(abs(at_ms - times[k]))
            gap_ms = apart if gap_ms < 0 else min(gap_ms, apart)
    if place < 0:
        place = oldest
        tokens[place], networks[place], times[place], new[place] = token, network, at_ms, mark
    times[place] = max(times[place], at_ms)
    return int(gap_ms)


@inlined
def write_new_network(
    observations: RowObservations, row: int, state: AgentState, slot: int, names: Array, codes: Array, at_ms: int
) -> None:
    """Write the evidence of an event's network. A refused request is not a use, and self-asserted events prove nothing.

    The caller that revokes or introspects a token, or changes a client, need not be the agent.
    """
    event_type = codes[columns.TYPE]
    is_by_agent = event_type < columns.TOKEN_REVOKE or event_type >= columns.FIRST_WORK
    if codes[columns.SELF_ASSERTED] != 0 or codes[columns.OUTCOME] != columns.SUCCESS or not is_by_agent:
        return
    new_kinds, age_days = observations.new_kinds[row], observations.age_days[row]
    share = new_network_probability(new_kinds, state.numbers[slot], state.known[slot], age_days)
    observations.new_network_p[row] = share
    observations.token_gap_ms[row] = note_token_use(state, slot, names, codes, at_ms, share < 1.0)


def accept_new_networks(state: AgentState, slot: int) -> None:
    """Record that a person confirmed an agent, and so accepted the networks in use."""
    state.use_new[slot] = np.where(state.use_new[slot] == NEW, ACCEPTED, state.use_new[slot])


# Kernel of reported targets: a call in an unknown task, to a target that, according to the sender, no person named.
#
# Senders may report whether the person named a target, or whether it came from an answer (`derived`) or from nowhere
# (`new`). In a task without remembered targets every target is new, even those that the person named; a target that no
# person named suggests another actor. It is not a feature: it can only add evidence (`models.concerns`), so a sender
# that lies removes no more evidence than one that reports nothing.


UNNAMED = tuple(PROVENANCES.index(name) for name in ("derived", "new"))
"""Codes of provenances of targets that no person named."""
LEAST_TARGETS = 10
"""Number of targets that a peer group must have shown before another one is new to it."""

_DERIVED, _NEW = (np.int64(code) for code in UNNAMED)


@inlined
def is_told_new(codes: Array, target: np.uint64, scopes: Array, rows: Array, baseline: Baseline, table: Array) -> bool:
    """Return whether an event of a task without history has a target that no person named and no agent has used."""
    told, peers = codes[columns.PROVENANCE], rows[layout.PEERS]
    if (told != _DERIVED and told != _NEW) or target == 0:
        return False
    if scopes[layout.TASK] == 0 or rows[layout.TASK] >= 0 or peers < 0:
        return False
    if baseline.totals[peers, layout.K_TARGET, 0] < LEAST_TARGETS:
        return False
    is_new = shared_count(baseline, scopes[layout.PEERS], target) == 0.0
    return bool(is_new and own_count(table, layout.K_TARGET, target) == 0.0)


# Evidence that is missing according to an agent's state: of order, if its sessions arrive shuffled, and of habits, if
# its work is unauthenticated. It is only displayed; no score depends on it.


def unordered_sessions(disorder: Array, session_last: Array, session_doubt: Array) -> Array:
    """Return the latest sessions of agents, int64 (n,) of 0 to `layout.SESSIONS`, in which order is not evidence.

    Args:
        disorder: (n, 1), as `AgentState` has it.
        session_last: (n, `layout.SESSIONS`), likewise.
        session_doubt: (n, `layout.SESSIONS`), likewise.
    """
    found = np.zeros(len(disorder), np.int64)
    rows = np.flatnonzero(disorder[:, 0] > layout.MOST_UNORDERED)  # few of the many that a pipeline may hold
    found[rows] = ((session_last[rows] != 0) & (session_doubt[rows] > 0)).sum(axis=1)
    return found


def used_sessions(row: Array) -> int:
    """Return how many of an agent's latest sessions its state remembers, 0 to `layout.SESSIONS`."""
    return int((row["session_last"] != 0).sum())


def was_never_vouched(row: Array) -> bool:
    """Return whether an agent has never had an attested event."""
    return bool(row["numbers"][layout.N_LEAD] >= NEVER_VOUCHED_S)


def is_latest_unvouched(row: Array) -> bool:
    """Return whether an agent's latest events, and its sessions of the 70 minutes before, are self-asserted.

    A request for a token is not work, so an authenticated one next to unauthenticated work makes no difference unless
    it is the latest event: the state does not count unauthenticated events.
    """
    if row["numbers"][layout.N_LEAD] <= 0.0:
        return False
    vouched_ms = int(row["times"][layout.T_LAST]) - round(float(row["numbers"][layout.N_LEAD]) * 1000.0)
    recent = row["session_last"] >= vouched_ms - layout.MOST_SESSION_LAG_MS
    recent &= row["session_last"] != 0
    has_vouched_work = row["session_numbers"][:, layout.S_ANSWERS].astype(np.int64) >> layout.SESSION_TIME_BITS > 0
    return bool(recent.any() and not has_vouched_work.any())
