"""Acts on cases by buttons in Slack: by people of the settings, through the service that console and API use."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

import structlog

from ...ingest.errors import TrustwatchError
from ...ingest.printable_text import printable_line
from ...scoring.delivery.notifiers.alert_content import truncate
from ...scoring.delivery.notifiers.slack_app_settings import SlackInteractionSettings, SlackPersonSettings
from ...scoring.delivery.notifiers.slack_buttons import ButtonValue, ConfirmingButton, button, row_of
from ...scoring.delivery.notifiers.webhook_target import WebhookTarget
from ...scoring.records.agents import RiskLevel
from ...scoring.records.cases import Case
from ...scoring.store.read_scope import restrict_reads
from ...scoring.store.saved_view_store import CONSOLE_NAME_PREFIX
from ..access.service import ContainmentService
from ..http.auth.callers import SCOPE_FEEDBACK, SCOPE_SCORE_READ, AuthenticatedCaller, SourceBinding
from ..http.problems import ProblemError
from ..http.runtime import Runtime
from ..settings.event_source_settings import EventSourceSettings
from .case_reports import CaseReport
from .consequences import VERDICT_CHOICES, ContainmentEffect, case_title, containment_effects
from .service import CaseService
from .slack_replies import SlackReplies, reply
from .slack_requests import SlackClick

CONTAINED_FOR_S: Final = 3_600.0
"""Seconds for which the button contains: the console's first choice."""
MAX_EFFECTS: Final = 12
"""Agents whose effects are told one by one."""
MAX_TITLE, MAX_AGENT_ID, MAX_EFFECT = 120, 60, 150
"""Characters: agents choose their names, and no name may push out what a button will do."""
RELEASED: Final = "Releasing drops the evidence against its agents, and ends fixed levels."

_log = structlog.get_logger(__name__)


class _Done(NamedTuple):
    """Result of a click: the message for whoever pressed, and the word for the metric."""

    message: dict[str, Any]
    outcome: str


