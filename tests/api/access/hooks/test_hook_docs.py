"""`docs/hooks.md` and `docs/fail-modes.md` are held to what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from trustwatch.api.settings.loading import load_settings

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


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    (tmp_path / "hydra-hook.key").write_text("a secret of 24 letters!!")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", HOOKS, re.DOTALL) if "hooks:" in block]
    assert len(blocks) == 2
    for block in blocks:
        file = tmp_path / "trustwatch.yaml"
        issuer = 'issuers: [{issuer: "https://as.example", audiences: [t], jwks_uri: "https://as.example/jwks"}]\n'
        file.write_text(issuer + block)

        assert load_settings(file, {}).hooks
