"""The choice of events that become habits: the parts of an event that are learned, live as in training.

An odd event is learned one time in so many. Always would make an attacker's target known after its first use, and never
would leave honest change odd for ever. Training calibrates under the same rule, so that p-values hold for what is live.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.compilation import allocation_free, inlined

from .input_checks import WrongShape

ODD_P_VALUE = 0.05
"""p-value up to which an event is odd."""

LEARNED_ONE_IN = np.uint64(8)
"""Number of odd events of which one is learned."""

MIN_LEARNED_EVENTS = 3
"""Events that an agent must have taught before its odd ones are drawn for: the first of a new agent are odd by nature
(its key, its targets), and with one in eight of them it would be critical before it knew itself."""

LEARN_NOTHING, LEARN_ALL, LEARN_CREDENTIAL = 0, 1, 2
"""Parts of an event to learn (see `ingest.features.feature_kernel.learn`)."""


def learnable_parts(
    columns: EventColumns,
    rows: npt.NDArray[np.int64],
    p_values: npt.NDArray[np.float64],
    taught: npt.NDArray[np.float32] | npt.NDArray[np.int64],
    drawn_for: npt.NDArray[np.uint64] | None = None,
) -> npt.NDArray[np.uint8]:
    """Parts of each of *rows* that may be learned, as far as its oddness goes.

    The key that an authorization server announces for a client is no habit to be doubted; whatever else an odd
    announcement names is doubted as in any event. The draw follows from agent and time: a replay makes the same.

    Args:
        rows: (m,), rows of the batch.
        p_values: (n,), in (0, 1], per row of the batch.
        taught: (m,), events that each row's agent has taught before.
        drawn_for: (m,), what the draw takes for the agent of each row, a hash of its name by default. Training gives
            numbers in the order of appearance: what agents are called then changes nothing.

    Returns:
        uint8 (m,): NOTHING, ALL or CREDENTIAL.

    Raises:
        WrongShape: *taught* or *drawn_for* is not (m,).
    """
    agents = columns.names[rows, event_columns.AGENT_DRAW] if drawn_for is None else drawn_for
    if taught.shape != rows.shape or agents.shape != rows.shape:  # the kernel reads them unasked
        raise WrongShape(f"{rows.shape} rows, but taught of shape {taught.shape}, agents of shape {agents.shape}")
    types, parts = columns.codes[rows, event_columns.TYPE], np.empty(len(rows), np.uint8)
    _write_parts(agents, columns.time_ms[rows], types, taught, p_values[rows], parts)
    return parts


@inlined
def announced_part(event_type: int) -> int:
    """Least part of an event of a type to learn, whatever else is known: LEARN_CREDENTIAL or LEARN_NOTHING.

    That a key was announced is a fact, not behaviour. An agent under suspicion, of which nothing else is learned, would
    otherwise be told to use a key that "was never registered", in each of its events.
    """
    if event_type == event_columns.CLIENT_CHANGE or event_type == event_columns.CLIENT_REGISTER:
        return LEARN_CREDENTIAL
    return LEARN_NOTHING


@inlined
def learnable_part(agent: np.uint64, at_ms: int, event_type: int, taught: float, p_value: float) -> int:
    """Part of one event that may be learned; arguments as for `learnable_parts`."""
    if taught < MIN_LEARNED_EVENTS or p_value > ODD_P_VALUE or is_drawn(agent, at_ms):
        return LEARN_ALL
    return announced_part(event_type)


@inlined
def is_drawn(agent: np.uint64, at_ms: int) -> bool:
    """Draw one in so many of an agent's events, by their times, UTC milliseconds; as good as random.

    Splitmix64: a product alone would draw every fifth event of an agent with a steady rhythm, or none of 150.
    """
    mixed = agent * np.uint64(0x9E3779B97F4A7C15) + np.uint64(at_ms)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bool((mixed ^ (mixed >> np.uint64(31))) % LEARNED_ONE_IN == 0)


@allocation_free
def _write_parts(
    agents: npt.NDArray[np.uint64],
    time_ms: npt.NDArray[np.int64],
    types: npt.NDArray[np.int8],
    taught: npt.NDArray[np.float32] | npt.NDArray[np.int64],
    p_values: npt.NDArray[np.float64],
    parts: npt.NDArray[np.uint8],
) -> None:
    for row in range(len(parts)):
        parts[row] = learnable_part(agents[row], time_ms[row], types[row], taught[row], p_values[row])
