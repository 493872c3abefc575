"""The story on the terminal: one line for each thing that happens."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from .environment import Environment

LEVELS = {
    "unknown": "cyan",
    "low": "green",
    "medium": "yellow",
    "high": "bold red",
    "critical": "bold white on red",
}
CLAIMS = ("agent_type", "capabilities", "delegated_user_id", "organization_id", "policy_version", "risk_level")
REFUSED = {401: "a new token is wanted (401)", 403: "refused by the gateway (403)"}


class TerminalNarrator:
    """Puts facts into words.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.place: Environment | None = None

    def say(self, text: str) -> None:
        """An aside."""
        self._console.print(Text(f"  {text}", style="dim"))

    def chapter(self, text: str) -> None:
        """What comes next."""
        self._console.print()
        self._console.rule(Text(text, style="bold"), align="left")

    def write_line(self, text: str, style: str = "") -> None:
        """A line of the story itself."""
        self._console.print(Text(text, style=style))

    def card(self, name: str, url: str, skill: str, description: str) -> None:
        """An agent's card, in short."""
        self._console.print(self._line(name, "card  ") + Text(f"{url} {skill}: {description}"))

    def claims(self, name: str, claims: dict[str, Any]) -> None:
        """What a token says of its agent."""
        told = {one: claims.get(one) for one in CLAIMS}
        told["capabilities"] = f"{len(claims.get('capabilities', ()))} actions"
        self._console.print(
            self._line(name, "claims ") + Text(", ".join(f"{one} {value}" for one, value in told.items()))
        )

    def write_entry(self, fact: dict[str, Any]) -> None:
        """A line for a fact of `diary.ActivityFeed`; some are not worth one."""
        make = getattr(self, f"_{fact['what']}", None)
        line = None if make is None else make(fact)
        if line is not None:
            self._console.print(line)

    def write_check(self, done: bool, text: str) -> None:
        """One thing that was to be seen."""
        mark = ("  ✔ ", "bold green") if done else ("  ✘ ", "bold red")
        self._console.print(Text.assemble(mark, text))

    def _token(self, fact: dict[str, Any]) -> Text:
        claims = fact["claims"]
        line = self._line(fact["agent"], "token ") + Text(f"exp−iat {fact['lifetime_s']} s", style="bold")
        line += Text(f", risk_level {claims.get('risk_level')}, scope “{claims.get('scope', '')}”")
        missing = set(fact["asked"].split()) - set(claims.get("scope", "").split())
        if missing:
            line += Text(f", without “{' '.join(sorted(missing))}”", style="yellow")
        if "act" in claims:
            line += Text(f", act {self._chain(claims['act'])}", style="magenta")
        return line

    def _no_token(self, fact: dict[str, Any]) -> Text:
        return self._line(fact["agent"], "token ") + Text(f"refused: {fact['error']}", style="bold red")

    def _tool(self, fact: dict[str, Any]) -> Text:
        line = self._line(fact["agent"], "tool  ") + Text(f"{fact['tool']} {fact['ref']}: ")
        if fact["status"] != 200:
            return line + Text(
                f"{REFUSED.get(fact['status'], fact['status'])}; its token has {fact['left_s']} s left",
                style="bold red",
            )
        return line + Text(str(fact["says"]).splitlines()[0], style="red" if fact["failed"] else "")

    def _ask(self, fact: dict[str, Any]) -> Text:
        return self._line(fact["agent"], "asks  ") + Text(f"{fact['peer']}: “{fact['text']}”")

    def _refused(self, fact: dict[str, Any]) -> Text:
        return self._line(fact["agent"], "asks  ") + Text(f"{fact['peer']} refuses: {fact['why']}", style="bold red")

    def _decision(self, fact: dict[str, Any]) -> Text | None:
        if self.place is None or fact["previous_level"] == fact["level"]:
            return None
        line = Text.assemble(("▌ risk   ", "bold blue")) + Text(f"{self.place.name_of(fact['agent_id']):<11}")
        line += Text(f"{fact['previous_level']} → ") + Text(fact["level"], style=LEVELS[fact["level"]])
        reason = fact["reasons"][0]["text"] if fact["reasons"] else str(fact["cause"])
        return line + Text(f" ({fact['risk_score']:.2f}): {reason}")

    def _line(self, agent: str, what: str) -> Text:
        return Text.assemble((f"{agent:>11}  ", "bold"), (what, "dim"))

    def _chain(self, act: dict[str, Any]) -> str:
        name = self.place.name_of(act["sub"]) if self.place else act["sub"]
        return f"{name} ← {self._chain(act['act'])}" if "act" in act else name
