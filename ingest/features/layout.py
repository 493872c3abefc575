"""Layout of an agent's state: shapes and column numbers shared by the kernel and the builder.

State is struct-of-arrays: one row per resident agent in each array of `AgentState`. Nothing in it grows with what an
agent does: sets of names are tables of fixed size, sessions are a fixed number of slots.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from ..timestamps import DAY_MS

# Kinds of items whose frequency is learned. A conditional kind is counted given another item (its context).
KINDS = 21
(
    K_ACTION,
    K_RESOURCE,
    K_TARGET,
    K_AUDIENCE,
    K_PEER,
    K_PRINCIPAL,
    K_NETWORK,
    K_CREDENTIAL,
    K_SCOPES,
    K_CHAIN,
    K_EFFECT,
    K_HOUR,
    K_TRANSITION,
    K_ACTION_TARGET,
    K_REPEAT,
    K_PROVENANCE,
    K_OUTCOME,
    K_FROM,
    K_REQUEST_SIZE,
    K_ANSWER_SIZE,
    K_ARGUMENT,
) = range(KINDS)
SINGLE_KINDS = K_ARGUMENT
"""Kinds below this one have at most one item per event. An event has many arguments, which are counted separately;
their place among the items holds the one that stood out."""
VALUE_NUMBER, ROUTE_NUMBER, NEXT_NUMBER = 20, 21, 32
"""Numbers used in hashes of arguments' values, and of their routes by the first rule; the next rule has the next
number. They are not kinds, so adding a kind keeps what agents have learned of values. Up to `NEXT_NUMBER`, no kind has
one of them."""


def numbers_of_kinds(kinds: int) -> Array:
    """Return the number of each kind in hashes. That of arguments, the last kind, is always that of values; others skip
    reserved numbers.

    >>> numbers_of_kinds(23).tolist()[18:]
    [18, 19, 32, 33, 20]
    """
    numbers = np.arange(kinds, dtype=np.int64)
    numbers[VALUE_NUMBER:] += NEXT_NUMBER - VALUE_NUMBER
    numbers[kinds - 1] = VALUE_NUMBER
    return numbers


NUMBER_OF_KIND = numbers_of_kinds(KINDS)
NAMING = tuple(range(K_CHAIN + 1))
"""Kinds that name things: the first use of one is a new name (`Q_NOVELTY`). Order, manner and time have no names."""

# The region of an agent's table that a kind lives in: a flood of new objects cannot push out habits.
OBJECTS, HABITS, ORDER, MANNER, VALUES = range(5)
_KINDS_OF_REGION = {
    OBJECTS: (K_RESOURCE, K_TARGET, K_PRINCIPAL, K_ACTION_TARGET),
    HABITS: (
        *(K_ACTION, K_AUDIENCE, K_PEER, K_NETWORK, K_CREDENTIAL, K_SCOPES, K_CHAIN),
        *(K_EFFECT, K_HOUR, K_FROM),
    ),
    ORDER: (K_TRANSITION,),
    MANNER: (K_REPEAT, K_PROVENANCE, K_OUTCOME, K_REQUEST_SIZE, K_ANSWER_SIZE),
    VALUES: (K_ARGUMENT,),
}
_REGION_OF_KIND = {kind: region for region, kinds in _KINDS_OF_REGION.items() for kind in kinds}
REGION = np.array([_REGION_OF_KIND.get(kind, -1) for kind in range(KINDS)], dtype=np.int64)
TASK_KINDS = np.ones(KINDS, dtype=np.bool_)
TASK_KINDS[[K_NETWORK, K_CREDENTIAL, K_CHAIN, K_HOUR]] = False
"""True for kinds whose usual items follow from the declared task. A task determines the actions and targets; who acts,
from where and when belongs to the agent: others share the task, and their keys would make an agent's new key anomalous
forever."""

REGION_SIZE = 64
TABLE_SIZE = len(_KINDS_OF_REGION) * REGION_SIZE

# Quantities with a running mean and variance per agent and per scope.
QUANTITIES = 15
(
    Q_PACE_1M,
    Q_PACE_15M,
    Q_PACE_4H,
    Q_GAP,
    Q_BYTES_IN,
    Q_BYTES_OUT,
    Q_DURATION,
    Q_SESSION,
    Q_BREADTH,
    Q_DEPTH,
    Q_LIFETIME,
    Q_FAILURES,
    Q_DENIALS,
    Q_VOLUME,
    Q_NOVELTY,
) = range(QUANTITIES)
DRIFT_QUANTITIES = np.array([Q_PACE_4H, Q_VOLUME], dtype=np.int64)
"""Quantities with a slow reference, so that a slow ramp cannot carry its own baseline up."""

LAYOUT_GENERATION = 3
"""Increases when features are measured differently, or when columns of the state change their meaning but not their
shape: earlier states and models then no longer fit."""

# Columns of AgentState.numbers (float32).
N_PACE = 0  # decayed counts at the three half-lives
N_LEAD = 3  # seconds by which unauthenticated events are ahead of authenticated ones
N_FAILURES, N_DENIALS, N_VOLUME, N_NOVELTY = 4, 5, 6, 7
N_METHOD = 8  # strongest authentication learned
N_EVENTS = 9  # events learned
N_SEEN = 10  # per kind: occurrences learned
N_DISTINCT = N_SEEN + KINDS  # per kind: times an item was new, halved with the counts: an estimator, no count
N_MEAN = N_DISTINCT + KINDS
N_VAR = N_MEAN + QUANTITIES
N_COUNT = N_VAR + QUANTITIES
N_REF_MEAN = N_COUNT + QUANTITIES
N_REF_VAR = N_REF_MEAN + 2
N_REF_DAYS = N_REF_VAR + 2  # active days that the reference has seen
N_REF_AGE = N_REF_DAYS + 1  # days from the agent's first event to the last one in the reference
N_SHARED = N_REF_AGE + 1  # events of the agent that the shared baseline counts, too
NUMBERS = N_SHARED + 1

UNCOUNTED = 255
"""Value of `AgentState.known` if an agent's names were not counted from the beginning (see `frequency_tables`)."""

