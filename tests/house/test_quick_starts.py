"""What a push can know of the quick starts within a second; `tests/integration/test_quick_starts.py` runs them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from scripts.gather_site import QUICK_STARTS
from trustwatch.api.cli.main import make_app
from trustwatch.api.settings.loading import load_settings

from ..support.checkout import ROOT
from ..support.quick_starts import QuickStart, missing_lines

CALL = re.compile(r"(?:^\s*|[=$(]\S* ?)trustwatch ((?:topics )?[a-z]+)((?:[^\n\\]|\\\n)*)", re.MULTILINE)


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_its_commands_and_options_exist(name: str) -> None:
    """Of each line that calls `trustwatch`."""
    calls = [call for step in QuickStart(name).steps for call in CALL.findall(step.commands)]

    assert {"train", "init"} & {command for command, _ in calls}
    for words, rest in calls:
        command: Any = get_command(make_app())
        for word in words.split():
            _, command, _ = command.resolve_command(command.make_context("trustwatch", [word]), [word])
        known = {spelt for parameter in command.params for spelt in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", rest)) <= known, words + rest


@pytest.mark.parametrize("name", [name for name in QUICK_STARTS if name != "cloudtrail"])
def test_its_settings_load(name: str, tmp_path: Path) -> None:
    """As the page's own command writes them; there is no model yet, so the service learns."""
    file = write_settings(name, tmp_path)

    secrets = dict.fromkeys(("TRUSTWATCH_KEYCLOAK_SECRET", "TRUSTWATCH_DB_PASSWORD"), "only for this trial")
    settings = load_settings(file, secrets)

    assert settings.listen.port == 8420
    assert settings.data_dir.is_relative_to(tmp_path)
    assert "train" not in {words for step in QuickStart(name).steps for words, _ in CALL.findall(step.commands)}


def write_settings(name: str, folder: Path) -> Path:
    """The file that `init` writes below *folder* by the command of a page."""
    text = "\n".join(step.commands for step in QuickStart(name).steps)
    (words,) = re.findall(r"trustwatch (init (?:.*\\\n)*.*)\n", text)
    arguments = [word.replace("var/", f"{folder}/var/", 1) for word in words.replace("\\\n", "").split()]
    (folder / "var" / name).mkdir(parents=True)
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    return folder / "var" / name / "trustwatch.yaml"


def test_init_writes_the_settings_of_the_distributed_form(tmp_path: Path) -> None:
    """By the page's own command, with the variables that it sets."""
    text = "\n".join(step.commands for step in QuickStart("distributed").steps)
    file = write_settings("distributed", tmp_path)
    variables = dict(re.findall(r"(TRUSTWATCH__\w+)=(\S+)", text))

    settings = load_settings(file, {**variables, "TRUSTWATCH_DB_PASSWORD": "secret"})

    assert (settings.kafka.partitions, settings.kafka.replication) == (4, 1)


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_it_is_found(name: str) -> None:
    """From the README and in the site."""
    page = f"examples/{name}/README.md"

    assert f"]({page})" in (ROOT / "README.md").read_text()
    assert f": {page}\n" in (ROOT / "mkdocs.yml").read_text()


def test_expected_lines_are_looked_for_in_their_order() -> None:
    """Dots stand for anything, and only they."""
    output = 'ready after 1.5 s\n"active":true\nlast\n'

    assert missing_lines(["ready after … s", '"active":true'], output) == []
    assert missing_lines(["last", "ready after … s"], output) == ["ready after … s"]
    assert missing_lines(["ready after 1x5 s"], output) == ["ready after 1x5 s"]
