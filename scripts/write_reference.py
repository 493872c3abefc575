"""Write `reference/` from the declarations: `python -m scripts.write_reference`.

People look these up and do not read them through: settings, metrics, features, topics.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from trustwatch.api.cli.operations import OPERATIONS_FILE
from trustwatch.api.http.app import DocumentedApp
from trustwatch.api.http.prometheus_metrics import METRICS
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.settings_table import settings_table
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.topics.topic_definitions import TOPIC_DEFINITIONS, TopicNames
from trustwatch.scoring.engine.hard_signals import AS_SIGN, HARD_SIGNALS, IN_FULL, TO_HIGH
from trustwatch.scoring.policy.policy_file import PolicyFile

from .command_index import operations_index

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
WRITTEN = "Written by `python -m scripts.write_reference`."


def settings_page() -> str:
    """Every member of the settings file."""
    return f"""# All settings

{WRITTEN} How the file works: [settings](../docs/settings.md).

A member without a default is null, empty, or a part whose members follow. Lists and mappings are of texts unless a
type is given. A *secret* is `{{env: NAME}}` or `{{file: PATH}}`. URLs are https, or http to loopback. Members marked
**[reload]**, and all below them, are read again on SIGHUP; other changes need a restart.

{settings_table()}"""


def policy_page() -> str:
    """Every member of the policy file."""
    rows = settings_table(PolicyFile).splitlines()
    return _page("The policy file", "What a policy does: [token policy](../docs/policy.md).", rows)


def metrics_page() -> str:
    """Every metric."""
    rows = [
        f"| `{metric.name}` | {metric.kind.removeprefix('observed ')}, {metric.unit} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.meaning} |"
        for metric in METRICS
    ]
    lines = [*SCRAPING, "", "| metric | kind, unit | labels | meaning |", "|---|---|---|---|", *rows]
    return _page("All metrics", "[Runbooks](runbooks.md) explain what to do.", lines)


SCRAPING = (
    "`GET /metrics` of every process answers in Prometheus' text format: to requests from this machine that no proxy",
    "passed on, and to tokens with `trust.metrics`, or with `trust.admin` of all tenants. `process_*` and",
    "`python_gc_*` are the client library's. Labels never hold names of agents or tenants: `source` and `hook` are",
    "names in the settings, `route` is a declared route.",
)
"""What all metrics share, by hand."""


def features_page() -> str:
    """Every feature in the order of the vector."""
    rows = [
        f"| {number} | `{f.name}` | {f.family} | {f.unit} | {f.low:g} to {f.high:g} | {f.meaning} |"
        for number, f in enumerate(FEATURES)
    ]
    lines = [
        "| # | feature | family | unit | range | meaning |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        *_hard_signals_table(),
        "",
        *REASON_CODES,
        "",
        *_state_table(),
    ]
    return _page("All features", "How they are measured: [features](../docs/features.md).", lines)


def topics_page() -> str:
    """Our topics with the settings that `trustwatch topics create` gives them."""
    rows = [
        f"| `{one.name(TopicNames())}` | {one.keyed_by} | {one.holds} | "
        + ", ".join(f"`{name}={value}`" for name, value in one.configs.items())
        + " |"
        for one in TOPIC_DEFINITIONS
    ]
    lines = ["| topic | keyed by | holds | settings |", "|---|---|---|---|", *rows, "", *ACCESS, "", *READING]
    return _page("All topics", "How they are used: [operations](../docs/operations.md#topics).", lines)


def _page(title: str, more: str, lines: list[str]) -> str:
    return "\n".join([f"# {title}", "", f"{WRITTEN} {more}", "", *lines]) + "\n"


ACCESS = (
    "## Who may do what",
    "",
    "`GROUP` is `kafka.group_id`; Read and Write imply Describe.",
    "",
    "| principal | topic | operations |",
    "|---|---|---|",
    "| worker | `trustwatch.events` | Read, Write |",
    "| worker | `trustwatch.events.dlq`, `trustwatch.risk`, `trustwatch.decisions`, `trustwatch.alerts` | Write |",
    "| worker | each foreign topic | Read |",
    "| worker | group `GROUP`; for each foreign topic group `GROUP.ingest.NAME` | Read |",
    "| worker, to erase | `trustwatch.risk`; all of ours | Read; DescribeConfigs |",
    "| worker, if `lifecycle.enabled` | group `GROUP-keeper` | Read |",
    "| archiver | `trustwatch.events`, group `GROUP-archive` | Read |",
    "| replica | `trustwatch.events` | Write |",
    "| replica | `trustwatch.risk`, `trustwatch.decisions` | Read |",
    "| your consumers | `trustwatch.decisions`, `trustwatch.alerts`, `trustwatch.risk`, their group | Read |",
    "| `trustwatch topics` | all of ours | Create, Alter, Describe, DescribeConfigs, and what a worker has |",
)
"""What each role needs of the brokers, by hand."""

READING = (
    "## Reading our topics",
    "",
    "Records arrive at least once. Risk and heartbeats carry `partition`, `epoch`, `offset`: the higher (`epoch`,",
    "`offset`) is newer. In the risk topic, keys that begin with `{` are heartbeats. Decisions and alerts are",
    "CloudEvents with a stable `id`. Dead letters have the headers `letter_id`, `reason`, `path`, `source`,",
    "`source_partition` and `source_offset`.",
)
"""What a consumer of ours has to know, by hand."""

STATE_PARTS = {
    "times": "last, first and version-change time, version",
    "numbers": "4 + 6 counters, totals of 21 kinds, moments of 15 quantities, frozen reference, events in the baseline",
    "table": "5 regions of 64 entries",
    "known": "different items of each kind, learned while there was room",
    "session_id": "4 sessions",
    "session_last": "4 sessions",
    "session_prev": "4 sessions: the previous action",
    "session_numbers": "4 sessions: length, strangeness, calls with origins, answers and latest work, compared events",
    "session_untrusted": "4 sessions: a bit for each of the last 64 calls",
    "session_sensitive": "4 sessions: a bit for each of the last 32",
    "session_table": "4 sessions of 12 actions",
    "revoked": "the last 4 tokens",
    "disorder": "share of recent events that came out of order in their sessions",
    "session_doubt": "4 sessions: events whose order is doubted while that share is high",
    "use_token": "tokens of the last 8 uses, one for each token and network",
    "use_network": "their networks",
    "use_ms": "their times",
    "use_new": "whether the network was new",
}
"""What each part of an agent's state holds, by its name in the layout."""