# Columns of AgentState.times (int64, UTC milliseconds; VERSION holds a hash).
T_LAST, T_FIRST, T_CHANGED, T_VERSION = range(4)
TIMES = 4

SESSIONS = 4
SESSION_TABLE = 12
S_EVENTS, S_STRANGE, S_CALLS, S_ANSWERS, S_COMPARED, S_LIKENESS = range(6)
SESSION_NUMBERS = 6
REMEMBERED_CALLS = 64
"""Number of a session's latest calls for which the state keeps whether others may have written their answers, one bit
each."""
REMEMBERED_SENSITIVE_CALLS = 32
"""The same for answers that are sensitive."""
ANY_UNTRUSTED, ANY_SENSITIVE = 1, 2
"""Lowest bits of `S_ANSWERS`: others may have written an answer of the session; one was sensitive."""
SESSION_TIME_BITS, MOST_SESSION_LAG_MS = 2, (1 << 22) - 2
"""Above them: 1 + milliseconds by which the latest attested work of the session is older than its agent's latest
attested event; 0 if there was none, or it is older than that (70 minutes). A float32 holds 24 bits exactly."""

REVOKED_TOKENS = 4
"""Hashes of the agent's most recently revoked tokens."""

TOKEN_USES = 8
"""Number of an agent's latest token uses that are remembered, one for each token and network."""

HALF_LIVES_S = (60.0, 900.0, 14_400.0)
FAILURE_HALF_LIFE_S = 3600.0
LEAST_VALUES = 10
"""Number of values of a period that a task or peer group must have shown before another one is new to it."""
LEARNED_VALUES = 8
"""Maximum values of one event that its agent learns, first those that others may have written: no single event flushes
the memory."""
VALUE_PERIOD_MS = 90 * DAY_MS
"""Length of the periods, counted from 1970, within which hashes of values are compared, because clients change their
keys. Keys that last for several periods cost some memory at their borders; shorter ones would make every value new."""
MOST_DISORDER_MS = 60_000
"""Time by which an event may be late and still be evidence of pace and order: that of parallel and slow calls."""
PARALLEL_MS = 1_000
"""Time by which an event may be older than another of its session and still be in order: that of simultaneous calls."""
DISORDER_STEP, MOST_UNORDERED, LEAST_DISORDER = np.float32(1.0 / 32.0), np.float32(0.1), np.float32(1e-6)
"""Constants for the share of an agent's recent work that came out of order in its sessions: how much each event moves
it, the share above which order may not be evidence, and the share below which it counts as 0."""
DOUBTED_WORK, DOUBTED_BEGINNING = 16, 4
"""Order is not evidence in this many events of work after one out of order in its session, or at a session's start,
while that share is above `MOST_UNORDERED`. One session does not affect the order of another that is in order."""
TIMED_QUANTITIES = (Q_PACE_1M, Q_PACE_15M, Q_PACE_4H, Q_GAP, Q_FAILURES, Q_DENIALS, Q_VOLUME, Q_NOVELTY)
"""Quantities that describe the state at the agent's latest time; they are not kept for other times."""
IMPLICIT_SESSION_GAP_MS = 30 * 60 * 1000
"""Pause that ends a session: a session is what the event states, or else activity without a pause of half an hour."""

