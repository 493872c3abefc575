"""The feature table: every feature once, in the order of the feature vector, with all that other modules read about it.

All features point one way: higher is more suspicious. *bits* are surprise, `-log2` of the probability that the item has
for this agent: declared task over own history over peer group, tenant and fleet, each level weighed by how much it has
seen (Witten-Bell). *z* is the distance from the agent's usual value in standard deviations, shrunk towards its peer
group.

A row is the whole declaration: reasons, weights, what counts once, composites and the table of `reference/features.md`
follow from it. A row that contradicts another is an error at import.
"""

from __future__ import annotations

import hashlib
from functools import partial

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

_name_surprise = partial(Feature, family="rarity", counts=ONCE, compromise=True)
"""Surprise of what an event names: who acts, and on what."""
_load = partial(Feature, unit=Z, importance=0.3)
"""Distance of a quantity that honestly varies with an agent's load."""

FEATURES: tuple[Feature, ...] = (
    _load(
        "pace_1m",
        "pace",
        "events decayed with a half-life of one minute, against the agent's usual",
        Quantity(
            layout.Q_PACE_1M,
            "{} events in the last minutes (older ones count less)",
            "events in the last minutes",
            "events",
        ),
        family="pace",
        label="pace, 1 min",
    ),
    _load(
        "pace_15m",
        "pace",
        "events decayed with a half-life of 15 minutes, against the agent's usual",
        Quantity(
            layout.Q_PACE_15M,
            "{} events in the last quarter hour (older ones count less)",
            "events in the last quarter hour",
            "events",
            ("events in the last quarter hour", ""),
        ),
        family="pace",
        label="pace, 15 min",
    ),
    _load(
        "pace_4h",
        "pace",
        "events decayed with a half-life of four hours, against the agent's usual",
        Quantity(
            layout.Q_PACE_4H,
            "{} events in the last hours (older ones count less)",
            "events in the last hours",
            "events",
            ("events in the last hours", ""),
        ),
        family="pace",
        label="pace, 4 h",
        counts=BY_LEVEL,
        overreach=True,
    ),
    _load(
        "dormancy",
        "pause",
        "time since the agent's last event, against its usual pauses",
        Quantity(layout.Q_GAP, "{} s of silence", "pause before an event", "s", ("pause before an event", "s")),
        family="pace",
    ),
    _name_surprise(
        "action_surprise",
        "action",
        "how unusual the action is for the task and agent",
        Item(layout.K_ACTION, "actions", lambda event: event.action, profile="actions"),
    ),
    _name_surprise(
        "resource_surprise",
        "resource",
        "how unusual the resource is for the task and agent",
        Item(layout.K_RESOURCE, "resources", resource_of, profile="resources"),
        importance=0.5,
    ),
    _name_surprise(
        "target_surprise",
        "target",
        "how unusual the destination is for the task and agent",
        Item(layout.K_TARGET, "targets", target_of, profile="destinations"),
    ),
    _name_surprise(
        "audience_surprise",
        "audience",
        "how unusual the token audience is for the agent",
        Item(layout.K_AUDIENCE, "audiences", audience_of, profile="audiences"),
        importance=0.75,
    ),
    _name_surprise(
        "peer_surprise",
        "peer agent",
        "how unusual the called or calling agent is (edge caller to callee)",
        Item(layout.K_PEER, "peer agents", lambda event: event.peer or "no peer", profile="peer agents"),
    ),
    _name_surprise(
        "principal_surprise",
        "principal",
        "how unusual it is that the agent acts for this principal",
        Item(layout.K_PRINCIPAL, "principals", principal_of, profile="principals"),
        importance=0.5,
    ),
    _name_surprise(
        "network_surprise",
        "network",
        "how unusual the client's network is for the agent",
        Item(layout.K_NETWORK, "networks", network_of, profile="networks"),
        importance=0.4,
        caller=True,
    ),
    _name_surprise(
        "credential_surprise",
        "credential",
        "how unusual the credential (method and key) is for the agent",
        Item(layout.K_CREDENTIAL, "credentials", credential_of, profile="credentials"),
        importance=0.75,
        caller=True,
    ),
    _name_surprise(
        "scope_surprise",
        "scope set",
        "how unusual the set of requested scopes is for the agent",
        Item(layout.K_SCOPES, "scope sets", scopes_of, profile="sets of scopes"),
        importance=0.75,
    ),
    Feature(
        "action_rarity_peers",
        "action",
        "how unusual the action is among the other agents of its peer group; 0 if there are none",
        Carried(layout.K_ACTION, among_peers=True),
        family="rarity",
        importance=0.5,
        label="action among its peers",
        restates=(layout.K_ACTION,),
        compromise=True,
    ),
    Feature(
        "identity_shift",
        "habit",
        "how much better the peer group explains the event than the agent's own past",
        PeersKnow((layout.K_ACTION, layout.K_RESOURCE, layout.K_NETWORK)),
        family="rarity",
        importance=0.25,
        restates=(layout.K_ACTION, layout.K_RESOURCE, layout.K_NETWORK),
        compromise=True,
    ),
    Feature(
        "hour_surprise",
        "time of week",
        "how unusual the time of day (three hours, weekend apart) is",
        Item(layout.K_HOUR, "times of the week", hour_of, singular="time of the week"),
        family="time",
        importance=0.25,
        counts=ONCE,
    ),
    Feature(
        "transition_surprise",
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
        family="order",
        importance=0.5,
        counts=ONCE,
        new_with=(layout.K_ACTION,),
        compromise=True,
    ),
    Feature(
        "action_target_surprise",
        "action on a target",
        "how unusual the action is together with its target",
        Item(
            layout.K_ACTION_TARGET,
            "uses of actions on targets",
            lambda event: f"{event.action} on {target_of(event)}",
            behind=layout.K_ACTION,
            singular="use of an action on a target",
        ),
        family="order",
        counts=ONCE,
        new_with=(layout.K_ACTION, layout.K_TARGET),
        compromise=True,
    ),
    Feature(
        "repeat_surprise",
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
        family="order",
        importance=0.5,
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "effect_surprise",
        "effect",
        "how unusual the effect (read, write, delete, admin) is for the agent",
        Item(layout.K_EFFECT, "effects", lambda event: event.effect or "unknown"),
        family="effect",
        importance=0.5,
        compromise=True,
    ),
    Feature(
        "write_surprise",
        "change",
        "largest surprise of action, target and order, weighed by its effect",
        Strongest((layout.K_ACTION, layout.K_TARGET, layout.K_ACTION_TARGET, layout.K_TRANSITION)),
        family="effect",
        parts=("action_surprise", "target_surprise", "action_target_surprise", "transition_surprise"),
        compromise=True,
    ),
    Feature(
        "outcome_surprise",
        "outcome",
        "how unusual the outcome is for the action",
        Item(layout.K_OUTCOME, "outcomes", lambda event: f"{event.action}: {event.outcome}", behind=layout.K_ACTION),
        family="failure",
        importance=0.75,
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "request_size_surprise",
        "request size",
        "how unusual the size of the request is for the action",
        Item(
            layout.K_REQUEST_SIZE,
            "request sizes",
            lambda event: f"{event.bytes_in or 0:,.0f} bytes to {event.action}",
            behind=layout.K_ACTION,
        ),
        family="failure",
        importance=0.5,
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "answer_size_surprise",
        "answer size",
        "how unusual the size of the answer is for the action",
        Item(
            layout.K_ANSWER_SIZE,
            "answer sizes",
            lambda event: f"{event.bytes_out or 0:,.0f} bytes from {event.action}",
            behind=layout.K_ACTION,
        ),
        family="failure",
        new_with=(layout.K_ACTION,),
    ),
    Feature(
        "failure_pace",
        "failures",
        "errors decayed with a half-life of one hour, against the usual",
        Quantity(
            layout.Q_FAILURES,
            "{} errors in the last hour (older ones count less)",
            "errors in the last hour",
            "events",
            ("errors in the last hour", ""),
        ),
        family="failure",
        unit=Z,
        importance=0.25,
    ),
    Feature(
        "denial_pace",
        "denials",
        "denials decayed with a half-life of one hour, against the usual",
        Quantity(
            layout.Q_DENIALS,
            "{} denials in the last hour (older ones count less)",
            "denials in the last hour",
            "events",
            ("denials in the last hour", ""),
        ),
        family="failure",
        unit=Z,
        importance=0.25,
    ),
    Feature(
        "scope_breadth",
        "number of scopes",
        "number of requested scopes, against the usual",
        Quantity(layout.Q_BREADTH, "{} scopes", "requested scopes", "scopes", ("scopes asked for", "")),
        family="privilege",
        unit=Z,
        importance=0.5,
        overreach=True,
        compromise=True,
    ),
    Feature(
        "scope_gap",
        "ungranted scopes",
        "share of requested scopes not granted",
        Sentence(
            "{value:.0%} of the requested scopes not granted",
            "all that were requested are expected",
            "{value:.0%} of the requested scopes not granted",
        ),
        family="privilege",
        unit=SHARE,
        overreach=True,
        compromise=True,
    ),
    Feature(
        "outside_capabilities",
        "capability",
        "the action is not a declared capability",
        Sentence("{action}", "its declared capabilities", "{action} is not among the agent's declared capabilities"),
        family="privilege",
        unit=FLAG,
        signalled=True,
        overreach=True,
        compromise=True,
    ),
    Feature(
        "chain_surprise",
        "delegation chain",
        "how unusual the chain of actors is for the agent",
        Item(
            layout.K_CHAIN,
            "delegation chains",
            lambda event: " <- ".join(event.delegation or []) or "no delegation",
            profile="delegation chains",
        ),
        family="delegation",
        importance=0.75,
        counts=ONCE,
        compromise=True,
    ),
    Feature(
        "chain_depth",
        "delegation depth",
        "actors in the delegation chain, against the usual",
        Quantity(layout.Q_DEPTH, "{} actors", "actors in the delegation chain", "actors", ("delegation depth", "")),
        family="delegation",
        unit=Z,
        importance=0.75,
        overreach=True,
        compromise=True,
    ),
    Feature(
        "provenance_surprise",
        "provenance",
        "how unusual the origin of the argument is for the action",
        Item(layout.K_PROVENANCE, "origins", argument_of, behind=layout.K_ACTION),
        family="provenance",
        importance=0.5,
        counts=ONCE,
        new_with=(layout.K_ACTION,),
        compromise=True,
    ),
    Feature(
        "external_target",
        "external target",
        "surprise of a target outside of the tenant",
        Carried(layout.K_TARGET),
        family="provenance",
        parts=("target_surprise",),
        compromise=True,
    ),
    Feature(
        "bytes_in",
        "bytes in",
        "bytes sent to the tool or API, against the usual",
        Quantity(layout.Q_BYTES_IN, "{} bytes in", "bytes in", "bytes", ("size of a request", "bytes")),
        family="volume",
        unit=Z,
        importance=0.5,
    ),
    Feature(
        "bytes_out",
        "bytes out",
        "bytes returned, against the usual",
        Quantity(layout.Q_BYTES_OUT, "{} bytes out", "bytes out", "bytes", ("size of an answer", "bytes")),
        family="volume",
        unit=Z,
        importance=0.5,
    ),
    _load(
        "duration",
        "duration",
        "duration of the call, against the usual",
        Quantity(layout.Q_DURATION, "{} ms", "duration", "ms", ("duration", "ms")),
        family="volume",
    ),
    _load(
        "volume_1h",
        "volume",
        "bytes decayed with a half-life of one hour, against the usual",
        Quantity(
            layout.Q_VOLUME,
            "{} bytes in the last hour (older ones count less)",
            "bytes in the last hour",
            "bytes",
            ("bytes in the last hour", ""),
        ),
        family="volume",
        counts=BY_LEVEL,
        overreach=True,
    ),
    _load(
        "novelty_1h",
        "new names",
        "names new to the agent, decayed over an hour, against the usual",
        Quantity(
            layout.Q_NOVELTY,
            "{} new names in the last hour (older ones count less)",
            "new names in the last hour",
            "names",
            ("new names in the last hour", ""),
        ),
        family="rarity",
        counts=BY_LEVEL,
        gathers_new=layout.NAMING,
        overreach=True,
    ),
    _load(
        "session_length",
        "session length",
        "events in the session so far, against the usual",
        Quantity(
            layout.Q_SESSION,
            "{} events in the session",
            "events in the session so far",
            "events",
            ("events in a session so far", ""),
        ),
        family="session",
        overreach=True,
    ),
    Feature(
        "session_strangeness",
        "session",
        "surprise gathered over the last events of the session",
        Sentence(
            "unusual steps, one after the other",
            "few of them",
            "unusual steps have gathered over the last events of the session",
        ),
        family="session",
        importance=0.5,
        gathers=(layout.K_TRANSITION, layout.K_TARGET, layout.K_ACTION_TARGET),
    ),
    Feature(
        "token_lifetime",
        "token lifetime",
        "requested token lifetime, against the usual",
        Quantity(layout.Q_LIFETIME, "{} s of token lifetime", "token lifetime", "s", ("token lifetime", "s")),
        family="token",
        unit=Z,
        importance=0.5,
        overreach=True,
        compromise=True,
    ),
    Feature(
        "method_downgrade",
        "authentication",
        "client authentication weaker than usual, in ranks",
        Sentence(
            "{credential}",
            "a stronger method",
            "authentication by a weaker method than the strongest that is known of this agent: {credential}",
        ),
        family="token",
        unit=RANK,
        signalled=True,
        caller=True,
        compromise=True,
    ),
    Feature(
        "drift",
        "slow drift",
        "pace or volume beyond three deviations of the agent's slow reference",
        Drifted(),
        family="drift",
        unit=Z,
        importance=0.75,
        overreach=True,
    ),
    Feature(
        "argument_origin",
        "origin of arguments",
        "a call that may change something takes a value of others: 3 if it is new to every task of the peer group, 2 "
        "if it is new to its task, 1.5 if nothing is remembered of the task and it is new to the peer group, else 1",
        Sentence(
            "{foreign_arguments}",
            "values that are known of the task",
            "a value that is not known of this task was taken out of an answer that others may have written, and "
            "given to {action}: {foreign_arguments}",
        ),
        family="flow",
        unit=RANK,
        added=True,
    ),
    Feature(
        "habits_of_others",
        "habits of others",
        "1 plus the mean bits by which the habits of its peers explain an agent's session better than its own do; 0 if "
        "too little is known of either",
        Compared(),
        family="session",
        counts=BY_LEVEL,
        restates=(layout.K_ACTION, layout.K_TARGET),
        added=True,
    ),
    Feature(
        "argument_route",
        "route of arguments",
        "as `argument_origin`, for the route of a value without a hash: 2 if it is new to the task, 1.5 if the answer "
        "is not marked untrusted, or if nothing is remembered of the task and it is new to the peer group",
        Sentence(
            "{argument_routes}",
            "ways that were used before",
            "a value out of an earlier answer was given to {action} by a way that this task never used: "
            "{argument_routes}",
        ),
        family="flow",
        unit=RANK,
        added=True,
    ),
    Feature(
        "sensitive_route",
        "way of sensitive data",
        "a call sends a value out of a sensitive answer: 2 if the route is new to the task, 1.5 and 1 as in "
        "`argument_origin`; 0 without sensitive types",
        Sentence(
            "{sensitive_routes}",
            "ways that were used before",
            "what came out of a sensitive answer was sent out with {action}, which this task never did: "
            "{sensitive_routes}",
        ),
        family="flow",
        unit=RANK,
        added=True,
    ),
)

