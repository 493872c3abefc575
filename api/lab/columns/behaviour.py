"""Frames of how agents behave, and with whom."""

from __future__ import annotations

from .column import AGENT_COLUMNS, FrameColumn

BEHAVIOUR_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "profile": (
        FrameColumn("quantity", "name", "what is measured"),
        FrameColumn("unit", "name", "its unit"),
        FrameColumn("usual", "number", "the agent's usual value"),
        FrameColumn("low", "number", "one standard deviation below"),
        FrameColumn("high", "number", "one standard deviation above"),
        FrameColumn("peers", "number", "usual value of its peer group in the model"),
        FrameColumn("events", "number", "events behind it"),
    ),
    "habits": (
        FrameColumn("kind", "name", "action, target, audience, scopes, principal, network, credential, peer, hour"),
        FrameColumn("item", "text", "which one"),
        FrameColumn("events", "count", "events with it"),
        FrameColumn("share", "number", "of the events that have one of this kind"),
        FrameColumn("first", "time", "first event with it"),
        FrameColumn("last", "time", "last event with it"),
    ),
    "comparison": (
        FrameColumn("kind", "name", "as in `habits`"),
        FrameColumn("item", "text", "which one"),
        FrameColumn("events_a", "count", "events of A with it"),
        FrameColumn("events_b", "count", "events of B with it"),
        FrameColumn("share_a", "number", "of A's events of that kind"),
        FrameColumn("share_b", "number", "of B's"),
        FrameColumn("difference", "number", "share of B less that of A"),
    ),
    "distances": (
        FrameColumn("kind", "name", "as in `habits`"),
        FrameColumn("distance", "number", "Jensen-Shannon distance of the shares: 0 alike, 1 nothing in common"),
        FrameColumn("only_a", "count", "items that only A has"),
        FrameColumn("only_b", "count", "items that only B has"),
        FrameColumn("common", "count", "items of both"),
    ),
    "versions": (
        *AGENT_COLUMNS[:1],
        *AGENT_COLUMNS[2:],
        FrameColumn("agent_version", "name", "version"),
        FrameColumn("events", "count", "events of it"),
        FrameColumn("first", "time", "first of them"),
        FrameColumn("last", "time", "last of them"),
    ),
    "edges": (
        FrameColumn("kind", "name", "delegated, called, acts_for (a principal)"),
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("source", "name", "agent that acted"),
        FrameColumn("target", "name", "agent or principal"),
        FrameColumn("first", "time", "first seen"),
        FrameColumn("last", "time", "last seen, give or take an hour"),
        FrameColumn("risk", "number", "highest risk score of who acted, 0 to 1, as of `risk_time`"),
        FrameColumn("risk_time", "time", "when that was"),
    ),
    "blast_radius": (
        FrameColumn("depth", "count", "steps away"),
        FrameColumn("agent_id", "name", "agent reached"),
        FrameColumn("kind", "name", "delegated where every step was a delegation, else called"),
        FrameColumn("via", "name", "the agent before it"),
        FrameColumn("level", "level", "its own level; missing = never seen"),
        FrameColumn("first", "time", "first seen"),
        FrameColumn("last", "time", "last seen"),
        FrameColumn("risk", "number", "risk score of who acted over the last step"),
    ),
    "labels": (
        FrameColumn("id", "text", "id of the event"),
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("agent_id", "name", "agent"),
        FrameColumn("session", "text", "session"),
        FrameColumn("bad_event", "flag", "the event is bad"),
        FrameColumn("bad_session", "flag", "its session is"),
        FrameColumn("class", "name", "kind of attack"),
    ),
}
