"""Token policy: levels, rules, stages, reloading, and what they say to a request."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.policy.access_evaluation import AccessRequest, Verdict, evaluate_policy
from trustwatch.scoring.policy.book import (
    RESTLESS_LOOKS,
    LevelTokenPolicy,
    LivePolicy,
    PolicyBook,
    PolicyRule,
    PolicyTable,
)
from trustwatch.scoring.records.agents import RiskLevel

ASKED = AccessRequest("acme", "https://as", "bot", ("invoices:read", "invoices:write"))
UNSCOPED = ASKED._replace(scopes=())


def verdict(
    level: RiskLevel, question: AccessRequest = ASKED, mode: str = "enforce", approved: tuple[str, ...] = ()
) -> Verdict:
    """What the default policy says."""
    book = PolicyBook(default_mode=mode)  # type: ignore[arg-type]
    return evaluate_policy(
        question, book.effective_policy("acme", "https://as", "bot", "Bot"), level, book.version, approved=approved
    )


def test_the_default_policy_is_the_one_of_the_design() -> None:
    """Low 900 s, unknown and medium 300 s, high 60 s without refresh, critical denied and revoked."""
    table = PolicyTable()

    lifetimes = {level.label: table[level].max_token_lifetime_s for level in RiskLevel}

    assert lifetimes == {"unknown": 300, "low": 900, "medium": 300, "high": 60, "critical": 0}
    assert (table[RiskLevel.CRITICAL].allow, table[RiskLevel.CRITICAL].revoke) == (False, True)
    assert not table[RiskLevel.HIGH].refresh_allowed


def test_another_policy_has_another_version() -> None:
    """Unless the operator names it."""
    changed = {RiskLevel.HIGH: LevelTokenPolicy(True, 30, None, False, True, False, ("*",))}

    assert PolicyTable().version == PolicyTable({}).version
    assert PolicyTable(changed).version != PolicyTable().version
    assert PolicyTable(changed)[3] == changed[RiskLevel.HIGH]
    assert PolicyTable(version="7").version == "7"


def test_the_first_rule_that_matches_decides() -> None:
    """By tenant, type and agent; levels that it does not name are the book's."""
    strict = LevelTokenPolicy(True, 10, None, False, False, False)
    book = PolicyBook(
        rules=[
            PolicyRule("one", tenants=("acme",), agent_types=("Pay*",), levels={"low": strict}),
            PolicyRule("two", tenants=("acme",), mode="enforce"),
        ]
    )

    pay, other = book.effective_policy("acme", "", "a", "Payment"), book.effective_policy("acme", "", "a", "Search")
    nobody = book.effective_policy("corp", "", "a", "Payment")

    assert (pay.rule, pay.mode, pay.table[RiskLevel.LOW]) == ("one", "shadow", strict)
    assert pay.table[RiskLevel.HIGH] == PolicyTable()[RiskLevel.HIGH]
    assert (other.rule, other.mode) == ("two", "enforce")
    assert (nobody.rule, nobody.mode) == ("", "shadow")


def test_a_rule_may_ask_what_the_level_is_about() -> None:
    """What revokes a hijacked agent need not revoke a looping one; a level about nothing matches no such rule."""
    slower = LevelTokenPolicy(True, 60, None, True, True, False)
    book = PolicyBook(rules=[PolicyRule("looping", concerns=("malfunction",), levels={"critical": slower})])

    found = {about: book.policy("acme", "", "a", "X", 4, about) for about in ("malfunction", "compromise", "")}

    assert found["malfunction"] == slower.effective()
    assert found["compromise"].revoke and found[""].revoke
    assert book.effective_policy("acme", "", "a", "X", "malfunction").rule == "looping"


def test_the_mode_is_the_tenants_unless_a_rule_says_otherwise() -> None:
    """Both ways."""
    book = PolicyBook(rules=[PolicyRule("careful", agents=("new-*",), mode="shadow")], modes={"acme": "enforce"})

    modes = [
        book.effective_policy(tenant, "", agent, "").mode
        for tenant, agent in (("acme", "a"), ("acme", "new-1"), ("b", "a"))
    ]

    assert modes == ["enforce", "shadow", "shadow"]


