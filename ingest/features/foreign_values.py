"""Values that others may have written and that are new for a task, whatever the call does with them.

`argument_origin` covers calls that act. A call that only reads can carry a secret away, too, as the address of a
page that is opened; but some tools are meant for such values (the code that a mail brings), so the caller must know how
often honest calls of the tool do it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import columns
from ..columns import EventColumns
from ..compilation import allocation_free
from . import layout
from .argument_origin import KNOWN_VALUES, NEW_TO_PEERS, NEW_TO_TASK, novelty_to_peers
from .feature_kernel import scope_keys
from .feature_vector import F_ARGUMENT
from .frequency_tables import period_item, shared_count
from .layout import Array, Baseline
from .row_observations import NO_FOREIGN, RowObservations


def foreign_values(
    batch: EventColumns,
    rows: npt.NDArray[np.int64],
    baseline: Baseline,
    observations: RowObservations,
    vectors: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Novelty (n,) of the values of others that calls use, as values of `argument_origin`; 0 for other *rows*."""
    out = np.zeros(len(batch))
    _write_foreign_values(
        rows,
        batch.names,
        batch.codes,
        batch.time_ms,
        baseline,
        observations,
        vectors,
        np.zeros(layout.SCOPES, np.uint64),
        out,
    )
    return out


@allocation_free
def _write_foreign_values(
    rows: Array,
    names: Array,
    codes: Array,
    time_ms: Array,
    baseline: Baseline,
    observations: RowObservations,
    vectors: Array,
    scopes: Array,
    out: Array,
) -> None:
    for row in rows:
        out[row] = vectors[row, F_ARGUMENT]
        if out[row] != KNOWN_VALUES or codes[row, columns.UNTRUSTED_RESULT] == columns.UNTRACED:
            continue
        scope_keys(scopes, names[row])
        scope, new = scopes[layout.TASK], NEW_TO_TASK
        if scope == 0:
            scope = scopes[layout.PEERS]
        elif shared_count(baseline, scope, period_item(time_ms[row])) < layout.LEAST_VALUES:
            scope, new = scopes[layout.PEERS], NEW_TO_PEERS
        for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
            looked_up = observations.is_foreign[argument] != NO_FOREIGN and observations.values[argument] != 0
            value = observations.values[argument]
            if looked_up and shared_count(baseline, scope, value) == 0.0:
                out[row] = max(out[row], novelty_to_peers(baseline, scope, scopes[layout.PEERS], value, new))
