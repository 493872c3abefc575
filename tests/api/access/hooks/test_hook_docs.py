"""`docs/hooks.md` and `docs/fail-modes.md` are held to what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from trustwatch.api.access.hooks.hook_server import HOOK_ADAPTERS
from trustwatch.api.settings.loading import load_settings
from trustwatch.scoring.policy.access_evaluation import ALLOWED, VERDICT_REASONS

from ....support.checkout import ROOT

FAIL_MODES = (ROOT / "docs" / "fail-modes.md").read_text()
HOOKS = (ROOT / "docs" / "hooks.md").read_text()


def test_the_tests_that_fail_modes_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", FAIL_MODES)
    assert len(named) > 10
    functions = {
        file: {
            node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
        }
        for file, _ in named
    }

    assert [f"{file}::{name}" for file, name in named if name not in functions[file]] == []


def test_every_hook_has_its_rows_in_fail_modes() -> None:
    """One where we do not answer, one where we answer without a verdict."""
    names = {
        "hydra": "Ory Hydra token hook",
        "okta": "Okta token inline hook",
        "wso2": "WSO2 pre-issue action",
        "zitadel": "ZITADEL Actions v2",
        "authzen": "AuthZEN decision point",
    }
    assert {*HOOK_ADAPTERS, "authzen"} == {*names}
    rows = [line.split("|")[1].strip() for line in FAIL_MODES.splitlines() if line.startswith("|")]

    assert {name: rows.count(name) for name in names.values()} == dict.fromkeys(names.values(), 2)


def test_every_reason_is_told(tmp_path: Path) -> None:
    told = HOOKS.partition("Reason codes that may reach clients:")[2].partition("\n\n")[0]

    assert set(re.findall(r"`(\w+)`", told.partition("Nothing else")[0])) == {*VERDICT_REASONS} - {ALLOWED}


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    (tmp_path / "hydra-hook.key").write_text("a secret of 24 letters!!")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", HOOKS, re.DOTALL) if "hooks:" in block]
    assert len(blocks) == 2
    for block in blocks:
        file = tmp_path / "trustwatch.yaml"
        issuer = 'issuers: [{issuer: "https://as.example", audiences: [t], jwks_uri: "https://as.example/jwks"}]\n'
        file.write_text(issuer + block)

        assert load_settings(file, {}).hooks
