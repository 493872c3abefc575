"""Origins of arguments: one call of 10 kB beside a conversation of 200 kB, against `json.dumps` and a plain search.

The baselines do less: `json.dumps` writes the same arguments, which every client does with them anyway, and the search
looks for each value in the conversation's text as it stands, which finds one spelling and parts of longer words. A body
is new in every call, since processors learn a text that comes again. Processor time of the thread, as other work on the
machine doubles the length of so short a call; what it does to the caches stays, and beside the median stands the
quietest turn. Target: a call below 100 µs there, and below a plain search by median. Exit status 1 if one is missed;
`--quick` only reports.
"""

from __future__ import annotations

import json
import random
import string
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from statistics import median
from typing import Any

from trustwatch_client.argument_origins import ArgumentOrigins, keyed_fingerprint

from .harness import arguments, finish, machine, table

MOST_US = 100.0
RESULTS, RESULT_CHARACTERS, BODY_CHARACTERS = 19, 10_000, 9_800
ROUNDS, QUICK_ROUNDS, BODIES = 200, 5, 200
CALLS_PER_TURN = {"origins of a call": 50, "json.dumps": 50, "plain search": 50}


def words(rng: random.Random, vocabulary: list[str], characters: int) -> str:
    """Text of about so many characters."""
    return " ".join(rng.choice(vocabulary) for _ in range(characters // 6))


def conversation(rng: random.Random, vocabulary: list[str]) -> tuple[ArgumentOrigins, str]:
    """A conversation, and its text as a plain search would keep it."""
    memory = ArgumentOrigins(lambda: keyed_fingerprint(b"k" * 32))
    texts = [words(rng, vocabulary, 4_000), words(rng, vocabulary, 1_000)]
    memory.add_system(texts[0])
    memory.add_prompt(texts[1])
    for number in range(RESULTS):
        body = words(rng, vocabulary, RESULT_CHARACTERS - 100)
        texts.append(f"{body} write to jo{number}@acme.example, pay DE89 3704 0044 0532 {number:04d} 00")
        memory.finish_call(memory.start_call("read", {}), texts[-1], untrusted=number % 2 == 0)
    return memory, "\n".join(texts)


def calls(bodies: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Arguments of calls, of about 10 kB each."""
    for number, body in enumerate(bodies):
        yield {
            "to": f"jo{number % RESULTS}@acme.example",
            "iban": f"DE89370400440532{number % RESULTS:04d}00",
            "amount": 1200 + number % 7,
            "subject": f"your invoice of may {number}",
            "body": body,
        }


def check(memory: ArgumentOrigins, call: dict[str, Any]) -> None:
    """Raise unless addresses and accounts are found, and the rest is not."""
    told = memory.start_call("send", call).arguments or []
    origins = {argument.name: argument.origin for argument in told}
    assert [origins[name] for name in call] == ["tool", "tool", "unseen", "unseen", "unseen"], origins


def search(text: str, call: dict[str, Any]) -> list[bool]:
    """Presence of each value, as it is spelled."""
    return [str(value) in text for value in call.values()]


def alternatives(rng: random.Random) -> dict[str, Callable[[], object]]:
    vocabulary = [
        "".join(rng.choices(string.ascii_lowercase, k=rng.choice((2, 3, 4, 5, 6, 7, 9)))) for _ in range(4000)
    ]
    memory, text = conversation(rng, vocabulary)
    bodies = cycle([words(rng, vocabulary, BODY_CHARACTERS) for _ in range(BODIES)])
    made = calls(f"{number} {body}" for number, body in enumerate(bodies))
    check(memory, next(made))
    results = cycle([words(rng, vocabulary, RESULT_CHARACTERS) for _ in range(BODIES)])
    other, _ = conversation(rng, vocabulary)
    read = other.start_call("read", {})
    return {
        "origins of a call": lambda: memory.start_call("send", next(made)),
        "json.dumps": lambda: json.dumps(next(made)),
        "plain search": lambda: search(text, next(made)),
        "remember 10 kB": lambda: other.finish_call(read, next(results)),
    }


def main() -> int:
    options = arguments(__doc__ or "")
    made, rounds = alternatives(random.Random(1)), QUICK_ROUNDS if options.quick else ROUNDS
    micros: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, call_once in made.items():
            micros[name].append(turn_us(call_once, CALLS_PER_TURN.get(name, 1)))
    medians = {name: median(values) for name, values in micros.items()}
    quietest = {name: min(values) for name, values in micros.items()}
    call = "origins of a call"
    table(
        "One call of 10 kB beside 200 kB of conversation",
        ("", "µs", "quietest turn, µs", "origins by median", "in the quietest turn"),
        [
            (name, medians[name], quietest[name], _ratio(medians, call, name), _ratio(quietest, call, name))
            for name in made
        ],
    )
    finish(machine(), {"median": medians, "quietest": quietest}, options.json)
    missed = quietest[call] >= MOST_US or medians[call] >= medians["plain search"]
    if missed:
        print(f"\nmissed: below {MOST_US:.0f} µs in the quietest turn, and below a plain search by median")
    return 1 if missed and not options.quick else 0


def turn_us(call: Callable[[], object], times: int) -> float:
    """Processor time of one call, µs."""
    begun = time.thread_time()
    for _ in range(times):
        call()
    return 1e6 * (time.thread_time() - begun) / times


def _ratio(micros: Mapping[str, float], one: str, other: str) -> str:
    return f"{micros[one] / micros[other]:.2f} x"


if __name__ == "__main__":
    sys.exit(main())
