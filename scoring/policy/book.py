"""Policy books: token policies by level, rules for tenants, types and agents, and the active book."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Name, SettingsPart, setting
from trustwatch.ingest.settings_reading import error_hint, read_yaml

from ..records.agents import LevelName, RiskLevel
from ..records.decisions import Decision

WRITE_SCOPE_PATTERNS = ("*write*", "*create*", "*update*", "*delete*", "*admin*", "*manage*")


class LevelTokenPolicy(SettingsPart, frozen=True):
    """Token policy of one level. The order of members is that of answers and of the version."""

    allow: Annotated[bool, setting("whether a token is issued at all")] = True
    max_token_lifetime_s: Annotated[int, setting("longest lifetime of a new token, s", ge=0, le=86_400)] = 300
    allowed_scopes: Annotated[tuple[Name, ...] | None, setting("glob patterns of scopes granted; null is all")] = None
    refresh_allowed: Annotated[bool, setting("whether a refresh token may be used")] = True
    step_up: Annotated[bool, setting("whether a person must approve, regardless of the scopes")] = False
    revoke: Annotated[bool, setting("whether tokens already issued are revoked")] = False
    step_up_scopes: Annotated[
        tuple[Name, ...], setting("glob patterns of scopes that a person must approve", after="step_up")
    ] = ()

    def __post_init__(self) -> None:
        if self.allow and self.max_token_lifetime_s == 0:
            raise ValueError("`max_token_lifetime_s` may be 0 only where `allow` is false")

    def effective(self) -> LevelTokenPolicy:
        """Return the policy as in tables: `step_up_scopes` has all scopes that need a person (`*` is everything)."""
        scopes = ("*",) if self.step_up else self.step_up_scopes
        return msgspec.structs.replace(self, step_up=bool(scopes), step_up_scopes=scopes)


class LevelPolicies(SettingsPart, frozen=True):
    """Policy per level; an omitted member keeps the default of its level."""

    unknown: Annotated[LevelTokenPolicy, setting("an agent never seen, or too little known")] = LevelTokenPolicy()
    low: Annotated[LevelTokenPolicy, setting("as usual")] = LevelTokenPolicy(max_token_lifetime_s=900)
    medium: Annotated[LevelTokenPolicy, setting("unusual")] = LevelTokenPolicy(step_up_scopes=WRITE_SCOPE_PATTERNS)
    high: Annotated[LevelTokenPolicy, setting("probably not the agent's own will")] = LevelTokenPolicy(
        max_token_lifetime_s=60, refresh_allowed=False, step_up=True
    )
    critical: Annotated[LevelTokenPolicy, setting("contain")] = LevelTokenPolicy(
        allow=False, max_token_lifetime_s=0, allowed_scopes=(), refresh_allowed=False, revoke=True
    )

    def by_level(self) -> dict[RiskLevel, LevelTokenPolicy]:
        """Return the policies by level, as in tables."""
        given: dict[RiskLevel, LevelTokenPolicy] = {level: getattr(self, level.label) for level in RiskLevel}
        return {level: policy.effective() for level, policy in given.items()}


class PolicyTable:
    """The policy of every level, and a version that changes whenever the table does."""

    def __init__(
        self, overrides: Mapping[RiskLevel, LevelTokenPolicy] | None = None, version: str | None = None
    ) -> None:
        self._policies = {**LevelPolicies().by_level(), **(overrides or {})}
        encoded = msgspec.json.encode([self._policies[level] for level in RiskLevel])
        self.version = version or hashlib.sha256(encoded).hexdigest()[:12]

    @property
    def policies(self) -> dict[RiskLevel, LevelTokenPolicy]:
        """Policies by level, as a copy."""
        return dict(self._policies)

    def __getitem__(self, level: int) -> LevelTokenPolicy:
        return self._policies[RiskLevel(level)]


EnforcementMode = Literal["shadow", "enforce"]
ConcernPattern = Literal["*", "compromise", "malfunction", "overreach"]
"""A concern (`records.agents.ConcernName`), or any and none."""
SHADOW: EnforcementMode = "shadow"
ENFORCE: EnforcementMode = "enforce"

MATCH_ALL = ("*",)
_MAX_REMEMBERED = 100_000


class PolicyRule(SettingsPart, frozen=True):
    """Exceptions for some agents. Patterns are case-sensitive, and one of each kind must match.

    A rule can be rolled out to a share of the agents that match. A hash of the agent decides, so an agent stays in
    while the share grows.
    """

    name: Annotated[Name, setting("its name in answers, logs and metrics; unique")]
    tenants: Annotated[tuple[Name, ...], setting("glob patterns of tenants", min_length=1)] = MATCH_ALL
    agent_types: Annotated[tuple[str, ...], setting("glob patterns of agent types", min_length=1)] = MATCH_ALL
    agents: Annotated[tuple[Name, ...], setting("glob patterns of agent ids", min_length=1)] = MATCH_ALL
    mode: Annotated[EnforcementMode | None, setting("mode of these agents; null keeps that of their tenant")] = None
    concerns: Annotated[
        tuple[ConcernPattern, ...],
        setting("what the agent's level is about; `*` is anything, also no concern", min_length=1),
    ] = ("*",)
    rollout_percent: Annotated[
        float, setting("share of the matching agents that `enforce` holds for; the others stay in shadow", ge=0, le=100)
    ] = 100.0
    levels: Annotated[
        Mapping[LevelName, LevelTokenPolicy], setting("policies by level; members not given are the file's")
    ] = {}

    def table(self, base: PolicyTable) -> PolicyTable:
        """Return *base* with the rule's policies, under the same version."""
        policies = {RiskLevel[name.upper()]: policy.effective() for name, policy in self.levels.items()}
        return PolicyTable({**base.policies, **policies}, base.version)

    def matches(self, tenant: str, agent_type: str, agent_id: str, concern: str = "") -> bool:
        """Return whether the rule applies to this agent, whose level is about *concern* ("" = none)."""
        return (
            ("*" in self.concerns or concern in self.concerns)
            and _matches_any(self.tenants, tenant)
            and _matches_any(self.agent_types, agent_type)
            and _matches_any(self.agents, agent_id)
        )