class SlackActs:
    """Does what buttons say, and answers whoever pressed them.

    Args:
        runtime: settings and policies in force.
        cases: acts on cases.
        containment: knows which servers are told.
        replies: the way back.
    """

    def __init__(
        self, runtime: Runtime, cases: CaseService, containment: ContainmentService, replies: SlackReplies
    ) -> None:
        self._runtime = runtime
        self._cases = cases
        self._containment = containment
        self._replies = replies
        self.outcomes: Counter[str] = Counter()

    async def run(self, click: SlackClick, signed_for: list[WebhookTarget]) -> None:
        """Do it, and answer; nothing is raised. *signed_for* are the targets whose app signed the click."""
        try:
            done = await self._run(click, signed_for)
        except TrustwatchError as error:  # from before the act: `_act` tells of those that come from it
            done = _nothing_done(error)
        except Exception as error:  # the person has to hear of it, and no value of ours may be in the log
            _log.error("slack_click_failed", error=type(error).__name__)
            done = _Done(reply("Nothing is known of whether it was done: look at the case in the console."), "failed")
        self.outcomes[done.outcome] += 1
        asked_here = not (click.action == "acknowledge" or click.action.startswith("ask-"))
        await self._replies.send(click.response_url, done.message, replaces=asked_here)

    async def close(self) -> None:
        """Close the way back."""
        await self._replies.close()

    async def _run(self, click: SlackClick, signed_for: list[WebhookTarget]) -> _Done:
        target = next((one for one in signed_for if one.name == click.value.target), None)
        settings = None if target is None else target.interactions
        if target is None or settings is None or target.slack_app is None:
            return _Done(
                reply("Nothing was done: this button is of a target that the settings do not name."), "refused"
            )
        if click.channel != target.slack_app.channel or not _is_of_workspace(click, settings):
            return _Done(reply("Nothing was done: the button is of another workspace or channel."), "refused")
        named = [one for one in settings.people if one.user == click.user]
        person = next((one for one in named if settings.home_of(one) == (click.user_team or settings.team)), None)
        if person is None:
            return _no_person(click, settings, known=bool(named), target=target.name)
        caller = _caller(person, settings, self._runtime.clock() + 60.0)
        restrict_reads(caller.read_scope)
        return await self._act(caller, click)

    async def _act(self, caller: AuthenticatedCaller, click: SlackClick) -> _Done:
        value = click.value
        if click.action == "acknowledge":
            return await self._acknowledge(caller, value.case_id)
        report = await self._cases.get(caller, value.case_id, entries=1)
        if click.action.startswith("ask-"):
            return self._ask(report, click.action.removeprefix("ask-"), value)
        if value.revision == report.case.revision:
            try:
                await self._do(caller, click)
                return _Done(reply(_CONFIRMATIONS[click.action].format(case=value.case_id)), "done")
            except TrustwatchError as error:
                if error.code != "case_changed":
                    return _told(error)
            report = await self._cases.get(caller, value.case_id, entries=1)
        return self._changed(caller, report, click)

    async def _acknowledge(self, caller: AuthenticatedCaller, case_id: str) -> _Done:
        try:
            case = await self._cases.acknowledge(caller, case_id)
        except TrustwatchError as error:
            return _told(error)
        if case.owner == caller.recorded_name:
            return _Done(reply(f"You are on it, and others see that: {case_id}."), "done")
        return _Done(reply(f"The case is acknowledged: {case_id}. It stays with {case.owner}."), "done")

    def _changed(self, caller: AuthenticatedCaller, report: CaseReport, click: SlackClick) -> _Done:
        """Ask anew about a case that changed, unless all that changed is what the button would do."""
        case, value, last = report.case, click.value, report.entries[-1] if report.entries else None
        in_force = case.held_until_ms > self._runtime.now_ms() if click.action == "contain" else _closes(click, case)
        done = "contained" if click.action == "contain" else "closed"
        if last is not None and last.action == done and in_force and value.revision == case.revision - 1:
            who = "you" if last.by == caller.recorded_name else last.by
            return _Done(reply(f"The case is {done} already, by {who}: {case.case_id}."), "changed")
        asked = self._ask(report, click.action.removesuffix("-release"), value, "The case has changed. ")
        return asked._replace(outcome="changed")

    async def _do(self, caller: AuthenticatedCaller, click: SlackClick) -> Case:
        value, action = click.value, click.action
        note = f"by a button in Slack ({value.target})"
        if action == "contain":
            return await self._cases.contain(
                caller, value.case_id, note, valid_s=CONTAINED_FOR_S, revision=value.revision
            )
        verdict, release = action.removeprefix("close-").removesuffix("-release"), action.endswith("-release")
        return await self._cases.close(caller, value.case_id, verdict, note, release=release, revision=value.revision)

    def _ask(self, report: CaseReport, act: str, value: ButtonValue, before: str = "") -> _Done:
        """Say what *act* will do to the case as it is now, with a button that does it."""
        case, seen = report.case, ButtonValue(value.target, value.case_id, report.case.revision)
        agents = f"{case.agents} agent{'' if case.agents == 1 else 's'}"
        title = truncate(printable_line(case_title(case, report.agents)), MAX_TITLE)
        head = f"{before}{title}: {case.status}, {agents}, highest {_level(case)}."
        if case.status == "closed":
            return _Done(reply(f"Nothing was done: the case is closed. {head}"), "refused")
        if act == "contain":
            told_to, book = self._containment.informed_actuators, self._runtime.live_policy.book
            effects = containment_effects(report.agents, book, told_to)
            lines = [_effect_line(one) for one in effects[:MAX_EFFECTS]]
            lines += [f"and {len(effects) - MAX_EFFECTS} more, each by its own policy"] * (len(effects) > MAX_EFFECTS)
            said = f"{head} Containing it acts on each of its agents as critical, for an hour:"
            return _Done(
                reply(said, lines, [row_of([button("contain", f"Contain {agents}", seen, "danger")])]), "asked"
            )
        _, words, more = next(choice for choice in VERDICT_CHOICES if f"close-{choice[0]}" == act)
        buttons = [button(_CLOSING[act], "Close the case", seen, "primary")]
        if f"{act}-release" in _CLOSING:
            buttons.append(button(_CLOSING[f"{act}-release"], "Close, and release its agents", seen))
            more += f" {RELEASED}"
        return _Done(
            reply(f"{head} Closing it as {words[0].lower()}{words[1:]}. {more}", (), [row_of(buttons)]), "asked"
        )