def test_a_stage_holds_for_its_share_and_only_grows() -> None:
    """Whoever is in at 10 % is in at 40 %."""

    def inside(percent: float) -> set[str]:
        book = PolicyBook(rules=[PolicyRule("stage", mode="enforce", rollout_percent=percent)])
        return {agent for agent in map(str, range(2000)) if book.effective_policy("t", "i", agent, "").enforced}

    few, more = inside(10), inside(40)

    assert few < more
    assert 150 < len(few) < 250
    assert 720 < len(more) < 880
    assert (inside(0), len(inside(100))) == (set(), 2000)


@pytest.mark.parametrize(
    ("level", "question", "approved", "expected"),
    [
        (RiskLevel.LOW, ASKED, (), (True, "allowed", None)),
        (RiskLevel.MEDIUM, ASKED, (), (True, "allowed", ("invoices:read",))),
        (RiskLevel.MEDIUM, ASKED, ("invoices:write",), (True, "allowed", None)),
        (RiskLevel.HIGH, ASKED, (), (False, "step_up_required", None)),
        (RiskLevel.HIGH, UNSCOPED, (), (False, "step_up_required", None)),
        (RiskLevel.HIGH, ASKED, ("*",), (True, "allowed", None)),
        (RiskLevel.HIGH, UNSCOPED, ("*",), (True, "allowed", None)),
        # A person approves scopes, not a longer life.
        (RiskLevel.HIGH, ASKED._replace(refresh=True), ("*",), (False, "refresh_refused", None)),
        (RiskLevel.CRITICAL, ASKED, ("*",), (False, "risk_level", None)),
    ],
)
def test_verdicts_of_the_default_policy(
    level: RiskLevel, question: AccessRequest, approved: tuple[str, ...], expected: tuple[object, ...]
) -> None:
    """Medium holds what writes until a person approves, high holds everything, critical denies."""
    found = verdict(level, question, approved=approved)

    assert (found.allow, found.reason, found.scopes) == expected
    assert found.max_token_lifetime_s == PolicyTable()[level].max_token_lifetime_s
    if level == RiskLevel.MEDIUM:
        assert found.held_scopes == (() if approved else ("invoices:write",))
    assert found.step_up == (level in (RiskLevel.MEDIUM, RiskLevel.HIGH) and not approved)
    assert found.revoke == (level == RiskLevel.CRITICAL)


@pytest.mark.parametrize("level", list(RiskLevel))
def test_shadow_changes_nothing_and_says_what_would_be(level: RiskLevel) -> None:
    """Whatever the level."""
    shadow, enforced = verdict(level, mode="shadow"), verdict(level)

    assert (shadow.allow, shadow.max_token_lifetime_s, shadow.scopes, shadow.revoke) == (True, None, None, False)
    assert shadow.refresh_allowed
    assert shadow.would_allow == enforced.allow


def test_scopes_that_a_level_does_not_get_are_refused_not_held() -> None:
    """No approval helps."""
    table = PolicyTable({RiskLevel.MEDIUM: LevelTokenPolicy(True, 60, ("*:read",), True, True, False, ("*",))})
    book = PolicyBook(table, default_mode="enforce")

    found = evaluate_policy(ASKED, book.effective_policy("", "", "", ""), RiskLevel.MEDIUM, "1", approved=("*",))
    other = ASKED._replace(scopes=("x:write",))
    none = evaluate_policy(other, book.effective_policy("", "", "", ""), RiskLevel.MEDIUM, "1", approved=("*",))

    assert (found.scopes, found.refused_scopes) == (("invoices:read",), ("invoices:write",))
    assert (none.allow, none.reason) == (False, "scopes_refused")


SCOPES = st.lists(st.sampled_from(["a:read", "a:write", "b:read", "b:delete", "c"]), unique=True).map(tuple)


