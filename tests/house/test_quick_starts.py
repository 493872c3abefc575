"""What a push can know of the quick starts within a second; `tests/integration/test_quick_starts.py` runs them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from scripts.gather_site import QUICK_STARTS
from trustwatch.api.cli.main import make_app
from trustwatch.api.settings.loading import load_settings

from ..support.checkout import ROOT
from ..support.quick_starts import QuickStart

CALL = re.compile(r"(?:^\s*|[=$(]\S* ?)trustwatch ((?:topics )?[a-z]+)((?:[^\n\\]|\\\n)*)", re.MULTILINE)


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_its_commands_and_options_exist(name: str) -> None:
    """Of each line that calls `trustwatch`."""
    calls = [call for step in QuickStart(name).steps for call in CALL.findall(step.commands)]

    assert {"train", "settings"} & {command for command, _ in calls}
    for words, rest in calls:
        command: Any = get_command(make_app())
        for word in words.split():
            _, command, _ = command.resolve_command(command.make_context("trustwatch", [word]), [word])
        known = {spelt for parameter in command.params for spelt in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", rest)) <= known, words + rest


@pytest.mark.parametrize("name", [name for name in QUICK_STARTS if name != "cloudtrail"])
def test_its_settings_load(name: str, tmp_path: Path) -> None:
    """With the variables that the page sets; there is no model yet, so the service learns."""
    text = "\n".join(step.commands for step in QuickStart(name).steps)
    (tmp_path / "hydra-hook.key").write_text("h" * 32)
    shutil.copy(ROOT / "examples" / name / "trustwatch.yaml", tmp_path)
    secrets = dict.fromkeys(("TRUSTWATCH_KEYCLOAK_SECRET", "TRUSTWATCH_DB_PASSWORD"), "only for this trial")
    variables = dict(re.findall(r"(TRUSTWATCH__\w+)=(\S+)", text))

    settings = load_settings(tmp_path / "trustwatch.yaml", {**secrets, **variables})

    assert f"cp examples/{name}/trustwatch.yaml var/{name}/\n" in text
    assert settings.upgrade_warnings() == []
    assert settings.listen.port == 8420
    if name == "distributed":
        assert (settings.kafka.partitions, settings.kafka.replication) == (4, 1)
    assert "train" not in {words for step in QuickStart(name).steps for words, _ in CALL.findall(step.commands)}
