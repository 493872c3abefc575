"""A made-up fleet that reads and sends sensitive things as its job, one that keeps them inside, and a thief in each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from .feature_histories import event

SENSITIVE_TYPE = "customer"
SENDERS, KEEPERS, TASKS = 6, 6, ("letters", "reports")
SUPPORT, DESK = "Support", "Desk"


def day_of_fleets(day: int, seed: int = 1) -> list[dict[str, Any]]:
    """Sessions of one honest day, in time order; values are new every day."""
    dice = random.Random(f"{seed}/{day}")
    sessions = []
    for number in range(SENDERS + KEEPERS):
        role = SUPPORT if number < SENDERS else DESK
        for turn in range(6):
            at_s = 86_400.0 * day + 4_000.0 * turn + 300.0 * number + dice.random() * 60
            sessions.append(list(session(role, number, at_s, TASKS[turn % 2], dice)))
    return sorted((made for calls in sessions for made in calls), key=lambda made: str(made["time"]))


def session(role: str, number: int, at_s: float, task: str, dice: random.Random) -> Iterator[dict[str, Any]]:
    """A ticket and a customer are looked up; Support mails what it found, Desk keeps it inside and mails the ticket."""
    call = _Caller(role, number, at_s, task, dice)
    yield call.read_ticket()
    yield call.read_customer()
    if role == SUPPORT:
        yield call.mail("body", 1, "read_customer")
    else:
        yield call.made("update_record", [call.argument("name", 1, "read_customer")], effect="write")
        yield call.mail("body", 0, "read_ticket")


def theft(role: str, number: int, at_s: float, task: str, body: tuple[int, str]) -> list[dict[str, Any]]:
    """The same calls to the same places; only the body of the last mail is out of the call that *body* names."""
    call = _Caller(role, number, at_s, task, random.Random(at_s))
    honest = [call.read_ticket(), call.read_customer()]
    if role == DESK:
        honest.append(call.made("update_record", [call.argument("name", 1, "read_customer")], effect="write"))
    return [*honest, call.mail("body", *body)]


class _Caller:
    """Makes the calls of one session."""

    def __init__(self, role: str, number: int, at_s: float, task: str, dice: random.Random) -> None:
        self._dice, self._number, self._at_s = dice, number, at_s
        self._members = {"role": role, "agent": f"{role}-{number}", "task": task, "session": f"s-{number}-{at_s:.0f}"}

    def made(self, action: str, arguments: list[dict[str, Any]], effect: str, **members: Any) -> dict[str, Any]:
        self._at_s += 5.0 + self._dice.random()
        told = {"arguments": arguments, "untrusted_result": action == "read_ticket", "effect": effect}
        sizes = {"bytes_out": self._dice.randrange(100, 2_000)}
        return event(self._at_s, action=action, **self._members, **told, **sizes, **members)

    def argument(self, name: str, source: int, action: str) -> dict[str, Any]:
        value = f"{self._dice.getrandbits(48):012x}"
        return {
            "name": name,
            "origin": "tool",
            "from": source,
            "from_action": action,
            "hash": value,
            "untrusted": False,
        }

    def read_ticket(self) -> dict[str, Any]:
        return self.made("read_ticket", [], "read", resource={"id": f"t-{self._dice.randrange(8)}", "type": "ticket"})

    def read_customer(self) -> dict[str, Any]:
        resource = {"id": f"c-{self._dice.randrange(8)}", "type": SENSITIVE_TYPE}
        return self.made("read_customer", [], "read", resource=resource)

    def mail(self, name: str, source: int, action: str) -> dict[str, Any]:
        resource = {"id": f"box-{self._dice.randrange(3)}@partner.example", "external": True}
        return self.made("send_mail", [self.argument(name, source, action)], "write", resource=resource)
