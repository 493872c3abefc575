"""Token policy: the defaults of DESIGN section 6, and a version that follows the content."""

from __future__ import annotations

from trustwatch.scoring.policy import PolicyTable, TokenPolicy
from trustwatch.scoring.records import RiskLevel


def test_defaults_are_those_of_the_design() -> None:
    """Low 900 s; unknown and medium 300 s; high 60 s without refresh; critical denies and revokes."""
    table = PolicyTable()
    lifetimes = {level.label: table[level].max_token_lifetime_s for level in RiskLevel}
    assert lifetimes == {"unknown": 300, "low": 900, "medium": 300, "high": 60, "critical": 0}
    assert [table[level].allow for level in RiskLevel] == [True, True, True, True, False]
    assert [table[level].revoke for level in RiskLevel] == [False, False, False, False, True]
    assert [table[level].refresh_allowed for level in RiskLevel] == [True, True, True, False, False]
    assert [table[level].step_up for level in RiskLevel] == [False, False, True, True, False]
    assert "*write*" in table[RiskLevel.MEDIUM].step_up_scopes


def test_version_names_the_content() -> None:
    """Equal tables have equal versions, any change makes another, and an operator's own name wins."""
    changed = {RiskLevel.HIGH: TokenPolicy(False, 0, (), False, False, True)}
    assert PolicyTable().version == PolicyTable({}).version
    assert PolicyTable(changed).version != PolicyTable().version
    assert PolicyTable(changed)[3] == changed[RiskLevel.HIGH]
    assert PolicyTable(version="7").version == "7"