def _state_table() -> list[str]:
    """Bytes of an agent by part."""
    rows = [f"| `{name}` | {layout.STATE_ROW[name].itemsize} | {held} |" for name, held in STATE_PARTS.items()]
    return ["## State of an agent", "", "| part | bytes | holds |", "|---|---|---|", *rows]


REASON_CODES = (
    "## Codes of reasons",
    "",
    "`reasons[].code` of answers, decisions and alerts is one of these:",
    "",
    "- a hard signal: `use_after_revocation`",
    "- a feature: `target_surprise`; where the name is new to the agent, `first_seen_` and the feature without",
    "  `_surprise`: `first_seen_target`",
    "- `risk_relaxed`, `baseline_known`: no new evidence came, and the level went down; enough is known now",
    "- `released`, `feedback`: a person vouched for the agent; a person's feedback took evidence back",
    "",
    "Reasons of a rise that come from earlier events end in `; earlier, at 2025-12-05 10:30:45 UTC`.",
    "",
    "- **Numbers are counts that can be listed.** *7 known actions of this agent*: different ones in the events that",
    "  it was taught. *At least 31*: its table is full; then a name is not called *new*, but *not remembered*. *12",
    "  known actions of its peer group*, *3 of 900 times in the history of its peer group*, *0 of 412 in this agent's",
    "  history*: counted in the model's history, the agent included. `frames.habits` of the",
    "  [notebooks](../docs/notebooks.md) lists names in events that are kept. Reasons of agents whose state is older",
    "  than these counts have no number.",
    "- **Strength is a word**: *very unusual* (expected 1 time in 256 or less), *unusual* (1 in 16), *a little",
    "  unusual*; *above*, *well above* (3 standard deviations) and *far above* (6) what is usual.",
    "- **A counterfactual** speaks of something unusual that another event could have had in its place: a target, a",
    "  key, a size; of an action with its outcome and sizes. The row is scored with that thing as usual as one time",
    "  in eight, and without the hard signals that it caused. If the level stays, there is none; nor for pace, order,",
    "  drift and what gathered in a session.",
)
"""What a receiver of reasons has to expect, by hand."""


