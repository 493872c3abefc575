"""The quick starts of `examples/` lead where they say, command by command, from their own text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support.nightly import nightly
from ..support.quick_starts import QuickStart, consecutive_ports, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def fetched(program: Callable[[], Any]) -> None:
    """The server's program is in the cache, so that the page's own command finds it; else the test is skipped."""
    from scripts.service_stack import ServiceUnavailable

    try:
        program()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVER NOT TO BE HAD: {reason}")


def test_an_analyst_finds_the_stolen_role_in_files_of_cloudtrail(tmp_path: Path) -> None:
    """Of twelve roles only the one whose keys were stolen would have been revoked; the report is there."""
    said = QuickStart("cloudtrail").run(tmp_path)

    revoked = [line for line in said[-1].splitlines() if " events later): " in line]
    assert [line.split()[1].rpartition("/")[2] for line in revoked] == ["invoices-2"]
    assert "invoices-2" in (tmp_path / "var" / "cloudtrail" / "report.html").read_text()


@nightly
def test_a_developer_sees_an_mcp_server_refuse_an_agent(tmp_path: Path) -> None:
    """Called, refused while pinned, called again, and called without the service, for that server fails open."""
    quick = QuickStart("mcp", {"8420": free_port(), "8480": free_port()})
    said = quick.run(tmp_path)

    assert "paid 7" not in said[-2].partition("refused")[0]
    assert "Traceback" not in "".join(said) + (tmp_path / "var" / "mcp" / "server.log").read_text()


@nightly
def test_hydra_gives_shorter_tokens_then_none_then_as_before(tmp_path: Path) -> None:
    """An hour, five minutes, refused and dead, an hour again, and an error while nobody answers its hook."""
    from scripts.service_stack.hydra import hydra_program

    fetched(hydra_program)
    public, admin = consecutive_ports(2)
    said = QuickStart("hydra", {"8420": free_port(), "4444": public, "4445": admin}).run(tmp_path)

    assert lifetimes(said) == pytest.approx([3600, 300, 3600], abs=5)


@nightly
def test_keycloak_gives_shorter_tokens_then_none_then_as_before(tmp_path: Path) -> None:
    """The realm's lifetime, five minutes, refused and dead, as before; and as before while we are away."""
    from scripts.service_stack.keycloak import keycloak_home

    fetched(keycloak_home)
    said = QuickStart("keycloak", {"8420": free_port(), "8080": free_port()}).run(tmp_path)

    assert lifetimes(said) == pytest.approx([900, 300, 900, 900], abs=5)
    agents = said[-2].splitlines()
    assert [line.split()[0] for line in agents[-2:]] == ["agent", "clerk-7"]


@nightly
@pytest.mark.timeout(900)  # the quick start itself may take 580 s; fetching comes before
def test_an_operator_kills_a_worker_and_the_others_go_on(tmp_path: Path) -> None:
    """Every event is applied, before and after; the first model is trained meanwhile; the replica answers."""
    from scripts.service_stack.kafka_jars import kafka_jars
    from scripts.service_stack.postgres import binaries

    for program in (kafka_jars, binaries):
        fetched(program)
    ports = ("8420", "8431", "8432", "8433", "9092", "5432")
    said = QuickStart("distributed", {port: free_port() for port in ports}).run(tmp_path, 580.0)

    shared, sent, learned, killed, _ = said[-5:]
    shares = re.findall(r"^worker on \d+: ([\d ]+)$", shared, re.MULTILINE)
    assert sorted(map(len, map(str.split, shares))) == [1, 1, 2] and sorted("".join(shares).replace(" ", "")) == [
        *"0123"
    ]
    counts = [
        re.findall(r"^partition \d: applied ([\d,]+) of ([\d,]+),", output, re.MULTILINE) for output in (sent, killed)
    ]
    assert [len(partitions) for partitions in counts] == [4, 4]
    assert all(applied == of for partitions in counts for applied, of in partitions)
    before, after = (sum(int(of.replace(",", "")) for _, of in partitions) for partitions in counts)
    assert before >= 10_000 and after >= before + 1_000, "events and ticks"
    assert re.search(r"^\* .* champion ", learned, re.MULTILINE) and "learning           retired" in learned


def lifetimes(said: list[str]) -> list[int]:
    """Those of tokens, s, as they were printed."""
    return [int(found) for found in re.findall(r'^"expires_in":(\d+)', "".join(said), re.MULTILINE)]