def _is_of_workspace(click: SlackClick, settings: SlackInteractionSettings) -> bool:
    """True if the message stands in the workspace of the settings.

    Slack names none in apps of a whole organization: then the organization has to be that of the settings, or, where
    these name none, the user's workspace theirs. A click that says neither its workspace nor the user's is of nobody.
    """
    if click.organization and settings.organization and click.organization != settings.organization:
        return False
    if click.team:
        return click.team == settings.team
    if not click.user_team:
        return False
    if settings.organization:
        return click.organization == settings.organization
    return click.user_team == settings.team


def _no_person(click: SlackClick, settings: SlackInteractionSettings, *, known: bool, target: str) -> _Done:
    """Tell whoever pressed that it is nobody of ours, and what whoever runs Trustwatch would write."""
    people = f"`slack_app.interactions.people` of the target {target}"
    if known or (click.user_team and click.user_team != settings.team):
        words = (
            "Nothing was done: whoever pressed the button is of another workspace. If that is one of your own "
            f"Enterprise Grid, whoever runs Trustwatch names it as `home` of user {click.user} in {people}."
        )
        return _Done(reply(words), "refused")
    words = f"Nothing was done: user {click.user} is nobody of ours. Whoever runs Trustwatch adds people to {people}."
    return _Done(reply(words), "unknown_person")


def _caller(person: SlackPersonSettings, settings: SlackInteractionSettings, until_s: float) -> AuthenticatedCaller:
    """The person, as the console knows it: nobody decides twice by having two names."""
    binding = SourceBinding(EventSourceSettings(name=f"{CONSOLE_NAME_PREFIX}{person.name}", tenants=settings.tenants))
    scopes = frozenset((SCOPE_SCORE_READ, SCOPE_FEEDBACK))
    issuer, other_names = f"urn:trustwatch:slack:{settings.team}", frozenset({person.subject or ""} - {""})
    return AuthenticatedCaller(issuer, person.name, "", scopes, until_s, binding, other_names=other_names)


def _effect_line(effect: ContainmentEffect) -> str:
    agent_id = truncate(printable_line(effect.agent.agent.agent_id), MAX_AGENT_ID)
    return f"{agent_id} {truncate(effect.words, MAX_EFFECT)}"


def _closes(click: SlackClick, case: Case) -> bool:
    """True if *case* is closed as the button would close it."""
    return case.verdict == click.action.removeprefix("close-").removesuffix("-release")


def _told(error: TrustwatchError) -> _Done:
    """Tell of an error of an act: it may come when some of it is done already."""
    if isinstance(error, ProblemError):
        if error.code in ("case_partly_contained", "case_partly_closed"):
            words = str(error)
            return _Done(reply(f"{words[0].upper()}{words[1:]}"), "partly")
        if error.problem.status in (403, 404, 422) or error.code in ("case_changed", "case_closed"):
            return _nothing_done(error)
    return _Done(reply(f"Some of it may be done: look at the case in the console. What failed: {error}"), "failed")


def _nothing_done(error: TrustwatchError) -> _Done:
    outcome = "refused" if isinstance(error, ProblemError) else "failed"
    return _Done(reply(f"Nothing was done: {error}"), outcome)


def _level(case: Case) -> str:
    return RiskLevel(case.level).label


_CLOSING: Final[dict[str, ConfirmingButton]] = {
    "close-true": "close-true",
    "close-false": "close-false",
    "close-expected": "close-expected",
    "close-false-release": "close-false-release",
    "close-expected-release": "close-expected-release",
}
_CONFIRMATIONS: Final = {
    "contain": "The case is contained: {case}. What came of it stands in its story.",
    "close-true": "The case is closed as true: {case}.",
    "close-false": "The case is closed as false: {case}.",
    "close-expected": "The case is closed as expected: {case}.",
    "close-false-release": "The case is closed as false, and its agents are released: {case}.",
    "close-expected-release": "The case is closed as expected, and its agents are released: {case}.",
}
