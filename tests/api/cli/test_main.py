"""The command line as a whole."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import pytest

from trustwatch.api.cli import lazy_commands


def test_lists_of_other_packages_stand_behind_ours_and_a_broken_one_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [
        EntryPoint("a", "json:NO_SUCH_LIST", lazy_commands.COMMANDS_GROUP),
        EntryPoint("b", "no_such_module:COMMANDS", lazy_commands.COMMANDS_GROUP),
        EntryPoint("c", f"{__name__}:THEIRS", lazy_commands.COMMANDS_GROUP),
    ]
    ours = entry_points(group=lazy_commands.COMMANDS_GROUP)
    monkeypatch.setattr(lazy_commands, "entry_points", lambda group: [*ours, *others])
    monkeypatch.setattr(EntryPoint, "load", lambda self: THEIRS if self.name == "c" else LOAD(self))

    names = [command.name for command in lazy_commands.installed_commands()]
    told = capsys.readouterr().err

    assert names[0] == "agents" and names[-1] == "aaa" and "serve" in names
    assert "commands of `a` are not available: " in told and "commands of `b` are not available: " in told


LOAD = EntryPoint.load
THEIRS = (lazy_commands.LazyCommand("aaa", "Their own", "Do what they do.", "json:dumps"),)
