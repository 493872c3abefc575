"""The recorded week through the real service, and the store and event log of 0.1 under the present one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..golden.collecting import LIVE, MODEL, WENT_ON, live, week
from ..golden.opening import check_earlier_rows, embedded, later, went_on, without_wall_time
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


def test_a_service_goes_on_from_what_0_1_wrote(tmp_path: Path) -> None:
    """All that 0.1 had stored is listed; records that only its log had are applied; further events are taken."""
    with embedded(tmp_path / "service", unpack(MODEL, tmp_path / "model")) as service:
        service.settle()
        check_earlier_rows(service, "embedded")
        service.send(later())
        service.settle()
        assert_same(went_on(service), without_wall_time(read_rows(RECORDED / WENT_ON)))