Array = npt.NDArray[Any]


class AgentState(NamedTuple):
    """The agents' state as arrays with one row per slot. The annotations declare type and shape of a row."""

    times: Annotated[Array, np.int64, TIMES]
    numbers: Annotated[Array, np.float32, NUMBERS]
    table: Annotated[Array, np.uint32, TABLE_SIZE]  # 22 bits of fingerprint, 10 bits of count
    known: Annotated[Array, np.uint8, KINDS]  # different items learned while the kind's region had room, or UNCOUNTED
    session_id: Annotated[Array, np.uint64, SESSIONS]
    session_last: Annotated[Array, np.int64, SESSIONS]
    session_prev: Annotated[Array, np.uint64, SESSIONS]  # previous action
    session_numbers: Annotated[Array, np.float32, SESSIONS, SESSION_NUMBERS]
    session_untrusted: Annotated[Array, np.uint64, SESSIONS]  # bit i % 64 of call i: others may have written its answer
    session_sensitive: Annotated[Array, np.uint32, SESSIONS]  # bit i % 32 of call i: its answer was sensitive
    session_table: Annotated[Array, np.uint32, SESSIONS, SESSION_TABLE]  # uses of each action in the session
    revoked: Annotated[Array, np.uint64, REVOKED_TOKENS]
    disorder: Annotated[Array, np.float32, 1]  # share of the agent's recent events out of order in their sessions
    session_doubt: Annotated[Array, np.uint8, SESSIONS]  # events of work with doubted order while that share is high
    use_token: Annotated[Array, np.uint32, TOKEN_USES]  # upper half of the hash of a token, 0 = none
    use_network: Annotated[Array, np.uint32, TOKEN_USES]  # the same of the network that it was used from
    use_ms: Annotated[Array, np.int64, TOKEN_USES]  # when it was, last
    use_new: Annotated[Array, np.uint8, TOKEN_USES]  # KNOWN, NEW or ACCEPTED


_ROWS = {name: get_args(hint)[1:] for name, hint in get_type_hints(AgentState, include_extras=True).items()}

STATE_ROW = np.dtype([(name, dtype, shape) for name, (dtype, *shape) in _ROWS.items()])
"""One agent's state as it is stored: one row of each array in sequence."""

BYTES_PER_AGENT = STATE_ROW.itemsize


def allocate_state(slots: int) -> AgentState:
    """Allocate the state of *slots* new agents."""
    return AgentState(**{name: np.zeros((slots, *shape), dtype) for name, (dtype, *shape) in _ROWS.items()})


class Baseline(NamedTuple):
    """Normal behavior in each scope (fleet, tenant, peer group, task): an immutable snapshot shared by all agents."""

    keys: Array  # uint64 (capacity,): open addressing, 0 = free
    counts: Array  # float32 (capacity,)
    scope_keys: Array  # uint64 (scope capacity,)
    scope_rows: Array  # int32 (scope capacity,)
    totals: Array  # float32 (scopes, KINDS, 2): occurrences, distinct items
    means: Array  # float32 (scopes, QUANTITIES)
    variances: Array  # float32 (scopes, QUANTITIES)
    numbers: Array  # float32 (scopes, QUANTITIES): values seen


FLEET, TENANT, PEERS, TASK = range(4)
SCOPES = 4