@given(SCOPES, SCOPES, st.sampled_from(list(RiskLevel)), st.booleans())
def test_never_more_than_was_asked_for_and_every_scope_has_one_fate(
    asked: tuple[str, ...], approved: tuple[str, ...], level: RiskLevel, refresh: bool
) -> None:
    """Granted, held and refused scopes are a partition of those asked for; a higher level never grants more."""
    question = ASKED._replace(scopes=asked, refresh=refresh)
    found = verdict(level, question, approved=approved)
    granted = (found.scopes if found.scopes is not None else asked) if found.allow else ()

    assert set(granted) <= set(asked)
    if found.allow:
        assert sorted((*granted, *found.held_scopes, *found.refused_scopes)) == sorted(asked)
    for higher in (other for other in RiskLevel if other > max(level, RiskLevel.LOW)):
        stricter = verdict(higher, question, approved=approved)
        left = (stricter.scopes if stricter.scopes is not None else asked) if stricter.allow else ()
        assert set(left) <= set(granted)


def test_a_policy_file_is_read_anew_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    """The error is counted and kept until the file is right again."""
    file = tmp_path / "policy"
    file.write_text("1")

    def load() -> PolicyBook:
        text = file.read_text()  # any other error of a missing file
        if text == "wrong":
            raise ConfigError(f"{file}: wrong")
        return PolicyBook(PolicyTable(version=text))

    live = LivePolicy(load(), file, load)
    assert not live.refresh()

    file.write_text("version-2")
    assert [live.refresh(), live.refresh(), live.refresh()] == [False, True, False]
    assert live.book.version == "version-2"

    file.write_text("wrong")
    assert [live.refresh(), live.refresh(), live.refresh()] == [False, False, False]
    assert (live.book.version, live.errors, "wrong" in live.error) == ("version-2", 1, True)

    file.unlink()
    assert [live.refresh(), live.refresh()] == [False, False]
    assert (live.book.version, live.errors) == ("version-2", 2)

    file.write_text("three")
    assert [live.refresh(), live.refresh()] == [False, True]
    assert (live.book.version, live.error) == ("three", "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file that is nothing but its version."""
    file = tmp_path / "policy"
    file.write_text("1")
    return file


@pytest.fixture
def live(file: Path) -> LivePolicy:
    """Follows it."""
    return LivePolicy(
        PolicyBook(PolicyTable(version="1")), file, lambda: PolicyBook(PolicyTable(version=file.read_text()))
    )


def test_a_policy_file_that_is_being_written_is_left_alone(file: Path, live: LivePolicy) -> None:
    """Each half is a right policy; none holds, however often it is looked at, until the file stays as it is."""
    held = []
    for written in range(1, 6):
        file.write_text("v" * written)
        held.append((live.refresh(), live.book.version))

    assert held == [(False, "1")] * 5
    assert live.refresh() and live.book.version == "vvvvv"


def test_a_policy_file_that_never_rests_is_an_error(file: Path, live: LivePolicy) -> None:
    """The old policy goes on, which somebody should know."""
    errors = []
    for written in range(1, 2 * RESTLESS_LOOKS):
        file.write_text("v" * written)
        live.refresh()
        errors.append(live.errors)

    assert errors.index(1) == RESTLESS_LOOKS - 1 and live.errors == 1
    assert "keeps changing" in live.error
    assert live.refresh() and live.error == ""


def test_what_a_request_calls_a_scope_never_becomes_a_pattern() -> None:
    """Approved is what was asked for, to the letter; signs of patterns in it mean nothing."""
    asked = ASKED._replace(scopes=("invoices:*", "a[1]:write"))

    assert not verdict(RiskLevel.HIGH, approved=("invoices:*",)).allow
    assert verdict(RiskLevel.HIGH, asked, approved=("invoices:*", "a[1]:write")).allow


@pytest.mark.parametrize("scope", ["Files.ReadWrite.All", "ADMIN", "orders:create", "Users.Update"])
def test_what_changes_things_is_held_whatever_its_case(scope: str) -> None:
    """At medium, by the default policy."""
    assert verdict(RiskLevel.MEDIUM, ASKED._replace(scopes=(scope, "x:read"))).held_scopes == (scope,)
