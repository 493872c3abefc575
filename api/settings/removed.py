"""Settings that a release removed, and what happens to files and variables that still name one.

A value that is the old default changes nothing, so it is left out with a warning. Any other value ends the start, with
the line of the changelog that names the replacement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.policy.book import LevelPolicies


class RemovedSetting(NamedTuple):
    """A setting of an earlier release."""

    default: Any  # as in a settings file; of a part, a mapping of the defaults of its members
    line: str  # names the replacement, as in CHANGELOG.md; several settings may share one


_TOKEN_POLICY: Final = json.loads(msgspec.json.encode(LevelPolicies()))

_ALGORITHMS: Final = ["ES256", "RS256", "PS256", "EdDSA"]

_DEFAULTS_BY_LINE: Final[Mapping[str, Mapping[str, Any]]] = {
    "use the `url` of an incoming webhook of Slack; if the console is on, its messages link to the case, where "
    "people act once they are signed in": {"webhooks[].slack_app": None},
    "use the standard variables of OpenTelemetry (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and others) "
    "for spans of requests, and the metrics of the pipeline and of deliveries for other work": {
        "traces": {"endpoint": None, "sample_ratio": 0.1, "headers": {}, "service_name": "trustwatch"},
    },
    "limits of connections and streams are constants now, and the defaults hold": {
        "listen.max_connections": 4_096,
        "listen.max_unauthenticated_bytes": 16_777_216,
        "listen.head_timeout_s": 10.0,
        "listen.body_timeout_s": 60.0,
        "listen.send_timeout_s": 30.0,
        "listen.streams_per_caller": 20,
    },
    "how tokens, keys and proofs are remembered and fetched is constant now, and the defaults hold": {
        "verification.cached_tokens": 16_384,
        "verification.refused_tokens": 4_096,
        "verification.refused_s": 5.0,
        "verification.unknown_key_wait_s": 0.5,
        "verification.refresh_s": 300.0,
        "verification.refresh_min_s": 10.0,
        "verification.keys_max_age_s": 86_400.0,
        "verification.fetch_timeout_s": 5.0,
        "verification.proofs.max_age_s": 60.0,
        "verification.proofs.nonce_s": 300.0,
        "verification.proofs.max_remembered": 200_000,
    },
    "alerts, actuators, gateways, hooks and sign-in wait for other servers as long as by default; the times are "
    "constants now": {
        "webhooks[].timeout_s": 10.0,
        "actuators[].timeout_s": 10.0,
        "hooks[].tolerance_s": 300.0,
        "gateway.issuers[].introspection.cache_s": 2.0,
        "gateway.issuers[].introspection.timeout_s": 2.0,
        "console.oidc.timeout_s": 5.0,
    },
    "a case takes rises of a day and 200 agents": {"cases": {"window_s": 86_400, "max_agents": 200}},
    "challenges of gateways have the realm `agents`": {
        "gateway.realm": "agents",
    },
    "limits of feedback rules and their previews are constants now, and the defaults hold": {
        "feedback": {
            "max_days": 90.0,
            "broad_max_hours": 24.0,
            "max_rules": 100,
            "preview_days": 7.0,
            "preview_max_s": 600.0,
            "previews_waiting": 4,
        },
    },
    "limits and times of shared signals are constants now, and the defaults hold": {
        "shared_signals.key_days": 90,
        "shared_signals.principal": "USER",
        "shared_signals.max_streams": 10,
        "shared_signals.max_subjects": 10000,
        "shared_signals.max_waiting": 10000,
        "shared_signals.max_polls": 200,
        "shared_signals.poll_wait_s": 30.0,
        "shared_signals.push_timeout_s": 10.0,
        "shared_signals.push_retry_cap_s": 300.0,
        "shared_signals.push_give_up_s": 86400.0,
        "shared_signals.answer_s": 300,
        "shared_signals.transmitters[].poll_timeout_s": 120.0,
        "shared_signals.transmitters[].poll_interval_s": 5.0,
        "shared_signals.transmitters[].max_age_s": 259200.0,
        "shared_signals.transmitters[].max_remembered": 100000,
    },
    "bounds of training, shadow models and drift are constants now, and the defaults hold; a training reads the events "
    "of 28 days": {
        "lifecycle.history_days": 28.0,
        "lifecycle.most_events": 500000,
        "lifecycle.follow_days": 2.0,
        "lifecycle.keep_versions": 10,
        "lifecycle.drift.min_events": 500,
        "lifecycle.drift.again_days": 7,
    },
    "sizes of queues, batches and windows are constants now, and the defaults hold": {
        "archive.spool_mb": 1024,
        "kafka.duplicate_window": 65536,
        "pipeline.batch_size": 1000,
        "pipeline.commit_share": 0.005,
        "pipeline.max_lag_bytes": 268435456,
        "pipeline.disk_reserve_mb": 512,
        "dead_letters": {"max_rows": 100000},
    },
    "these rows are kept for `retention_days`": {
        "retention.deliveries": None,
        "retention.dead_letters": None,
        "retention.interventions": None,
        "retention.actuations": None,
        "retention.edges": None,
        "retention.feedback": None,
    },
    "it is 300 s; put `token_on_two_networks` into `risk.disabled_signals` to switch the signal off": {
        "risk.token_networks_s": 300.0,
    },
    "a model judges calls if there is one; a `risk.challenge_budget` of 0 makes none of them wait": {
        "risk.call_model": True,
    },
    "states of agents are in rows of the database alone; delete `store.checkpoints`, and copy what was there to "
    "`checkpoints` in `data_dir` before the first start, which makes rows of it": {
        "store.checkpoints": None,
        "store.snapshots": True,
        "pipeline.checkpoint_agents": 500,
    },
    "keys of argument origins change every 90 days; raise `privacy.origin_key_generation` to change them at once": {
        "privacy.origin_key_days": 90,
    },
    "all asymmetric signature algorithms are accepted, and the key decides which fit": {
        "issuers[].algorithms": _ALGORITHMS,
        "gateway.issuers[].algorithms": _ALGORITHMS,
        "shared_signals.transmitters[].algorithms": _ALGORITHMS,
        "console.oidc.algorithms": _ALGORITHMS,
    },
    "the algorithm of our assertions follows from the private key: RS256, ES256 to ES512 or EdDSA": {
        "gateway.issuers[].key_algorithm": "ES256",
        "actuators[].auth.algorithm": "ES256",
        "shared_signals.transmitters[].auth.algorithm": "ES256",
        "console.oidc.client_key_algorithm": "ES256",
    },
    "http is accepted to loopback alone, without a setting": {
        "webhooks[].allow_http": False,
        "actuators[].allow_http": False,
    },
    "clocks of issuers may differ by 30 s": {"verification.leeway_s": 30.0},
    "the header of the secret is `X-Trustwatch-Key`": {"hooks[].header": "X-Trustwatch-Key"},
    "Okta issues no token that would have to live for less than 300 s": {"hooks[].too_short": "deny"},
    "features have drifted at a population stability index of 0.5, p-values at 0.2": {
        "lifecycle.drift.features": 0.5,
        "lifecycle.drift.scores": 0.2,
    },
    "below a confidence of 0.3 the level is `unknown`": {"risk.confidence_minimum": 0.3},
    "write `levels`, `version` and the modes of tenants into a policy file, and name it in `token_policy_file`": {
        "token_policy": {"version": "1", **_TOKEN_POLICY},
    },
    "small files of a date are merged six hours after its end": {"archive.merge_after_h": 6.0},
    "a receiver gets the types of events that it requests; a conformance run only warns of others": {
        "shared_signals.without_wise": [],
    },
    "`typ` of an access token is `at+jwt` or `JWT`": {
        "issuers[].token_types": ["at+jwt", "JWT"],
        "gateway.issuers[].token_types": ["at+jwt", "JWT"],
    },
    "`aud` of our assertions is the token endpoint": {
        "actuators[].auth.audience": "",
        "shared_signals.transmitters[].auth.audience": "",
    },
    "a session of the console ends after an hour without a page or click, and after eight hours": {
        "console.session_s": 28_800.0,
        "console.idle_s": 3_600.0,
    },
    "the first model is trained once there are 2,000 events of three days": {
        "lifecycle.learn_days": 3.0,
        "lifecycle.learn_events": 2_000,
    },
    "signing out of the console ends its own session; sign out at the provider there": {
        "console.oidc.sign_out_there": False,
    },
    "the same agent and reason alert again after 15 minutes; snooze a case for quiet": {"risk.cool_down_s": 900.0},
    "a stream is about every agent of its receiver's tenants until the receiver removes some, reasons are codes, and "
    "verifications are bounded by how many wait": {
        "shared_signals.default_subjects": "ALL",
        "shared_signals.reason_texts": False,
        "shared_signals.min_verification_s": 0,
    },
}
"""Defaults of removed settings by the line that they share."""

REMOVED_SETTINGS: Final[Mapping[str, RemovedSetting]] = {
    path: RemovedSetting(default, line)
    for line, defaults in _DEFAULTS_BY_LINE.items()
    for path, default in defaults.items()
}
"""Removed settings by path, as `reference/settings.md` would write it: `kafka.topics[].name`, `tenants.NAME.mode`. If
all of a part was removed, the part has the row."""

_INDEX = re.compile(r"\[\d+\]")


def is_removed(place: str) -> bool:
    """True if the member at *place*, as messages write it (`.webhooks[0].url`), was removed."""
    path = _INDEX.sub("[]", place).replace("[...]", ".NAME").removeprefix(".")
    return path in REMOVED_SETTINGS


def leave_out_removed(raw: dict[str, Any], origin: Callable[[str], str]) -> list[str]:
    """Remove settings of earlier releases from the values of file and variables; returns a warning for each line.

    Raises:
        ConfigError: one does not hold its old default.
    """
    kept: dict[tuple[str, str], list[str]] = {}
    for path, removed in REMOVED_SETTINGS.items():
        for part, place in _parts_with(raw, path.replace("[]", ".[]").split(".")):
            message = f"this setting was removed: {removed.line} - at `${place}`"
            if not _is_default(part.pop(path.rpartition(".")[2]), removed.default):
                raise ConfigError(f"{origin(message)}: {message}")
            kept.setdefault((origin(message), removed.line), []).append(f"`${place}`")
    return [
        f"{where}: delete what was removed: {line} - at {', '.join(places)}" for (where, line), places in kept.items()
    ]


def _parts_with(held: Any, steps: Sequence[str], place: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Parts that have the member to which *steps* lead, and the place of that member in each."""
    step, *further = steps
    inner: list[tuple[str, Any]] = []
    if step == "[]" and isinstance(held, list):
        inner = [(f"{place}[{index}]", entry) for index, entry in enumerate(held)]
    elif step == "NAME" and isinstance(held, dict):
        inner = [(f"{place}[...]", entry) for entry in held.values()]
    elif isinstance(held, dict) and step in held:
        inner = [(f"{place}.{step}", held[step])]
        if not further:
            yield held, inner[0][0]
            return
    for inner_place, entry in inner:
        yield from _parts_with(entry, further, inner_place)


def _is_default(value: Any, default: Any) -> bool:
    """Return whether *value* is the old default; a part may name only some of its members."""
    if isinstance(value, dict) and isinstance(default, dict):
        return all(name in default and _is_default(held, default[name]) for name, held in value.items())
    return bool(value == default)
