"""Attacks of simulated enterprises, asked about call by call: which malicious calls wait before they are made.

A client asks before each call of the judged days. The agent's level of that moment decides first, by the default
policy, then the model at the default challenge budget. Nobody answers, and each call is made all the same, so that
every attack runs to its end; levels are those that all events before a call brought, as where the worker keeps up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.api.access.call_evaluation import decide_by_level
from trustwatch.ingest.events import NativeEvent
from trustwatch.models.call_challenges import CALL_TYPES
from trustwatch.scoring.backtest.challenge_counts import CALLS_AT_ONCE, clustered_share_bounds
from trustwatch.scoring.engine import risk_levels
from trustwatch.scoring.engine.announced_paths import as_parts
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.engine.settings import USUAL_CHALLENGES
from trustwatch.scoring.policy.access_evaluation import AccessRequest, evaluate_policy
from trustwatch.scoring.policy.book import ENFORCE, PolicyBook
from trustwatch.scoring.records.agents import RiskLevel

from ..detection.call_verdicts import as_questions
from ..detection.report import FigureTable, counted_share
from .attacked_enterprise import AttackedEnterprise, domains

ALL = "**all**"
_COLUMNS = (
    "attack",
    "its first malicious call waits",
    "one of them waits",
    "one waits by the model, whatever the level",
    "one waits before more than reads were done",
    "calls made before (median)",
    "of (median)",
    "honest calls as odd as its oddest, of 1,000 (median)",
)

Flags = NDArray[np.bool_]


class AskedAttack(NamedTuple):
    """Malicious calls of one attack, in order.

    Attributes:
        name: of its scenario.
        waits: bool (m,), those that are refused, or wait for a person.
        by_model: bool (m,), those that would wait whatever their agent's level.
        reads: bool (m,), those that only read.
        as_odd: share of the honest calls of its enterprise that score at least as high as the oddest of them.
    """

    name: str
    waits: Flags
    by_model: Flags
    reads: Flags
    as_odd: float

    @property
    def made(self) -> int:
        """Calls before the first that waits; all where none does."""
        return _first(self.waits)

    @property
    def stays_reading(self) -> bool | None:
        """True if a call waits before one that does more than read was made; None where all of them read."""
        return None if self.reads.all() else bool(self.waits.any()) and self.made <= _first(~self.reads)


class AskedEnterprise(NamedTuple):
    """Calls of an enterprise's judged days.

    Attributes:
        attacks: those with a malicious call.
        honest: (a,), calls of each agent before an attack touched it.
        waiting: (a,), of these those that wait.
        by_level: (a,), of these those that the agent's level holds.
    """

    attacks: list[AskedAttack]
    honest: NDArray[np.int32]
    waiting: NDArray[np.int32]
    by_level: NDArray[np.int32]


class JudgedCalls(NamedTuple):
    """Calls of the judged days.

    Attributes:
        rows: (c,), of the enterprise.
        reads: bool (c,), those that only read.
        by_model: bool (c,), as `AskedAttack.by_model`.
        by_level: bool (c,), those that their agent's level refuses or holds.
        oddness: (c,), scores of the model.
    """

    rows: NDArray[np.intp]
    reads: Flags
    by_model: Flags
    by_level: Flags
    oddness: NDArray[np.float64]

    @property
    def waits(self) -> Flags:
        """Those that are refused, or wait for a person."""
        return self.by_model | self.by_level


def ask_about_enterprise(world: AttackedEnterprise) -> AskedEnterprise:
    """Ask about every call of the judged days."""
    calls = judge_calls(world)
    malicious, attack, agent = (column[calls.rows] for column in (world.malicious_rows, world.attack, world.agent))
    honest, waits, agents = world.untouched_rows[calls.rows], calls.waits, int(world.agent.max()) + 1
    attacks = []
    for number, plan in enumerate(world.plans):
        own = malicious & (attack == number)
        if own.any():
            as_odd = float((calls.oddness[honest] >= calls.oddness[own].max()).mean())
            attacks.append(AskedAttack(plan.scenario.name, waits[own], calls.by_model[own], calls.reads[own], as_odd))
    counts = (np.bincount(agent[honest & kind], minlength=agents) for kind in (honest, waits, calls.by_level))
    return AskedEnterprise(attacks, *(count.astype(np.int32) for count in counts))


def judge_calls(world: AttackedEnterprise) -> JudgedCalls:
    """Answers to questions about all calls of the judged days."""
    questions = list(as_questions(world.events))
    rows = np.array([row for row, question in enumerate(questions) if question.type in CALL_TYPES], np.intp)
    calls = [questions[row] for row in rows.tolist()]
    levels = world.trail["level"][rows]
    # As the service does: what was announced of an agent counts below medium alone.
    announced = as_parts(world.trail["announced"][rows]) & (levels < risk_levels.MEDIUM)[:, np.newaxis]
    scorer = CallScorer(world.model, {}, domains(), CALLS_AT_ONCE)
    scores = scorer.score_many(calls, announced)
    by_model, oddness = (np.array([getattr(score, name) for score in scores]) for name in ("exceeds", "anomaly_score"))
    reads = np.array([call.effect == "read" for call in calls], np.bool_)
    return JudgedCalls(rows, reads, by_model, hold_by_level(calls, levels), oddness)


def hold_by_level(calls: Sequence[NativeEvent], levels: NDArray[np.int8]) -> Flags:
    """Flags (n,) of the calls that the default policy, enforced, refuses or holds at the *levels* (n,) of agents."""
    book = PolicyBook(default_mode=ENFORCE)
    held = []
    for call, level in zip(calls, levels.tolist(), strict=True):
        access = AccessRequest(call.tenant or "", call.agent.issuer or "", call.agent.id)
        policy = book.effective_policy(*access.identity, call.agent.type or "")
        verdict = evaluate_policy(access, policy, RiskLevel(level), book.version)
        held.append(decide_by_level(verdict, call.effect, approved=False)[0] != "allow")
    return np.array(held, np.bool_)


def table_of_asked(asked: Sequence[AskedEnterprise], names: Sequence[str]) -> FigureTable:
    """Attacks by name whose calls wait, beside the honest calls that do."""
    attacks = [attack for enterprise in asked for attack in enterprise.attacks]
    by_name = {name: [attack for attack in attacks if attack.name == name] for name in names}
    rows = [_row(name, found) for name, found in by_name.items() if found]
    return FigureTable("Attacks, asked before each call", _COLUMNS, [*rows, _row(ALL, attacks)], _note(asked))


def _row(name: str, attacks: Sequence[AskedAttack]) -> tuple[str, ...]:
    writing = [stays for attack in attacks if (stays := attack.stays_reading) is not None]
    return (
        name,
        counted_share(sum(bool(attack.waits[0]) for attack in attacks), len(attacks)),
        counted_share(sum(bool(attack.waits.any()) for attack in attacks), len(attacks)),
        counted_share(sum(bool(attack.by_model.any()) for attack in attacks), len(attacks)),
        counted_share(sum(writing), len(writing)) if writing else "–",
        f"{np.median([attack.made for attack in attacks]):.0f}",
        f"{np.median([len(attack.waits) for attack in attacks]):.0f}",
        f"{1000.0 * np.median([attack.as_odd for attack in attacks]):.1f}",
    )


def _note(asked: Sequence[AskedEnterprise]) -> str:
    honest, waiting, by_level = (
        np.concatenate([getattr(enterprise, name) for enterprise in asked])
        for name in ("honest", "waiting", "by_level")
    )
    calls = int(honest.sum())
    low, high = (1000.0 * bound for bound in clustered_share_bounds(honest, waiting) or (0.0, 1.0))
    return (
        "A call waits where the default policy refuses it or holds it at its agent's level, or the model at the "
        f"default budget of {USUAL_CHALLENGES:g} of 1,000; nobody answers, and each call is made all the same. "
        f"Calls made before are all of an attack where none waits; intervals 95 %. Of {calls:,} honest calls of the "
        f"same days, of agents that no attack has touched yet, {1000.0 * waiting.sum() / calls:.1f} of 1,000 wait "
        f"({low:.1f} to {high:.1f} roughly, calls of an agent together), {1000.0 * by_level.sum() / calls:.1f} by "
        "their agent's level."
    )


def _first(flags: Flags) -> int:
    """Place of the first flag that is set; behind the last where none is."""
    return int(np.argmax(flags)) if flags.any() else len(flags)
