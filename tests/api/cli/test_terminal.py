"""Output of commands with names that agents choose."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner

from trustwatch.api.cli.service_commands import TokenOption
from trustwatch.api.cli.terminal import print_message, write_json, write_line, write_table
from trustwatch.api.structured_logs import configure_structured_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


NAMES = ("bot\x1b]0;owned\x07", "bot\ncli-bot  acme-corp  low", "a\u202eb", "[/red]", "[bold]x", "b\rc")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_and_never_obeyed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_table([{"agent_id": name}], {"agent_id": "agent"})
    write_line(name)
    print_message(name.replace("\n", ""))
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 3
    for text in (shown.out, shown.err):
        assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert name.replace("\n", "\\n") in shown.out or not name.replace("\n", "").isprintable()


ROWS = [
    {
        "agent_id": "agent-" + "x" * 60,
        "events": 1234567,
        "risk": 0.98765,
        "why": "one two three four five six",
        "at": None,
    },
    {"agent_id": "b", "events": 2, "risk": 12345.6, "why": "seven", "at": "now"},
]
COLUMNS = {"agent_id": "agent", "events": "events", "risk": "risk", "at": "at", "why": "why"}


def test_a_table_that_is_piped_is_plain_and_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(ROWS, COLUMNS, prose=("why",))
    head, first, second = capsys.readouterr().out.splitlines()

    assert head.split() == ["agent", "events", "risk", "at", "why"]
    assert first.split() == [ROWS[0]["agent_id"], "1,234,567", "0.988", *str(ROWS[0]["why"]).split()]
    assert second.split() == ["b", "2", "12,346", "now", "seven"]
    assert head.index("risk") == first.index("0.988") == second.index("12,346")


def test_ordinary_names_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    write_line("https://agents.example/7 \u00fc \U0001f916")
    assert capsys.readouterr().out == "https://agents.example/7 \u00fc \U0001f916\n"


CONTROLS = "a\x00\x1b[2J\x7f\x9b31m\u202e\u2066\u200f\U000e0001\u00fc"


def test_json_on_a_terminal_is_the_same_value_without_anything_to_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    write_json({"agent_id": CONTROLS})
    line = screen.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert json.loads(line) == {"agent_id": CONTROLS}
    assert "\u00fc" in line


def test_json_that_a_program_reads_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"agent_id": CONTROLS})
    assert capsys.readouterr().out == json.dumps({"agent_id": CONTROLS}, ensure_ascii=False) + "\n"


@pytest.fixture
def log_screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    before = structlog.get_config()
    configure_structured_logs()
    yield screen
    structlog.configure(**before)


def test_the_log_on_a_terminal_obeys_no_name(log_screen: Terminal) -> None:
    log = structlog.get_logger("screen")
    log.warning(f"refused {CONTROLS}", agent=CONTROLS, more=[CONTROLS], forged="x\n2026 [info] all is well")
    try:
        raise ValueError(CONTROLS)
    except ValueError:
        log.exception("failed")
    text = log_screen.getvalue()
    for colour in ("\x1b[0m", "\x1b[1m", "\x1b[2m", *(f"\x1b[{number}m" for number in range(30, 38))):
        text = text.replace(colour, "")
    assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert "\n2026 [info]" not in text
    assert "\nTraceback" in text


def command_line() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def show(token: TokenOption = "") -> None:
        write_line(f"token={token}")

    return app


@pytest.mark.parametrize("way", ["variable", "file", "standard input", "words"])
def test_a_token_need_not_be_in_the_list_of_processes(way: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    arguments = {"file": ["--token", f"@{tmp_path / 'token'}"], "standard input": ["--token", "-"]}
    words = ["--token", "secret"] if way == "words" else arguments.get(way, [])
    environ = {"TRUSTWATCH_TOKEN": "secret"} if way == "variable" else {}
    done = CliRunner().invoke(command_line(), words, input="secret\n", env=environ)
    assert "token=secret\n" in done.output
    assert ("list of processes" in done.output) == (way == "words")


def test_a_token_file_that_is_not_there_is_a_wrong_use(tmp_path: Path) -> None:
    done = CliRunner().invoke(command_line(), ["--token", f"@{tmp_path / 'none'}"])
    assert done.exit_code == 2
    assert "the token cannot" in done.output


@pytest.mark.parametrize(
    ("form", "terminal", "is_json"), [("json", True, True), ("text", False, False), ("auto", False, True)]
)
def test_level_and_format_of_the_log_are_settings(
    form: Any, terminal: bool, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    before = structlog.get_config()
    configure_structured_logs("warning", form)
    try:
        log = structlog.get_logger("form")
        log.info("calm")
        log.warning("refused", agent="bot")
    finally:
        structlog.configure(**before)
    (line,) = screen.getvalue().splitlines()

    assert (json.loads(line)["agent"] == "bot") if is_json else ("agent=bot" in line and "\x1b" not in line)


@pytest.mark.usefixtures("log_screen")
def test_who_logged_before_the_settings_were_read_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    log = structlog.get_logger("early")
    log.warning("first")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    configure_structured_logs("error", "json")
    log.warning("calm")
    log.error("refused", agent="bot")

    (line,) = later.getvalue().splitlines()
    assert json.loads(line)["event"] == "refused"
