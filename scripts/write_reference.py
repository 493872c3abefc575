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
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.topics.topic_definitions import TOPIC_DEFINITIONS, TopicNames
from trustwatch.scoring.engine.hard_signals import AS_SIGN, HARD_SIGNALS, IN_FULL, TO_HIGH

from .command_index import operations_index

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
WRITTEN = "Written by `python -m scripts.write_reference`; a test holds it to the code."


def settings_page() -> str:
    """Every member of the settings file."""
    return f"""# All settings

{WRITTEN} How the file works: [settings](../docs/settings.md).

Members marked **[reload]**, with all below them, come into force by SIGHUP to `trustwatch serve`; all others need a
restart. It reads the file, secrets in files included, and hands the signal on to the processes beside it. A file that
is wrong changes nothing: the log says what is wrong, `trustwatch_settings_reloads_total{{outcome="wrong"}}` counts it.
Members that differ and need a restart are named in the log and by `/readyz` on this machine.

- Variables of the environment stay those of the start.
- `callers`: tokens are bound anew. Where one that changed has a `certificate` or `silence_s`, or `shared_signals` is
  enabled, all callers wait for a restart. Who is signed in to the console, or reads a stream, keeps what it had.
- `tenants`: modes. Tenants that are new have no `domains` before a restart.
- `webhooks`: attempts at hand end under the old settings. What waits for a target that is gone waits until it is back.
- `token_policy_file` is read by itself once a change is a second old. Write a new file beside it and rename that.
- A process that is started again after it ended reads the whole file.

## Variables

| variable | member |
|---|---|
| `TRUSTWATCH__LISTEN__PORT=9000` | `listen.port` |
| `TRUSTWATCH__KAFKA__BOOTSTRAP_SERVERS=a:9092,b:9092` | a list of texts: separated by commas |
| `TRUSTWATCH__TENANTS__acme-corp__MODE=enforce` | of an entry by name: the name as it is |
| `TRUSTWATCH__WEBHOOKS__0__LEVELS=critical` | of an entry of a list, from 0; the next number adds one |
| `TRUSTWATCH__CALLERS='[{{name: gw, client_id: gw}}]'` | anything else: YAML |

Texts, secrets and paths are taken as they are (a path counts from the working folder), `null` is null, an empty
variable sets nothing. Short names: `TRUSTWATCH_DATA_DIR`, `TRUSTWATCH_MODEL_DIR`, `TRUSTWATCH_LISTEN_HOST`,
`TRUSTWATCH_LISTEN_PORT`, `TRUSTWATCH_STORE_URL`, `TRUSTWATCH_KAFKA_BOOTSTRAP_SERVERS`.

`TRUSTWATCH_FILE_ACCESS` stands in no file, since commands without settings need it too: `owner` (the default), or
`group`, which may read what our processes write ([operations](../docs/operations.md#files-and-who-may-read-them)).

## Members

{settings_table()}"""


def metrics_page() -> str:
    """Every metric."""
    rows = [
        f"| `{metric.name}` | {metric.kind.removeprefix('observed ')} | {metric.unit} | "
        f"{', '.join(f'`{label}`' for label in metric.labels) or '-'} | {metric.meaning} |"
        for metric in METRICS
    ]
    lines = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|", *rows]
    return _page("All metrics", "What to watch: [operations](../docs/operations.md#what-to-watch).", lines)


def features_page() -> str:
    """Every feature in the order of the vector."""
    rows = [f"| `{f.name}` | {f.family} | {f.unit} | {f.meaning} |" for f in FEATURES]
    lines = [
        "| feature | family | unit | meaning |",
        "|---|---|---|---|",
        *rows,
        "",
        *_hard_signals_table(),
        "",
        *REASON_CODES,
    ]
    return _page(
        "All features",
        "In the order of the vector. How they are measured, and ranges of units: [features](../docs/features.md).",
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
    "`GROUP` is `kafka.group_id`; Read and Write imply Describe. Those of worker and replica were tried with",
    "`StandardAuthorizer`.",
    "",
    "| principal | topic | operations |",
    "|---|---|---|",
    "| worker | `trustwatch.events` | Read, Write |",
    "| worker | `trustwatch.events.dlq`, `trustwatch.risk`, `trustwatch.decisions`, `trustwatch.alerts` | Write |",
    "| worker | each foreign topic | Read |",
    "| worker | group `GROUP`; for each foreign topic group `GROUP.ingest.NAME` | Read |",
    "| worker, to erase | `trustwatch.risk`; all of ours | Read; DescribeConfigs |",
    "| worker, where `lifecycle.enabled` | group `GROUP-keeper` | Read |",
    "| archiver | `trustwatch.events`, group `GROUP-archive` | Read |",
    "| replica | `trustwatch.events` | Write |",
    "| replica | `trustwatch.risk`, `trustwatch.decisions` | Read |",
    "| your consumers | `trustwatch.decisions`, `trustwatch.alerts`, `trustwatch.risk`, a group of their own | Read |",
    "| `trustwatch topics` | all of ours | Create, Alter, Describe, DescribeConfigs, and what a worker has |",
)
"""What each role needs of the brokers, by hand."""

READING = (
    "## Reading our topics",
    "",
    "Records come at least once: drop what you have seen. Risk and heartbeats carry `partition`, `epoch`, `offset`;",
    "the higher (`epoch`, `offset`) is the newer. Records of the risk topic whose key begins with `{` are heartbeats.",
    "Decisions and alerts are CloudEvents with a stable `id`. Dead letters carry `letter_id`, `reason`, `path`,",
    "`source`, `source_partition`, `source_offset` as headers.",
)
"""What a consumer of ours has to know, by hand."""

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
    """Every rule beside the model, with its weight."""
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
