"""The quick starts of `examples/` lead where they say, command by command, from their own text."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.quick_starts import QuickStart, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_an_analyst_finds_the_stolen_role_in_files_of_cloudtrail(tmp_path: Path) -> None:
    """Of twelve roles only the one whose keys were stolen would have been revoked; the report is there."""
    said = QuickStart("cloudtrail").run(tmp_path)

    revoked = [line for line in said[-1].splitlines() if " events later): " in line]
    assert [line.split()[1].rpartition("/")[2] for line in revoked] == ["invoices-2"]
    assert "invoices-2" in (tmp_path / "var" / "cloudtrail" / "report.html").read_text()


def test_a_developer_sees_an_mcp_server_refuse_an_agent(tmp_path: Path) -> None:
    """Called, refused while pinned, called again, and called without the service, for that server fails open."""
    quick = QuickStart("mcp", {"8420": free_port(), "8480": free_port()})
    said = quick.run(tmp_path)

    assert "paid 7" not in said[-2].partition("refused")[0]
    assert "Traceback" not in "".join(said) + (tmp_path / "var" / "mcp" / "server.log").read_text()
