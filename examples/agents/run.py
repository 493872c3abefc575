"""The world in small: agents, an authorization server, a gateway, and Trustwatch; one agent is turned, and contained.

    python -m examples.agents.run [--exit] [--report FILE]

See README.md. Exit status: 0 all was seen, 1 something was not, 3 a server cannot be had on this machine.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.service_stack import ServiceError, ServiceUnavailable

from .narrator import TerminalNarrator
from .story import Story
from .world import running

UNAVAILABLE = 3


class ShutdownRequest:
    """Ctrl-C, wherever it falls, and SIGTERM likewise: everything ends with us.

    Python prints and forgets an interrupt that falls into a finalizer or another callback of its own, so the next
    line of the story asks whether there was one.
    """

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Before anything is told.

        Raises:
            KeyboardInterrupt: we were asked to end.
        """
        if self._asked:
            raise KeyboardInterrupt


class InterruptibleConsole(Console):
    """A terminal that says nothing more once we are to end."""

    def __init__(self, ending: ShutdownRequest) -> None:
        super().__init__(highlight=False, soft_wrap=True)
        self._ending = ending

    def print(self, *objects: Any, **how: Any) -> None:
        self._ending.check()
        super().print(*objects, **how)


def ask_terminal(_: dict[str, Any]) -> str:
    """What the person at the terminal says."""
    while True:
        said = input("   approve or reject? ").strip().lower()
        if said in ("approve", "reject"):
            return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exit", action="store_true", help="play by itself and end; the approval is rejected")
    parser.add_argument("--report", type=Path, help="write what was seen as JSON")
    given = parser.parse_args()
    teller = TerminalNarrator(InterruptibleConsole(ShutdownRequest()))
    decide = (lambda _: "reject") if given.exit or not sys.stdin.isatty() else ask_terminal
    try:
        with running(teller.say) as world:
            teller.place = world.place
            story = Story(world, teller, decide)
            complete = story.run()
            if given.report:
                given.report.write_text(json.dumps(story.seen, indent=1))
            if not given.exit:
                teller.write_line(
                    f"\nEverything still runs: logs and settings in {world.folder}; for the commands of trustwatch:"
                )
                teller.write_line(
                    f"  export TRUSTWATCH_URL={world.place.trust_url} TRUSTWATCH_TOKEN=$(cat {world.folder}/dana.token)"
                )
                input("Enter ends it. ")
            return 0 if complete else 1
    except ServiceUnavailable as reason:
        teller.write_line(f"SERVER NOT TO BE HAD: {reason}", "bold red")
        return UNAVAILABLE
    except (ServiceError, RuntimeError) as reason:
        teller.write_line(str(reason), "bold red")
        return 1
    except (KeyboardInterrupt, EOFError):
        print("Ended.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