check_kinds(layout.REGION.tolist(), layout.K_ARGUMENT)
check(FEATURES)

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
FEATURE_COUNT = len(FEATURES)
FEATURE_INDEX = {name: position for position, name in enumerate(FEATURE_NAMES)}

_EXPLANATIONS = tuple(feature.explanation for feature in FEATURES)
ITEMS: dict[int, Item] = {item.kind: item for item in _EXPLANATIONS if isinstance(item, Item)}
"""Explanation by kind of item, in the order of the table."""
QUANTITIES: dict[int, Quantity] = {one.quantity: one for one in _EXPLANATIONS if isinstance(one, Quantity)}
"""Explanation by quantity, in the order of the table."""


def _positions(position_of: dict[int, int], size: int) -> npt.NDArray[np.int64]:
    return np.array([position_of.get(number, -1) for number in range(size)], dtype=np.int64)


FEATURE_OF_KIND = _positions({kind: _EXPLANATIONS.index(item) for kind, item in ITEMS.items()}, layout.KINDS)
"""Position of each kind's surprise in the vector, -1 if it has none."""
FEATURE_OF_QUANTITY = _positions(
    {quantity: _EXPLANATIONS.index(one) for quantity, one in QUANTITIES.items()}, layout.QUANTITIES
)
CONTEXT_KIND = _positions({kind: item.behind for kind, item in ITEMS.items()}, layout.KINDS)
"""Kind of the item that each kind is conditional on, -1 if there is none."""

ADDED_FEATURES: tuple[bool, ...] = tuple(feature.added for feature in FEATURES)
COMPROMISE_FEATURES: tuple[bool, ...] = tuple(feature.compromise for feature in FEATURES)
OVERREACH_FEATURES: tuple[bool, ...] = tuple(feature.overreach for feature in FEATURES)

FEATURE_IMPORTANCE: tuple[float, ...] = tuple(feature.importance for feature in FEATURES)
"""Weight of each feature for trust, by its meaning. *What* an agent does, to whom, with which rights, and what came
back matter most; objects change from job to job, addresses from place to place. How fast and when an agent works varies
honestly with its load, and only supports other evidence, except for what no day's load explains (drift). The order
follows from the meaning; the steps were chosen with regard to labelled figures of the development traces, so those
figures flatter it (decision 0012)."""


def feature_table_hash() -> str:
    """Return a digest of names, units and ranges in order, and of how features are measured. A model fits only the
    table that it was trained on."""
    text = f"{LAYOUT_GENERATION}\n" + "\n".join(f"{f.name}|{f.unit}|{f.low}|{f.high}" for f in FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
