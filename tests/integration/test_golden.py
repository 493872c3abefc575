"""The recorded week through the real service: what it decides, why, and what it answers is what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..golden.collecting import LIVE, MODEL, live, week
from ..golden.support import RECORDED, Service, assert_same, read_rows, unpack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_service_decides_as_recorded(tmp_path: Path) -> None:
    """Decisions with reasons, vectors and evidence, agents and answers: the same however the events are batched."""
    events = week()
    with Service(tmp_path / "service", unpack(MODEL, tmp_path / "model")) as service:
        for start in range(0, len(events), 700):
            service.send(events[start : start + 700])
        service.settle()
        assert_same(live(service), read_rows(RECORDED / LIVE))
