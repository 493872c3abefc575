"""The choice of events that become habits: the parts of an event that are learned, live as in training.

An odd event is learned one time in so many. Always would make an attacker's target known after its first use, and never
would leave honest change odd for ever. Training calibrates under the same rule, so that p-values hold for what is live.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..ingest import columns as event_columns
from ..ingest.columns import EventColumns

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
    """
    agents = columns.names[rows, event_columns.AGENT_DRAW] if drawn_for is None else drawn_for
    lucky = sampled_for_learning(agents, columns.time_ms[rows])
    whole = lucky | (taught < MIN_LEARNED_EVENTS) | (p_values[rows] > ODD_P_VALUE)
    return np.where(whole, LEARN_ALL, announced_credentials(columns, rows)).astype(np.uint8)


def announced_credentials(columns: EventColumns, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Least parts of *rows* (m,) to learn, whatever else is known of the agent: uint8 (m,), CREDENTIAL or NOTHING.

    That a key was announced is a fact, not behaviour. An agent under suspicion, of which nothing else is learned, would
    otherwise be told to use a key that "was never registered", in each of its events.
    """
    types = columns.codes[rows, event_columns.TYPE]
    announced = (types == event_columns.CLIENT_CHANGE) | (types == event_columns.CLIENT_REGISTER)
    return np.where(announced, LEARN_CREDENTIAL, LEARN_NOTHING).astype(np.uint8)


def sampled_for_learning(agents: npt.NDArray[np.uint64], time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The draw of one in so many for events (n,) of these agents at these times; as good as random.

    Splitmix64: a product alone would draw every fifth event of an agent with a steady rhythm, or none of 150.
    """
    mixed = agents * np.uint64(0x9E3779B97F4A7C15) + time_ms.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) % LEARNED_ONE_IN == 0)
