"""What an event touched, and in which order: the items whose frequencies are learned."""

from __future__ import annotations

import math

import numpy as np

from .. import columns as c
from ..compiled import inlined
from . import layout as l
from .layout import Array
from .sessions import use_bucket
from .tables import hash_pair, item_hash

_DAY_MS = 86_400_000
_WEEK_MS = 7 * _DAY_MS
_EPOCH_WEEK_OFFSET = 3 * _DAY_MS
_MAX_ITEM_BYTES = 1e18


@inlined
def _part_of_week_item(at_ms: int) -> np.uint64:
    """Part of the week: eight parts of a day of three hours, weekdays and weekend apart (1 to 16)."""
    in_week = (at_ms + _EPOCH_WEEK_OFFSET) % _WEEK_MS
    weekend = 1 if in_week >= 5 * _DAY_MS else 0
    return np.uint64(1 + (in_week % _DAY_MS) // (3 * 3_600_000) + 8 * weekend)


@inlined
def _size_item(kind: int, action: np.uint64, size: float) -> np.uint64:
    """Size of an action's request or answer in thirds of an octave: a template, a code, a page have usual sizes."""
    third = np.uint64(3.0 * math.log2(1.0 + min(size, _MAX_ITEM_BYTES)))
    return item_hash(kind, hash_pair(action, third + np.uint64(1)))


@inlined
def write_items(
    items: Array,
    contexts: Array,
    names: Array,
    values: Array,
    codes: Array,
    at_ms: int,
    prev: np.uint64,
    uses: np.int64,
) -> None:
    """Items of one event: what it touched, and in which order."""
    plain = (
        (l.K_ACTION, c.ACTION),
        (l.K_RESOURCE, c.RESOURCE),
        (l.K_TARGET, c.TARGET),
        (l.K_AUDIENCE, c.AUDIENCE),
        (l.K_PEER, c.PEER),
        (l.K_PRINCIPAL, c.PRINCIPAL),
        (l.K_NETWORK, c.NETWORK),
        (l.K_CREDENTIAL, c.CREDENTIAL),
        (l.K_SCOPES, c.SCOPES),
        (l.K_CHAIN, c.CHAIN),
    )
    for kind, column in plain:
        if names[column] != 0:
            items[kind] = item_hash(kind, names[column])
    action = names[c.ACTION]
    items[l.K_EFFECT] = item_hash(l.K_EFFECT, np.uint64(codes[c.EFFECT] + 1))
    items[l.K_HOUR] = item_hash(l.K_HOUR, _part_of_week_item(at_ms))
    items[l.K_TRANSITION] = item_hash(l.K_TRANSITION, hash_pair(prev + np.uint64(1), action))
    items[l.K_FROM] = contexts[l.K_TRANSITION] = item_hash(l.K_FROM, prev + np.uint64(1))
    if names[c.TARGET] != 0:
        items[l.K_ACTION_TARGET] = item_hash(l.K_ACTION_TARGET, hash_pair(action, names[c.TARGET]))
        contexts[l.K_ACTION_TARGET] = items[l.K_ACTION]
    bucket = np.uint64(use_bucket(uses))
    items[l.K_REPEAT] = item_hash(l.K_REPEAT, hash_pair(action, bucket))
    contexts[l.K_REPEAT] = item_hash(l.K_REPEAT, hash_pair(action, np.uint64(1)))
    if codes[c.PROVENANCE] >= 0:
        items[l.K_PROVENANCE] = item_hash(l.K_PROVENANCE, hash_pair(action, np.uint64(codes[c.PROVENANCE] + 1)))
        contexts[l.K_PROVENANCE] = items[l.K_ACTION]
    items[l.K_OUTCOME] = item_hash(l.K_OUTCOME, hash_pair(action, np.uint64(codes[c.OUTCOME] + 1)))
    contexts[l.K_OUTCOME] = items[l.K_ACTION]
    if values[c.BYTES_IN] >= 0.0:
        items[l.K_REQUEST_SIZE] = _size_item(l.K_REQUEST_SIZE, action, values[c.BYTES_IN])
        contexts[l.K_REQUEST_SIZE] = items[l.K_ACTION]
    if values[c.BYTES_OUT] >= 0.0:
        items[l.K_ANSWER_SIZE] = _size_item(l.K_ANSWER_SIZE, action, values[c.BYTES_OUT])
        contexts[l.K_ANSWER_SIZE] = items[l.K_ACTION]
