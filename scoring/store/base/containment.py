"""What containment asks: interventions of people, actuations, edges between agents."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from ...containment import Actuation, Intervention
from ...records import AgentEdge, OutboxRow
from .paging import Page, Tenants


class ContainmentStore(Protocol):
    """What people ordered, what actuators did, and who had to do with whom."""

    def add_intervention(self, made: Intervention, outbox: Sequence[OutboxRow] = ()) -> bool:
        """Write a new intervention together with what has to leave; False = its id is known, and nothing is written."""

    def change_intervention(self, made: Intervention, was: str, outbox: Sequence[OutboxRow] = ()) -> bool:
        """Overwrite an intervention whose status still is *was*, together with what has to leave; whether it was."""

    def intervention(self, intervention_id: str, tenants: Tenants = None) -> Intervention | None:
        """One intervention."""

    def open_interventions(self) -> list[Intervention]:
        """All that have an effect or wait for a person."""

    def interventions_since(self, updated_ms: int) -> list[Intervention]:
        """Those changed at *updated_ms* or later, oldest change first."""

    def list_interventions(
        self,
        tenants: Tenants = None,
        kind: str | None = None,
        status: str | None = None,
        agent_key: int | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Intervention]:
        """Interventions, newest first. Raises BadCursor."""

    def enqueue(self, rows: Sequence[OutboxRow]) -> None:
        """Add outbox rows; those whose key is there already change nothing."""

    def want(self, wanted: Actuation) -> Actuation | None:
        """Note what an actuator is to bring about, unless something newer is wanted already (then None).

        What was there before anything was lowered (`original`) stays; returns the row as it is then.
        """

    def actuation(self, target: str, agent_key: int) -> Actuation | None:
        """What one actuator has to do with one agent."""

    def keep_original(self, target: str, agent_key: int, original: bytes) -> bytes:
        """Keep what the server had, unless something is kept already; returns what is kept."""

    def settle_actuation(self, done: Actuation) -> bool:
        """Write how it ended; False = something newer is wanted meanwhile, and nothing was written."""

    def list_actuations(
        self,
        tenants: Tenants = None,
        agent_key: int | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Actuation]:
        """Actuations, last changed first. Raises BadCursor."""

    def edges(
        self, keys: Collection[int], *, outgoing: bool, kinds: Collection[str], since_ms: int = 0, limit: int = 1_000
    ) -> list[AgentEdge]:
        """Edges that leave (or reach) the nodes of those keys, last seen first within a chunk of keys."""

    def purge_containment(
        self, before_ms: int, *, actuations_before_ms: int | None = None, edges_before_ms: int | None = None
    ) -> int:
        """Remove what is finished and older; what is lowered at a server stays. Returns the number of rows.

        Actuations and edges may have a time of their own; None is *before_ms*.
        """
