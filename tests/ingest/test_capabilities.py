"""The boundary that an agent declares."""

from __future__ import annotations

import pytest

from trustwatch.ingest.capabilities import (
    covers,
)


@pytest.mark.parametrize(
    ("capabilities", "action", "expected"),
    [
        ((), "pay", False),
        (("pay",), "pay", True),
        (("pay",), "delete_everything", False),
        (("pay",), "PAY", False),
        (("pay_*",), "pay_invoice", True),
        (("pay_*",), "repay_invoice", False),
        (("pay[1]",), "pay[1]", True),
        (("pay[1]",), "pay1", True),
        (("*",), "anything", True),
        ((), "tools/list", True),
        ((), "initialize", True),
        ((), "tools/call", False),
        ((), "resources/read", False),
    ],
)
def test_a_capability_covers_actions_by_name_or_glob(
    capabilities: tuple[str, ...], action: str, expected: bool
) -> None:
    assert covers(capabilities, action) is expected
