"""Write `reference/` from the declarations: `python -m scripts.write_reference`.

People look these up and do not read them through: settings, metrics, features, topics.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from trustwatch.api.cli.lazy_commands import OPERATIONS_FILE
from trustwatch.api.http.app import DocumentedApp
from trustwatch.api.http.prometheus_metrics import METRICS
from trustwatch.api.service.slices import SLICES
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.topics.protocols import TOPIC_DEFINITIONS, TopicNames
from trustwatch.scoring.engine.hard_signals import AS_SIGN, HARD_SIGNALS, IN_FULL, TO_HIGH

from .command_index import operations_index
from .settings_list import settings_list

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
WRITTEN = "Written by `python -m scripts.write_reference`."


def settings_page() -> str:
    """Every member of the settings file."""
    return f"""# All settings

{WRITTEN} How the file works: [settings](../docs/settings.md).

A member without a default is null, empty, or a part whose members follow. Lists and mappings are of texts unless a
type is given. A *secret* is `{{env: NAME}}` or `{{file: PATH}}`. URLs are https, or http to loopback. Members marked
**[reload]**, and all below them, are read again on SIGHUP; other changes need a restart.

{settings_list()}"""


def metrics_page() -> str:
    """Every metric."""
    rows = []
    for metric in METRICS:
        labels = "".join(f", `{label}`" for label in metric.labels)
        kind = metric.kind.removeprefix("observed ")
        rows.append(f"- `{metric.name}` ({kind}, {metric.unit}{labels}): {metric.meaning}")
    lines = [*SCRAPING, "", "Each metric has its kind, unit and labels.", "", *rows]
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
    lines = [
        *(f"- `{f.name}` ({f.family}, {f.unit}): {f.meaning}" for f in FEATURES),
        "",
        *_hard_signals_table(),
        "",
        *REASON_CODES,
    ]
    return _page(
        "All features",
        "In the order of the vector, with family and unit. How they are measured: [features](../docs/features.md).",
        lines,
    )


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
"""What a consumer of our topics has to know, by hand."""

REASON_CODES = (
    "## Codes of reasons",
    "",
    "`reasons[].code` of answers, decisions and alerts is one of these:",
    "",
    "- a hard signal: `use_after_revocation`",
    "- a feature: `target_surprise`; if the name is new to the agent, `first_seen_` and the feature without",
    "  `_surprise`: `first_seen_target`",
    "- `risk_relaxed`, `baseline_known`: the level went down without new evidence; enough is known now",
    "- `released`, `feedback`: a person dropped the evidence, or marked it as a false positive",
    "",
    "How to read them:",
    "",
    "- **Numbers are counts that can be listed.** *7 known actions of this agent* are different ones in the events",
    "  that it learned; *at least 31*: its table is full, so a name is called *not remembered* rather than *new*.",
    "  Counts of the peer group, and of *this agent's history*, are those of the model's history.",
    "- **Strength is a word**: *very unusual* (expected 1 time in 256 or less), *unusual* (1 in 16), *a little",
    "  unusual*; *above*, *well above* (3 standard deviations) and *far above* (6) what is usual.",
    "- **A counterfactual** is the score of the same event with one thing as usual as one time in eight, without the",
    "  hard signals that it caused. There is none if the level would stay, nor for pace, order, drift and sums over",
    "  a session.",
)
"""What a receiver of reasons has to expect, by hand."""


COUNT_WORDS = {IN_FULL: "in full", AS_SIGN: "as a sign", TO_HIGH: "to *high*"}
SIGNALS_THAT_ARE_BOUNDED = (
    "**Signs** concern a token, a session or a system rather than what the agent does, and anyone who holds a token",
    "or a proof can cause them. The statistic with signs reaches at most *medium*, until attested behavior alone is",
    "at *medium*. Then signs count in full. A revoked token that was refused is not a failure of the agent.",
    "",
    "**A token on two networks** fires if two uses of one token, from two networks (`client.asn`, else the /24 or",
    "/48 of `client.ip`), are within 300 s, and one network is new to an agent that learned at least 100 events per",
    "known network. A use is work that succeeded, with an attested agent and `credential.token_id`. An honest agent",
    "that moves with its token also becomes *high*, once; so do all agents behind a second gateway that sees other",
    "addresses. Switch the signal off before you add one.",
    "",
    "**A new network** alone is not a hard signal. An agent that met k networks in d days meets another one on p = k",
    "/ (d + 2) of its days (`new_network_p`). Its first token request or work adds at least ln p / ln b of the",
    "evidence for *medium*, once a day; b is half of `risk.alert_budget.medium` per 1,000 agent-days. That is .48",
    "after a week on one network, .74 after four, and all of it after 100 days.",
)
"""What the table has no room for, by hand."""


def _hard_signals_table() -> list[str]:
    """Every rule in addition to the model, with its weight."""
    rows = [f"| `{s.code}` | {s.weight:g} | {COUNT_WORDS[s.counts]} | {s.meaning} |" for s in HARD_SIGNALS]
    return [
        "## Hard signals",
        "",
        "Rules next to the model. The weight is added to the evidence of the event, on the scale of the thresholds",
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