class EffectivePolicy(NamedTuple):
    """The policy that applies to one agent."""

    table: PolicyTable
    mode: EnforcementMode
    rule: str  # name of the rule; "" = none matched

    @property
    def enforced(self) -> bool:
        """Whether the policy is acted on, not only recorded."""
        return self.mode == ENFORCE


class PolicyBook:
    """Policies of all agents. A book never changes; every answer and decision includes its version."""

    def __init__(
        self,
        table: PolicyTable | None = None,
        rules: Sequence[PolicyRule] = (),
        modes: Mapping[str, EnforcementMode] | None = None,
        default_mode: EnforcementMode = SHADOW,
        descendants: RiskLevel = RiskLevel.LOW,
    ) -> None:
        self.table = table or PolicyTable()
        """Policies that apply if no rule matches."""
        self.default_mode = default_mode
        self.descendants = descendants
        self._modes = dict(modes or {})
        self._rules = [(rule, rule.table(self.table)) for rule in rules]
        self.version = self.table.version
        self._effective_policies: dict[tuple[str, str, str, str, str], EffectivePolicy] = {}

    @property
    def rules(self) -> list[PolicyRule]:
        """Rules in the order in which they are tried."""
        return [rule for rule, _ in self._rules]

    def effective_policy(
        self, tenant: str, issuer: str, agent_id: str, agent_type: str, concern: str = ""
    ) -> EffectivePolicy:
        """Return the policy that applies to an agent whose level is about *concern*; cached, since every answer needs
        it."""
        agent = (tenant, issuer, agent_id, agent_type, concern)
        policy = self._effective_policies.get(agent)
        if policy is None:
            if len(self._effective_policies) >= _MAX_REMEMBERED:
                self._effective_policies.clear()
            policy = self._effective_policies[agent] = self._find_policy(*agent)
        return policy

    def may_enforce(self, tenant: str) -> bool:
        """Return whether the policy is enforced for any agent of a tenant; if not, nothing may be refused."""
        return self._modes.get(tenant, self.default_mode) == ENFORCE or any(
            rule.mode == ENFORCE and _matches_any(rule.tenants, tenant) for rule, _ in self._rules
        )

    def policy(
        self, tenant: str, issuer: str, agent_id: str, agent_type: str, level: int, concern: str = ""
    ) -> LevelTokenPolicy:
        """Return the token policy of an agent at a level that is about *concern*."""
        return self.effective_policy(tenant, issuer, agent_id, agent_type, concern).table[level]

    def policy_members(self, decision: Decision) -> dict[str, Any]:
        """Return the token policy that applies after a decision, as plain data."""
        policy = self.policy(*decision.agent.identity, decision.agent_type, decision.level, decision.concern)
        return {name: getattr(policy, name) for name in policy.__struct_fields__}

    def _find_policy(self, tenant: str, issuer: str, agent_id: str, agent_type: str, concern: str) -> EffectivePolicy:
        mode = self._modes.get(tenant, self.default_mode)
        for rule, table in self._rules:
            if not rule.matches(tenant, agent_type, agent_id, concern):
                continue
            mode = rule.mode or mode
            if mode == ENFORCE and rule.rollout_percent < 100:  # every process computes the same share
                named = "\x1f".join((rule.name, tenant, issuer, agent_id)).encode()
                share = int.from_bytes(hashlib.sha256(named).digest()[:8], "big") / 2**64
                mode = ENFORCE if share * 100 < rule.rollout_percent else SHADOW
            return EffectivePolicy(table, mode, rule.name)
        return EffectivePolicy(self.table, mode, "")


