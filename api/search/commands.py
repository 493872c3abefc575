"""`trustwatch search`: everything that a query fits."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any, Final

import typer

from ..cli.remote import DEFAULT_URL, ServiceClient, TokenOption, UrlOption
from ..cli.terminal import JsonOption, print_message, write_json, write_line, write_table

_COLUMNS: Final = {
    "agents": {"agent_id": "agent", "tenant": "tenant", "risk_level": "level", "last_seen_at": "last seen"},
    "people": {"principal_id": "person", "tenant": "tenant", "agents": "agents", "last_seen_at": "last seen"},
    "cases": {"case_id": "case", "status": "status", "highest_level": "highest", "owner": "owner", "agents": "agents"},
    "decisions": {
        "decision_id": "decision",
        "agent_id": "agent",
        "level": "level",
        "decided_at": "decided",
        "case_id": "case",
    },
    "events": {
        "time": "time",
        "agent_id": "agent",
        "action": "action",
        "resource": "resource",
        "outcome": "outcome",
        "network": "network",
        "address": "address",
        "decision_id": "decision",
    },
}


def search(
    query: Annotated[list[str], typer.Argument(help="words and field:value, e.g. address:203.0.113.7 since:24h")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
    kind: Annotated[
        list[str] | None, typer.Option(help="agents, people, cases, decisions or events; again for more")
    ] = None,
    limit: Annotated[int, typer.Option(help="most of each kind")] = 20,
    json: JsonOption = False,
) -> None:
    """Find agents, people, cases, decisions and events by words, addresses, ids or fields.

    Everything that is given has to hold. A word is looked for in every name; field:value is the whole value, and *
    in it stands for anything. The page on the console in the reference lists the fields.
    """
    with closing(ServiceClient(url, token)) as service:
        found = service.call("search_everything", {"q": _query_text(query), "kind": kind, "limit": limit}).json()
    if json:
        write_json(found)
        return
    for name in found["not_fields"]:
        print_message(f"{name} is no field; it was looked for as a part of a name")
    for of in (kind for kind in _COLUMNS if found[kind]):
        write_line(of)
        write_table(found[of], _COLUMNS[of])
    if not any(found[of] for of in _COLUMNS):
        write_line("nothing was found")
    for of in _COLUMNS:
        if found[of] is not None and not _extent(found, of)["complete"]:
            print_message(f"more {of} may fit: narrow the query, or give since: and until:")
    trouble = (found["event_extent"] or {}).get("trouble")
    if trouble:
        print_message(trouble)


def _query_text(words: list[str]) -> str:
    """The query of the arguments: one is a whole query; of several, those with blanks are one value each."""
    if len(words) == 1:
        return words[0]
    return " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in words)


def _extent(found: dict[str, Any], kind: str) -> dict[str, Any]:
    extent: dict[str, Any] = found["event_extent"] if kind == "events" else found["extents"][kind]
    return extent
