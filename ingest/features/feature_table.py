"""The feature table: every feature once, in the order of the feature vector, with all that other modules read of it.

All features point one way: higher is more suspicious. *bits* are surprise, `-log2` of the probability that the item has
for this agent: declared task over own history over peer group, tenant and fleet, each level weighed by how much it has
seen (Witten-Bell). *z* is the distance from the agent's usual value in standard deviations, shrunk towards its peer
group.

A row is the whole declaration: reasons, weights, what counts once, composites and the table of `reference/features.md`
follow from it. What does not add up is an error at import.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from . import layout
from .event_words import (
    argument_of,
    audience_of,
    credential_of,
    hour_of,
    network_of,
    principal_of,
    resource_of,
    scopes_of,
    target_of,
)
from .feature_declaration import (
    BITS,
    BY_LEVEL,
    FLAG,
    ONCE,
    RANK,
    SHARE,
    Carried,
    Compared,
    Drifted,
    Feature,
    Item,
    PeersKnow,
    Quantity,
    Sentence,
    Strongest,
    Z,
    check,
    check_kinds,
)
from .layout import LAYOUT_GENERATION

FEATURES: tuple[Feature, ...] = (
    Feature(
        "pace_1m",
        "pace",
        Z,
        0.3,
        "pace",
        "events decayed with a half-life of one minute, against the agent's usual",
        Quantity(
            layout.Q_PACE_1M,
            "{} events in the last minutes (older ones count less)",
            "events in the last minutes",
            "events",
        ),
        label="pace, 1 min",
    ),
    Feature(
        "pace_15m",
        "pace",
        Z,
        0.3,
        "pace",
        "events decayed with a half-life of 15 minutes, against the agent's usual",
        Quantity(
            layout.Q_PACE_15M,
            "{} events in the last quarter hour (older ones count less)",
            "events in the last quarter hour",
            "events",
            ("events in the last quarter hour", ""),
        ),
        label="pace, 15 min",
    ),
    Feature(
        "pace_4h",
        "pace",
        Z,
        0.3,
        "pace",
        "events decayed with a half-life of four hours, against the agent's usual",
        Quantity(
            layout.Q_PACE_4H,
            "{} events in the last hours (older ones count less)",
            "events in the last hours",
            "events",
            ("events in the last hours", ""),
        ),
        label="pace, 4 h",
        counts=BY_LEVEL,
        overreach=True,
    ),
    Feature(
        "dormancy",
        "pace",
        Z,
        0.3,
        "pause",
        "time since the agent's last event, against its usual pauses",
        Quantity(layout.Q_GAP, "{} s of silence", "pause before an event", "s", ("pause before an event", "s")),
    ),
    Feature(
        "action_surprise",
        "rarity",
        BITS,
        1.0,
        "action",
        "how unusual the action is for the task and agent",
        Item(layout.K_ACTION, "actions", lambda event: event.action, profile="actions"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "resource_surprise",
        "rarity",
        BITS,
        0.5,
        "resource",
        "how unusual the resource is for the task and agent",
        Item(layout.K_RESOURCE, "resources", resource_of, profile="resources"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "target_surprise",
        "rarity",
        BITS,
        1.0,
        "target",
        "how unusual the destination is for the task and agent",
        Item(layout.K_TARGET, "targets", target_of, profile="destinations"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "audience_surprise",
        "rarity",
        BITS,
        0.75,
        "audience",
        "how unusual the token audience is for the agent",
        Item(layout.K_AUDIENCE, "audiences", audience_of, profile="audiences"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "peer_surprise",
        "rarity",
        BITS,
        1.0,
        "peer agent",
        "how unusual the called or calling agent is (edge caller to callee)",
        Item(layout.K_PEER, "peer agents", lambda event: event.peer or "no peer", profile="peer agents"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "principal_surprise",
        "rarity",
        BITS,
        0.5,
        "principal",
        "how unusual it is that the agent acts for this principal",
        Item(layout.K_PRINCIPAL, "principals", principal_of, profile="principals"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "network_surprise",
        "rarity",
        BITS,
        0.4,
        "network",
        "how unusual the client's network is for the agent",
        Item(layout.K_NETWORK, "networks", network_of, profile="networks"),
        counts=ONCE,
        caller=True,
        compromise=True,
    ),
    Feature(
        "credential_surprise",
        "rarity",
        BITS,
        0.75,
        "credential",
        "how unusual the credential (method and key) is for the agent",
        Item(layout.K_CREDENTIAL, "credentials", credential_of, profile="credentials"),
        counts=ONCE,
        caller=True,
        compromise=True,
    ),
    Feature(
        "scope_surprise",
        "rarity",
        BITS,
        0.75,
        "scope set",
        "how unusual the set of requested scopes is for the agent",
        Item(layout.K_SCOPES, "scope sets", scopes_of, profile="sets of scopes"),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "action_rarity_peers",
        "rarity",
        BITS,
        0.5,
        "action",
        "how unusual the action is among the other agents of its peer group; 0 if there are none",
        Carried(layout.K_ACTION, among_peers=True),
        label="action among its peers",
        restates=(layout.K_ACTION,),
        compromise=True,
    ),
    Feature(
        "identity_shift",
        "rarity",
        BITS,
        0.25,
        "habit",
        "how much better the peer group explains the event than the agent's own past",
        PeersKnow((layout.K_ACTION, layout.K_RESOURCE, layout.K_NETWORK)),
        restates=(layout.K_ACTION, layout.K_RESOURCE, layout.K_NETWORK),
        compromise=True,
    ),
    Feature(
        "hour_surprise",
        "time",
        BITS,
        0.25,
        "time of week",
        "how unusual the time of day (three hours, weekend apart) is",
        Item(layout.K_HOUR, "times of the week", hour_of, singular="time of the week"),
        counts=ONCE,
    ),
    Feature(
        "transition_surprise",
        "order",
        BITS,
        0.5,
        "order of actions",
        "surprise of the action after the previous one of the session",
        Item(
            layout.K_TRANSITION,
            "orders of actions",
            lambda event: f"{event.action} right after the action before it",
            behind=layout.K_FROM,
            singular="order of actions",
            profile="orders of actions",
            first="{name}, for the first time",
            forgotten="{name}, an order that is not remembered of it",
            unusual="{name}, a rare order",
        ),
        counts=ONCE,
        new_with=(layout.K_ACTION,),
        compromise=True,
    ),
    Feature(
        "action_target_surprise",
        "order",
        BITS,
        1.0,
        "action on a target",
        "how unusual the action is together with its target",
        Item(
            layout.K_ACTION_TARGET,
            "uses of actions on targets",
            lambda event: f"{event.action} on {target_of(event)}",
            behind=layout.K_ACTION,
            singular="use of an action on a target",
        ),
        counts=ONCE,
        new_with=(layout.K_ACTION, layout.K_TARGET),
        compromise=True,
    ),
    Feature(
        "repeat_surprise",
        "order",
        BITS,
        0.5,
        "repetition",
        "how unusual it is to use the action so many times in one session",
        Item(
            layout.K_REPEAT,
            "counts of repeated actions",
            lambda event: f"{event.action} again",
            behind=layout.K_REPEAT,
            singular="count of a repeated action",
            first="{name}, more often in one session than is known of it",
            forgotten="{name}, more often in one session than is remembered of it",
            unusual="{name}, more often in one session than usual",
        ),
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "effect_surprise",
        "effect",
        BITS,
        0.5,
        "effect",
        "how unusual the effect (read, write, delete, admin) is for the agent",
        Item(layout.K_EFFECT, "effects", lambda event: event.effect or "unknown"),
        compromise=True,
    ),
    Feature(
        "write_surprise",
        "effect",
        BITS,
        1.0,
        "change",
        "largest surprise of action, target and order, weighed by its effect",
        Strongest((layout.K_ACTION, layout.K_TARGET, layout.K_ACTION_TARGET, layout.K_TRANSITION)),
        parts=("action_surprise", "target_surprise", "action_target_surprise", "transition_surprise"),
        compromise=True,
    ),
    Feature(
        "outcome_surprise",
        "failure",
        BITS,
        0.75,
        "outcome",
        "how unusual the outcome is for the action",
        Item(layout.K_OUTCOME, "outcomes", lambda event: f"{event.action}: {event.outcome}", behind=layout.K_ACTION),
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "request_size_surprise",
        "failure",
        BITS,
        0.5,
        "request size",
        "how unusual the size of the request is for the action",
        Item(
            layout.K_REQUEST_SIZE,
            "request sizes",
            lambda event: f"{event.bytes_in or 0:,.0f} bytes to {event.action}",
            behind=layout.K_ACTION,
        ),
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "answer_size_surprise",
        "failure",
        BITS,
        1.0,
        "answer size",
        "how unusual the size of the answer is for the action",
        Item(
            layout.K_ANSWER_SIZE,
            "answer sizes",
            lambda event: f"{event.bytes_out or 0:,.0f} bytes from {event.action}",
            behind=layout.K_ACTION,
        ),
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "failure_pace",
        "failure",
        Z,
        0.25,
        "failures",
        "errors decayed with a half-life of one hour, against the usual",
        Quantity(
            layout.Q_FAILURES,
            "{} errors in the last hour (older ones count less)",
            "errors in the last hour",
            "events",
            ("errors in the last hour", ""),
        ),
    ),
    Feature(
        "denial_pace",
        "failure",
        Z,
        0.25,
        "denials",
        "denials decayed with a half-life of one hour, against the usual",
        Quantity(
            layout.Q_DENIALS,
            "{} denials in the last hour (older ones count less)",
            "denials in the last hour",
            "events",
            ("denials in the last hour", ""),
        ),
    ),
    Feature(
        "scope_breadth",
        "privilege",
        Z,
        0.5,
        "number of scopes",
        "number of requested scopes, against the usual",
        Quantity(layout.Q_BREADTH, "{} scopes", "requested scopes", "scopes", ("scopes asked for", "")),
        overreach=True,
        compromise=True,
    ),
    Feature(
        "scope_gap",
        "privilege",
        SHARE,
        1.0,
        "ungranted scopes",
        "share of requested scopes not granted",
        Sentence(
            "{value:.0%} of the requested scopes not granted",
            "all that were requested are expected",
            "{value:.0%} of the requested scopes not granted",
        ),
        overreach=True,
        compromise=True,
    ),
    Feature(
        "outside_capabilities",
        "privilege",
        FLAG,
        1.0,
        "capability",
        "the action is not a declared capability",
        Sentence("{action}", "its declared capabilities", "{action} is not among the agent's declared capabilities"),
        signalled=True,
        overreach=True,
        compromise=True,
    ),
    Feature(
        "chain_surprise",
        "delegation",
        BITS,
        0.75,
        "delegation chain",
        "how unusual the chain of actors is for the agent",
        Item(
            layout.K_CHAIN,
            "delegation chains",
            lambda event: " <- ".join(event.delegation or []) or "no delegation",
            profile="delegation chains",
        ),
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "chain_depth",
        "delegation",
        Z,
        0.75,
        "delegation depth",
        "actors in the delegation chain, against the usual",
        Quantity(layout.Q_DEPTH, "{} actors", "actors in the delegation chain", "actors", ("delegation depth", "")),
        overreach=True,
        compromise=True,
    ),
    Feature(
        "provenance_surprise",
        "provenance",
        BITS,
        0.5,
        "provenance",
        "how unusual the origin of the argument is for the action",
        Item(layout.K_PROVENANCE, "origins", argument_of, behind=layout.K_ACTION),
        counts=ONCE,
        new_with=(layout.K_ACTION,),
        compromise=True,
    ),
    Feature(
        "external_target",
        "provenance",
        BITS,
        1.0,
        "external target",
        "surprise of a target outside of the tenant",
        Carried(layout.K_TARGET),
        parts=("target_surprise",),
        compromise=True,
    ),
    Feature(
        "bytes_in",
        "volume",
        Z,
        0.5,
        "bytes in",
        "bytes sent to the tool or API, against the usual",
        Quantity(layout.Q_BYTES_IN, "{} bytes in", "bytes in", "bytes", ("size of a request", "bytes")),
    ),
    Feature(
        "bytes_out",
        "volume",
        Z,
        0.5,
        "bytes out",
        "bytes returned, against the usual",
        Quantity(layout.Q_BYTES_OUT, "{} bytes out", "bytes out", "bytes", ("size of an answer", "bytes")),
    ),
    Feature(
        "duration",
        "volume",
        Z,
        0.3,
        "duration",
        "duration of the call, against the usual",
        Quantity(layout.Q_DURATION, "{} ms", "duration", "ms", ("duration", "ms")),
    ),
    Feature(
        "volume_1h",
        "volume",
        Z,
        0.3,
        "volume",
        "bytes decayed with a half-life of one hour, against the usual",
        Quantity(
            layout.Q_VOLUME,
            "{} bytes in the last hour (older ones count less)",
            "bytes in the last hour",
            "bytes",
            ("bytes in the last hour", ""),
        ),
        counts=BY_LEVEL,
        overreach=True,
    ),
    Feature(
        "novelty_1h",
        "rarity",
        Z,
        0.3,
        "new names",
        "names new to the agent, decayed over an hour, against the usual",
        Quantity(
            layout.Q_NOVELTY,
            "{} new names in the last hour (older ones count less)",
            "new names in the last hour",
            "names",
            ("new names in the last hour", ""),
        ),
        counts=BY_LEVEL,
        gathers_new=layout.NAMING,
        overreach=True,
    ),
    Feature(
        "session_length",
        "session",
        Z,
        0.3,
        "session length",
        "events in the session so far, against the usual",
        Quantity(
            layout.Q_SESSION,
            "{} events in the session",
            "events in the session so far",
            "events",
            ("events in a session so far", ""),
        ),
        overreach=True,
    ),
    Feature(
        "session_strangeness",
        "session",
        BITS,
        0.5,
        "session",
        "surprise gathered over the last events of the session",
        Sentence(
            "unusual steps, one after the other",
            "few of them",
            "unusual steps have gathered over the last events of the session",
        ),
        gathers=(layout.K_TRANSITION, layout.K_TARGET, layout.K_ACTION_TARGET),
    ),
    Feature(
        "token_lifetime",
        "token",
        Z,
        0.5,
        "token lifetime",
        "requested token lifetime, against the usual",
        Quantity(layout.Q_LIFETIME, "{} s of token lifetime", "token lifetime", "s", ("token lifetime", "s")),
        overreach=True,
        compromise=True,
    ),
    Feature(
        "method_downgrade",
        "token",
        RANK,
        1.0,
        "authentication",
        "client authentication weaker than usual, in ranks",
        Sentence(
            "{credential}",
            "a stronger method",
            "authentication by a weaker method than the strongest that is known of this agent: {credential}",
        ),
        signalled=True,
        caller=True,
        compromise=True,
    ),
    Feature(
        "drift",
        "drift",
        Z,
        0.75,
        "slow drift",
        "pace or volume beyond three deviations of the agent's slow reference",
        Drifted(),
        overreach=True,
    ),
    Feature(
        "argument_origin",
        "flow",
        RANK,
        1.0,
        "origin of arguments",
        "a call that may change something takes a value of others: 3 if it is new to every task of the peer group, 2 "
        "if it is new to its task, 1.5 if nothing is remembered of the task and it is new to the peer group, else 1",
        Sentence(
            "{foreign_arguments}",
            "values that are known of the task",
            "a value that is not known of this task was taken out of an answer that others may have written, and "
            "given to {action}: {foreign_arguments}",
        ),
        added=True,
    ),
    Feature(
        "habits_of_others",
        "session",
        BITS,
        1.0,
        "habits of others",
        "1 plus the mean bits by which the habits of its peers explain an agent's session better than its own do; 0 if "
        "too little is known of either",
        Compared(),
        counts=BY_LEVEL,
        restates=(layout.K_ACTION, layout.K_TARGET),
        added=True,
    ),
    Feature(
        "argument_route",
        "flow",
        RANK,
        1.0,
        "route of arguments",
        "as `argument_origin`, for the route of a value without a hash: 2 if it is new to the task, 1.5 if the answer "
        "is not marked untrusted, or if nothing is remembered of the task and it is new to the peer group",
        Sentence(
            "{argument_routes}",
            "ways that were used before",
            "a value out of an earlier answer was given to {action} by a way that this task never used: "
            "{argument_routes}",
        ),
        added=True,
    ),
    Feature(
        "sensitive_route",
        "flow",
        RANK,
        1.0,
        "way of sensitive data",
        "a call sends a value out of a sensitive answer: 2 if the route is new to the task, 1.5 and 1 as in "
        "`argument_origin`; 0 without sensitive types",
        Sentence(
            "{sensitive_routes}",
            "ways that were used before",
            "what came out of a sensitive answer was sent out with {action}, which this task never did: "
            "{sensitive_routes}",
        ),
        added=True,
    ),
)

check_kinds(layout.REGION.tolist(), layout.K_ARGUMENT)
check(FEATURES)

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
FEATURE_COUNT = len(FEATURES)
FEATURE_INDEX = {name: position for position, name in enumerate(FEATURE_NAMES)}

ITEMS: dict[int, Item] = {
    explanation.kind: explanation
    for explanation in (feature.explanation for feature in FEATURES)
    if isinstance(explanation, Item)
}
"""Explanation by kind of item, in the order of the table."""
QUANTITIES: dict[int, Quantity] = {
    explanation.quantity: explanation
    for explanation in (feature.explanation for feature in FEATURES)
    if isinstance(explanation, Quantity)
}
"""Explanation by quantity, in the order of the table."""


def _positions(position_of: dict[int, int], size: int) -> npt.NDArray[np.int64]:
    return np.array([position_of.get(number, -1) for number in range(size)], dtype=np.int64)


FEATURE_OF_KIND = _positions(
    {
        feature.explanation.kind: position
        for position, feature in enumerate(FEATURES)
        if isinstance(feature.explanation, Item)
    },
    layout.KINDS,
)
"""Position of the surprise of each kind of item, -1 = it has none."""
FEATURE_OF_QUANTITY = _positions(
    {
        feature.explanation.quantity: position
        for position, feature in enumerate(FEATURES)
        if isinstance(feature.explanation, Quantity)
    },
    layout.QUANTITIES,
)
CONTEXT_KIND = _positions({kind: item.behind for kind, item in ITEMS.items()}, layout.KINDS)
"""Kind of the item that each kind is conditional on, -1 = none."""

ADDED_FEATURES: tuple[bool, ...] = tuple(feature.added for feature in FEATURES)
COMPROMISE_FEATURES: tuple[bool, ...] = tuple(feature.compromise for feature in FEATURES)
OVERREACH_FEATURES: tuple[bool, ...] = tuple(feature.overreach for feature in FEATURES)

FEATURE_IMPORTANCE: tuple[float, ...] = tuple(feature.importance for feature in FEATURES)
"""Weight of each feature for trust, by its meaning: *what* an agent does, to whom and with which rights, and what
came back, says most; objects change from job to job, addresses from place to place; how fast and when it works varies
honestly with its load, and only supports other evidence, but for what no day's load explains (drift). The order is by
meaning; the steps were chosen with an eye on labelled figures of the development traces, so those figures flatter it
(decision 0012)."""


def feature_table_hash() -> str:
    """Digest of names, units and ranges in their order, and of how they are measured: a model fits only the table that
    it was trained on."""
    text = f"{LAYOUT_GENERATION}\n" + "\n".join(f"{f.name}|{f.unit}|{f.low}|{f.high}" for f in FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