def _matches_any(patterns: Sequence[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


_LEVEL_NAMES = tuple(level.label for level in RiskLevel)


class PolicyFile(SettingsPart, frozen=True):
    """Policy file, which replaces the default policies."""

    version: Annotated[Name, setting("`policy_version` of answers and decisions; raise it with every change")]
    mode: Annotated[EnforcementMode, setting("mode of tenants that are not named")] = "shadow"
    tenants: Annotated[Mapping[Name, EnforcementMode], setting("mode by tenant")] = {}
    descendants: Annotated[
        LevelName, setting("agents that a `critical` agent delegated to are treated as at least at this level")
    ] = "low"
    levels: Annotated[LevelPolicies | None, setting("policies by level; members not given keep their default")] = None
    rules: Annotated[tuple[PolicyRule, ...], setting("first match wins")] = ()

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.rules]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"`name` must be unique; `{name}` is twice - at `$.rules[{index}].name`")
        if self.descendants == "unknown":
            raise ValueError("`descendants` is a level to be treated at least as; `low` leaves descendants alone")

    def book(self) -> PolicyBook:
        """Return the policy book of the file."""
        table = PolicyTable((self.levels or LevelPolicies()).by_level(), self.version)
        return PolicyBook(table, self.rules, self.tenants, self.mode, RiskLevel[self.descendants.upper()])


def read_policy_book(path: Path) -> PolicyBook:
    """Read the token policies of a policy file. Raises ConfigError with file, path of the invalid member, and what is
    allowed."""
    raw = read_yaml(path)
    _fill_levels(raw)
    try:
        return msgspec.convert(raw, PolicyFile).book()
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}{error_hint(PolicyFile, str(error))}") from None


def _fill_levels(raw: dict[str, Any]) -> None:
    """Fill in omitted members of levels: a rule's from the file, the file's from the level's defaults."""
    defaults = msgspec.to_builtins(LevelPolicies())
    given = raw.get("levels")
    base = {
        name: _merge_level(defaults[name], given.get(name) if isinstance(given, dict) else None)
        for name in _LEVEL_NAMES
    }
    if isinstance(given, dict):
        raw["levels"] = {**given, **{name: base[name] for name in _LEVEL_NAMES if isinstance(given.get(name), dict)}}
    rules = raw.get("rules")
    for rule in rules if isinstance(rules, list) else ():
        levels = rule.get("levels") if isinstance(rule, dict) else None
        if isinstance(levels, dict):
            rule["levels"] = {
                name: _merge_level(base[name], value) if name in base and isinstance(value, dict) else value
                for name, value in levels.items()
            }


def _merge_level(base: Any, given: Any) -> Any:
    if not isinstance(given, dict):
        return base
    kept = dict(base)
    if "step_up_scopes" in given and "step_up" not in given:
        kept["step_up"] = False
    return {**kept, **given}


_log = structlog.get_logger(__name__)

FileStamp = tuple[int, int, int]

RESTLESS_LOOKS = 10
"""Checks, a second apart, that find another policy file each time, after which that is an error."""


class LivePolicy:
    """The active book. If the file becomes invalid, the last valid book stays active, and the error is counted."""

    def __init__(
        self, book: PolicyBook, path: Path | None = None, load: Callable[[], PolicyBook] | None = None
    ) -> None:
        self.book = book
        self.reloads = 0
        self.errors = 0
        self.error = ""
        """Why the current file is not active; "" if it is."""
        self._path = path
        self._load = load
        self._last_stamp = self._seen_stamp = self._stamp()
        self._restless = 0

    def use(self, book: PolicyBook) -> bool:
        """Activate another book, unless a file is watched; return whether it is active."""
        if self._path is not None:
            return False
        self._activate(book)
        return True

    def refresh(self) -> bool:
        """Read the file if it changed; return whether another book is active. Blocks on the file system.

        The file is read only if it did not change between two calls, because half of a policy is often a
        valid, laxer policy.
        """
        if self._path is None or self._load is None:
            return False
        mark, before = self._stamp(), self._seen_stamp
        self._seen_stamp = mark
        if mark != before:
            self._restless += 1
            if self._restless == RESTLESS_LOOKS:
                self.errors += 1
                self.error = f"{self._path} keeps changing; it is read once it has been the same for a second"
                _log.error("token policy is not read; the last good one holds", error=self.error)
            return False
        self._restless = 0
        if mark == self._last_stamp:
            return False
        self._last_stamp = mark
        try:
            book = self._load()
        except Exception as error:  # in any case the last good book stays active
            self.errors += 1
            self.error = str(error) if isinstance(error, ConfigError) else f"{self._path}: {error!r}"
            _log.error("token policy was not reloaded; the last good one holds", error=self.error)
            return False
        self.error = ""
        self._activate(book)
        return True

    def _activate(self, book: PolicyBook) -> None:
        _log.info("token policy reloaded", version=book.version, before=self.book.version)
        self.reloads += 1
        self.book = book

    def _stamp(self) -> FileStamp | None:
        """Return a value that changes with the file, even if a file of the same age replaces it."""
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
