"""Operations, installing, the questions, the walk through: settings, metrics and commands are the program's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from scripts.settings_table import settings_table
from trustwatch.api.cli.main import make_app
from trustwatch.api.events.intake_limits import DISK_RESERVE_MB, MAX_LAG_BYTES
from trustwatch.api.http.auth.signing import LOCAL_ISSUER
from trustwatch.api.http.ledger import LIMITS
from trustwatch.api.http.prometheus_metrics import METRICS
from trustwatch.api.http.worker_pool import LONGEST_S
from trustwatch.api.service.backends import ServiceRoles, check_service_roles
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.pool_worker import MEMORY_BYTES
from trustwatch.scoring.store.retention_settings import RetentionKind

from ..support.checkout import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
QUESTIONS = (ROOT / "reference" / "questions.md").read_text(encoding="utf-8")
RUNBOOKS = (ROOT / "reference" / "runbooks.md").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
WALK = (ROOT / "examples" / "distributed" / "README.md").read_text(encoding="utf-8")
SETTINGS = [
    *re.findall(r"<!-- settings -->\n```yaml\n(.*?)```", PAGE, re.DOTALL),
    (ROOT / "examples" / "distributed" / "trustwatch.yaml").read_text(encoding="utf-8"),
]
"""Examples of the pages, and last those of the walk-through."""

SECRETS = {"KAFKA_CLIENT_SECRET": "secret", "TRUSTWATCH_DB_PASSWORD": "secret"}
GROUPS = "topics|approvals|cases|decisions|feedback|identities|mapping"
CALLS = re.findall(
    rf"(?:^|`|PORT=\d+ )trustwatch ((?:(?:{GROUPS}) )?[a-z-]+)([^`\n]*)",
    PAGE + INSTALL + WALK + QUESTIONS,
    re.MULTILINE,
)


@pytest.mark.parametrize("example", SETTINGS, ids=range(len(SETTINGS)))
def test_examples_of_settings_load(example: str, tmp_path: Path) -> None:
    """Each is accepted as it stands, with the files that it names."""
    for name in re.findall(r"file: ([\w-]+)}", example):
        (tmp_path / name).write_text("secret")
    path = tmp_path / "settings.yaml"
    path.write_text(example)

    settings = load_settings(path, SECRETS)

    assert settings.kafka.bootstrap_servers or settings.store.url


def test_the_settings_of_the_installation_trust_the_local_key(tmp_path: Path) -> None:
    """They load as `init` writes them, and the caller is the one that `trustwatch token` names by default."""
    assert "trustwatch init trustwatch.yaml;" in INSTALL
    path = tmp_path / "trustwatch.yaml"
    path.write_text((ROOT / "api" / "service" / "first_settings.yaml").read_text(encoding="utf-8"))

    settings = load_settings(path, {})

    assert not settings.distributed
    assert [issuer.issuer for issuer in settings.issuers] == [LOCAL_ISSUER]
    assert settings.issuers[0].jwks_file == settings.data_dir / "local-jwks.json"
    assert [caller.client_id for caller in settings.callers] == ["demo"]


def test_the_settings_of_the_first_start_run_every_role(tmp_path: Path) -> None:
    (tmp_path / "postgres-password").write_text("secret")
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS[-1])

    for roles in (ServiceRoles(), ServiceRoles(api=False), ServiceRoles(workers=False)):
        check_service_roles(roles, load_settings(path, SECRETS))


def test_settings_that_are_named_exist() -> None:
    known = set(re.findall(r"^\| `([\w.\[\]]+)` ", settings_table(), re.MULTILINE))
    named = set(re.findall(r"`((?:kafka|pipeline|risk|store|dead_letters)\.\w+)`", PAGE))

    assert named and named <= known
    parts = {member.partition(".")[0] for member in known}
    asked = {name for name in re.findall(r"`([\w\[\]]+\.[\w.\[\]]+)`", QUESTIONS) if name.partition(".")[0] in parts}
    kinds = {f"retention.{kind}" for kind in get_args(RetentionKind)}
    assert len(asked) > 10 and asked <= known | kinds | {"retention.ms"}  # of Kafka


def test_metrics_that_are_named_exist() -> None:
    known = {metric.name: set(metric.labels) for metric in METRICS}
    named = re.findall(r"`(trustwatch_\w+)(?:\{(\w+)=)?", RUNBOOKS + QUESTIONS)

    assert named
    assert all(name in known and (not label or label in known[name]) for name, label in named)


def test_commands_and_options_that_are_named_exist() -> None:
    """`trustwatch topics grow 8`, `serve --api-only`."""
    assert {"serve", "topics create", "topics status", "topics grow", "topics restored"} <= {name for name, _ in CALLS}
    for name, rest in CALLS:
        command: Any = get_command(make_app())
        for word in name.split():
            _, command, _ = command.resolve_command(command.make_context("trustwatch", [word]), [word])
        known = {spelt for parameter in command.params for spelt in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", rest)) <= known, name + rest


def test_the_table_of_limits_has_each_with_its_amount() -> None:
    section = PAGE.partition("### Limits of a tenant")[2].partition("\n#")[0]
    rows = dict(re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.MULTILINE))
    told = {name: most for names, most in rows.items() for name in re.findall(r"`(\w+)`", names)}
    raised = re.findall(r'Overloaded\(\s*"(\w+)"', (ROOT / "api/events/intake_limits.py").read_text(encoding="utf-8"))

    assert set(told) == {*LIMITS, *raised}
    for name, limit in LIMITS.items():
        shown = f"{limit.amount >> 20} MiB" if limit.amount >= 1 << 20 else f"{limit.amount:,}"
        assert told[name].startswith(shown)
    assert f"{MAX_LAG_BYTES >> 20} MiB" in told["lag"] and f"{DISK_RESERVE_MB} MiB" in told["reserve"]
    assert f"{MEMORY_BYTES >> 20} MiB and {LONGEST_S:.0f} s" in section
