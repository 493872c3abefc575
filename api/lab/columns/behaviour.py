"""Frames of how agents behave, and with whom."""

from __future__ import annotations

from .column import WHO, Column

FRAMES: dict[str, tuple[Column, ...]] = {
    "profile": (
        Column("quantity", "name", "what is measured"),
        Column("unit", "name", "its unit"),
        Column("usual", "number", "the agent's usual value"),
        Column("low", "number", "one standard deviation below"),
        Column("high", "number", "one standard deviation above"),
        Column("peers", "number", "usual value of its peer group in the model"),
        Column("events", "number", "events behind it"),
    ),
    "habits": (
        Column("kind", "name", "action, target, audience, scopes, principal, network, credential, peer, hour"),
        Column("item", "text", "which one"),
        Column("events", "count", "events with it"),
        Column("share", "number", "of the events that have one of this kind"),
        Column("first", "time", "first event with it"),
        Column("last", "time", "last event with it"),
    ),
    "comparison": (
        Column("kind", "name", "as in `habits`"),
        Column("item", "text", "which one"),
        Column("events_a", "count", "events of A with it"),
        Column("events_b", "count", "events of B with it"),
        Column("share_a", "number", "of A's events of that kind"),
        Column("share_b", "number", "of B's"),
        Column("difference", "number", "share of B less that of A"),
    ),
    "distances": (
        Column("kind", "name", "as in `habits`"),
        Column("distance", "number", "Jensen-Shannon distance of the shares: 0 alike, 1 nothing in common"),
        Column("only_a", "count", "items that only A has"),
        Column("only_b", "count", "items that only B has"),
        Column("common", "count", "items of both"),
    ),
    "versions": (
        *WHO[:1],
        *WHO[2:],
        Column("agent_version", "name", "version"),
        Column("events", "count", "events of it"),
        Column("first", "time", "first of them"),
        Column("last", "time", "last of them"),
    ),
    "edges": (
        Column("kind", "name", "delegated, called, acts_for (a principal)"),
        Column("tenant", "name", "tenant"),
        Column("source", "name", "agent that acted"),
        Column("target", "name", "agent or principal"),
        Column("first", "time", "first seen"),
        Column("last", "time", "last seen, give or take an hour"),
        Column("risk", "number", "highest risk score of who acted, 0 to 1, as of `risk_time`"),
        Column("risk_time", "time", "when that was"),
    ),
    "blast_radius": (
        Column("depth", "count", "steps away"),
        Column("agent_id", "name", "agent reached"),
        Column("kind", "name", "delegated where every step was a delegation, else called"),
        Column("via", "name", "the agent before it"),
        Column("level", "level", "its own level; missing = never seen"),
        Column("first", "time", "first seen"),
        Column("last", "time", "last seen"),
        Column("risk", "number", "risk score of who acted over the last step"),
    ),
    "labels": (
        Column("id", "text", "id of the event"),
        Column("tenant", "name", "tenant"),
        Column("agent_id", "name", "agent"),
        Column("session", "text", "session"),
        Column("bad_event", "flag", "the event is bad"),
        Column("bad_session", "flag", "its session is"),
        Column("class", "name", "kind of attack"),
    ),
}