COUNT_WORDS = {IN_FULL: "in full", AS_SIGN: "as a sign", TO_HIGH: "to *high*"}
SIGNALS_THAT_ARE_BOUNDED = (
    "**Signs** tell of a token, a session or a system, and not of what the agent does: whoever holds a token or a",
    "proof can present it again and again. Their evidence is kept apart from the statistic and bounded by what",
    "*medium* needs. The statistic with signs reaches *medium* at most, until the agent's own behavior *agrees*:",
    "until the statistic without signs, less what events brought that no token vouches for, is at *medium* by itself.",
    "Then signs count in full. Events without evidence, an alert that time has cleared and a release reduce them as",
    "they reduce the statistic. A revoked token that was refused is no behavior: it is no failure of the agent.",
    "",
    "**A token on two networks.** A use is work (`api.call`, `tool.call`, `a2a.message`, `approval`, `admin`,",
    "`other`) that succeeded and that a token vouches for, with `credential.token_id` and a network: `client.asn`,",
    "else the /24 or /48 of `client.ip`. Of each agent the last eight uses are kept, one for each token and network.",
    "The signal fires if two uses of one token lie within 300 s, whichever came first, and one",
    "network was new: the agent had not learned it, and had taught at least 100 events for each network that it knew.",
    "A release accepts the networks that are kept. An honest agent that moves to a new network with its token also",
    "becomes *high*, once; a second gateway that sees other addresses of all agents has the same effect, so set it to",
    "0 before its first day.",
    "",
    "**A new network** by itself is no hard signal. By Laplace's rule an agent that met k networks in d days meets",
    "another one on p = k / (d + 2) of its days. A token request or work that succeeded from a new network (as above)",
    "brings at least the part ln p / ln b of the evidence for *medium*, once a day; b is the share of agent-days on",
    "which compromise may be *medium* (half of `risk.alert_budget.medium` per 1,000). At most it is all of it. By",
    "default that is .48 after a week on one network, .74 after four, and *medium* from the hundredth day on:",
    "earlier, honest changes alone would exceed the budget. The decision has p in `new_network_p`.",
)
"""What the table has no room for, by hand."""


def _hard_signals_table() -> list[str]:
    """Every rule beside the model, with its weight."""
    rows = [f"| `{s.code}` | {s.weight:g} | {COUNT_WORDS[s.counts]} | {s.meaning} |" for s in HARD_SIGNALS]
    return [
        "## Hard signals",
        "",
        "Rules beside the model. The weight is added to the evidence of the event, on the scale of the thresholds",
        "([risk](../docs/risk.md#evidence)). `risk.disabled_signals` switches them off by name.",
        "",
        "| signal | weight | counts | fires when |",
        "|---|---|---|---|",
        *rows,
        "",
        *SIGNALS_THAT_ARE_BOUNDED,
    ]


def openapi_page() -> str:
    """The OpenAPI document, as `GET /openapi.json` answers it."""
    return json.dumps(DocumentedApp(SLICES).openapi(), indent=1, ensure_ascii=False) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "policy.md": policy_page,
    "metrics.md": metrics_page,
    "features.md": features_page,
    "topics.md": topics_page,
    "openapi.json": openapi_page,
}
"""Pages of `reference/` by name."""


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    OPERATIONS_FILE.write_text(operations_index(DocumentedApp(SLICES).openapi()), encoding="utf-8")


if __name__ == "__main__":
    main()
