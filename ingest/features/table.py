"""The feature table: every feature once, in the order of the feature vector, with unit and meaning.

All features point one way: higher is more suspicious. *bits* are surprise, `-log2` of the probability that the item has
for this agent: declared task over own history over peer group, tenant and fleet, each level weighed by how much it has
seen (Witten-Bell). *z* is the distance from the agent's usual value in standard deviations, shrunk towards its peer
group.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from .layout import GENERATION


class Feature(NamedTuple):
    """One column of the feature vector."""

    name: str
    family: str
    unit: str
    low: float
    high: float
    noun: str  # what a reason calls it
    meaning: str


BITS, Z, FLAG = "bits", "z", "flag"
_MAX_BITS, _MAX_Z = 64.0, 50.0


def _bits(name: str, family: str, noun: str, meaning: str) -> Feature:
    return Feature(name, family, BITS, 0.0, _MAX_BITS, noun, meaning)


def _z(name: str, family: str, noun: str, meaning: str) -> Feature:
    return Feature(name, family, Z, 0.0, _MAX_Z, noun, meaning)


FEATURES: tuple[Feature, ...] = (
    _z("pace_1m", "pace", "pace", "events decayed with a half-life of one minute, against the agent's usual"),
    _z("pace_15m", "pace", "pace", "events decayed with a half-life of 15 minutes, against the agent's usual"),
    _z("pace_4h", "pace", "pace", "events decayed with a half-life of four hours, against the agent's usual"),
    _z("dormancy", "pace", "pause", "time since the agent's last event, against its usual pauses"),
    _bits("action_surprise", "rarity", "action", "how unusual the action is for the task and agent"),
    _bits("resource_surprise", "rarity", "resource", "how unusual the resource is for the task and agent"),
    _bits("target_surprise", "rarity", "target", "how unusual the destination is for the task and agent"),
    _bits("audience_surprise", "rarity", "audience", "how unusual the token audience is for the agent"),
    _bits(
        "peer_surprise", "rarity", "peer agent", "how unusual the called or calling agent is (edge caller to callee)"
    ),
    _bits("principal_surprise", "rarity", "principal", "how unusual it is that the agent acts for this principal"),
    _bits("network_surprise", "rarity", "network", "how unusual the client's network is for the agent"),
    _bits(
        "credential_surprise", "rarity", "credential", "how unusual the credential (method and key) is for the agent"
    ),
    _bits("scope_surprise", "rarity", "scope set", "how unusual the set of requested scopes is for the agent"),
    _bits("action_rarity_peers", "rarity", "action", "how unusual the action is among the agent's peer group alone"),
    _bits(
        "identity_shift",
        "rarity",
        "habit",
        "how much better the peer group explains the event than the agent's own past",
    ),
    _bits("hour_surprise", "time", "time of week", "how unusual the time of day (three hours, weekend apart) is"),
    _bits(
        "transition_surprise",
        "order",
        "order of actions",
        "surprise of the action after the previous one of the session",
    ),
    _bits(
        "action_target_surprise", "order", "action on a target", "how unusual the action is together with its target"
    ),
    _bits("repeat_surprise", "order", "repetition", "how unusual it is to use the action so many times in one session"),
    _bits(
        "effect_surprise", "effect", "effect", "how unusual the effect (read, write, delete, admin) is for the agent"
    ),
    _bits("write_surprise", "effect", "change", "largest surprise of action, target and order, weighed by its effect"),
    _bits("outcome_surprise", "failure", "outcome", "how unusual the outcome is for the action"),
    _bits("request_size_surprise", "failure", "request size", "how unusual the size of the request is for the action"),
    _bits("answer_size_surprise", "failure", "answer size", "how unusual the size of the answer is for the action"),
    _z("failure_pace", "failure", "failures", "errors decayed with a half-life of one hour, against the usual"),
    _z("denial_pace", "failure", "denials", "denials decayed with a half-life of one hour, against the usual"),
    _z("scope_breadth", "privilege", "number of scopes", "number of requested scopes, against the usual"),
    Feature("scope_gap", "privilege", "share", 0.0, 1.0, "ungranted scopes", "share of requested scopes not granted"),
    Feature(
        "outside_capabilities", "privilege", FLAG, 0.0, 1.0, "capability", "the action is not a declared capability"
    ),
    _bits("chain_surprise", "delegation", "delegation chain", "how unusual the chain of actors is for the agent"),
    _z("chain_depth", "delegation", "delegation depth", "actors in the delegation chain, against the usual"),
    _bits(
        "provenance_surprise", "provenance", "provenance", "how unusual the origin of the argument is for the action"
    ),
    _bits("external_target", "provenance", "external target", "surprise of a target that lies outside the tenant"),
    _z("bytes_in", "volume", "bytes in", "bytes sent to the tool or API, against the usual"),
    _z("bytes_out", "volume", "bytes out", "bytes returned, against the usual"),
    _z("duration", "volume", "duration", "duration of the call, against the usual"),
    _z("volume_1h", "volume", "volume", "bytes decayed with a half-life of one hour, against the usual"),
    _z("novelty_1h", "rarity", "new names", "names new to the agent, decayed over an hour, against the usual"),
    _z("session_length", "session", "session length", "events in the session so far, against the usual"),
    _bits("session_strangeness", "session", "session", "surprise gathered over the last events of the session"),
    _z("token_lifetime", "token", "token lifetime", "requested token lifetime, against the usual"),
    Feature(
        "method_downgrade",
        "token",
        "rank",
        0.0,
        5.0,
        "authentication",
        "client authentication weaker than usual, in ranks",
    ),
    _z("drift", "drift", "slow drift", "pace or volume beyond three deviations of the agent's slow reference"),
)

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
COUNT = len(FEATURES)
INDEX = {name: position for position, name in enumerate(NAMES)}


_LESS: dict[float, str] = {
    0.75: "audience_surprise credential_surprise scope_surprise chain_surprise chain_depth outcome_surprise drift",
    0.5: "resource_surprise principal_surprise action_rarity_peers transition_surprise repeat_surprise "
    "effect_surprise provenance_surprise session_strangeness request_size_surprise bytes_in bytes_out scope_breadth "
    "token_lifetime",
    0.4: "network_surprise",
    0.3: "pace_1m pace_15m pace_4h dormancy duration volume_1h novelty_1h session_length",
    0.25: "identity_shift hour_surprise failure_pace denial_pace",
}

IMPORTANCE: tuple[float, ...] = tuple(
    next((weight for weight, names in _LESS.items() if name in names.split()), 1.0) for name in NAMES
)
"""How much a feature says about trust, by its meaning: *what* an agent does, to whom and with which rights, and what
came back, says most; objects change from job to job, addresses from place to place; how fast and when it works varies
honestly with its load, and only supports other evidence, but for what no day's load explains (drift). The order is by
meaning; the steps were chosen with an eye on labelled figures of the development traces, so those figures flatter it
(decision 0012)."""


def table_hash() -> str:
    """Digest of names, units and ranges in their order, and of how they are measured: a model fits only the table that
    it was trained on."""
    text = f"{GENERATION}\n" + "\n".join(f"{f.name}|{f.unit}|{f.low}|{f.high}" for f in FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
