"""New networks: how rare one is by an agent's history, and tokens in use from two networks, one of them new.

What agents learn of networks counts events, and a thousand of them are soon gathered. But networks change by days: an
agent that met k different ones in d days is expected to meet another one on k of d + 2 days (Laplace's rule of
succession).
"""

from __future__ import annotations

import numpy as np

from .. import columns
from ..compilation import allocation_free, inlined
from . import layout
from .layout import AgentState, Array
from .row_observations import RowObservations

EVENTS_OF_A_NETWORK = 100.0
"""Events for each known network from which another one is rare: behind a pool of addresses, new ones are expected."""
KNOWN, NEW, ACCEPTED = range(3)
"""Values of `AgentState.use_new`: a network was known, or new and rare, when its use was noted; or a person has
confirmed the agent since."""


@inlined
def new_network_probability(new_kinds: np.uint32, numbers: Array, known: Array, age_days: float) -> float:
    """Share of days on which the agent's history expects a new network; 1 if the event's is not new or not rare."""
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
    """Note the use of a token, and return the milliseconds between it and that of the same token from another network,
    if one of both was new and rare; otherwise -1.

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
    """Writes the evidence of an event's network. A refused request is not a use, and unauthenticated claims prove
    nothing.

    Who revokes or introspects a token, or changes a client, need not be the agent.
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
    """Records that a person confirmed an agent, and so the networks that its tokens are used from."""
    state.use_new[slot] = np.where(state.use_new[slot] == NEW, ACCEPTED, state.use_new[slot])
