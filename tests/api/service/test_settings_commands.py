"""`trustwatch settings`: check, show, schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app

from ...support.checkout import ROOT

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FILE = """
settings_version: 2
listen: {port: 9000}
webhooks: [{name: soc, url: "https://soc.example", secret: {env: SOC}}]
"""


def run(*arguments: object, **environ: str) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments], env={"SOC": SECRET, **environ})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "trustwatch.yaml"
    made.write_text(FILE)
    return made


def test_a_wrong_member_or_variable_is_told_and_the_status_is_1(file: Path) -> None:
    wrong = run("settings", "check", file, TRUSTWATCH__LISTEN__PORT="x")
    told = run("settings", "check", file, "--json", TRUSTWATCH__LISTEN__PORT="x")

    assert wrong.exit_code == told.exit_code == 1
    assert "Expected `int`" in str(wrong.exception)
    assert json.loads(told.stdout)["problem"].startswith("TRUSTWATCH__LISTEN__PORT: Expected `int`")


def test_the_schema_takes_our_files_and_refuses_what_the_program_refuses() -> None:
    schema = json.loads(run("settings", "show", "--schema").stdout)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)

    for text in ((ROOT / "deploy" / "settings.yaml").read_text(), FILE, "{}"):
        assert list(validator.iter_errors(msgspec.yaml.decode(text))) == []
    for text in ("lisen: {}", "listen: {port: x}", "listen: {port: 70000}"):
        assert len(list(validator.iter_errors(msgspec.yaml.decode(text)))) == 1, text
    assert schema["$defs"]["Settings"]["properties"]["data_dir"]["default"] == "var"
