"""What commands print of names that agents chose themselves."""

from __future__ import annotations

import pytest
from trustwatch.api.cli.terminal import print_message, write_line, write_table

NAMES = ("bot\x1b]0;owned\x07", "bot\ncli-bot  acme-corp  low", "a\u202eb", "[/red]", "[bold]x", "b\rc")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_and_never_obeyed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No escape sequence, no further line, no turned text; and no name is taken for mark-up, which could be wrong."""
    write_table([{"agent_id": name}], {"agent_id": "agent"})
    write_line(name)
    print_message(name.replace("\n", ""))
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 3
    for text in (shown.out, shown.err):
        assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert name.replace("\n", "\\n") in shown.out or not name.replace("\n", "").isprintable()


def test_ordinary_names_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    write_line("https://agents.example/7 \u00fc \U0001f916")
    assert capsys.readouterr().out == "https://agents.example/7 \u00fc \U0001f916\n"
