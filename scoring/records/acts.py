"""Acts: what people did, whatever it was about. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.described import member

from .agents import AgentName

ActKind = Literal["pin", "approval", "release", "case", "feedback", "erasure", "model", "stream"]


class Act(msgspec.Struct, frozen=True):
    """One thing that a person (or a program in a person's place) ordered, decided or said."""

    at_ms: Annotated[int, member("when it happened")]
    by: Annotated[str, member("who did it; a user of the console appears as `console:NAME`", "analyst")]
    kind: Annotated[ActKind, member("kind of the act")]
    action: Annotated[str, member("what was done, by kind", "approve")]
    subject_id: Annotated[
        str,
        member(
            "id of the pin, approval, case, feedback, erasure or stream; the version of a model; for a "
            "release, the decision that followed",
            "01KAW4CD1JQ4V1S0Z3Y8M4C2QK",
        ),
    ]
    why: Annotated[str, member("reason in the person's words, if one was given", "key leaked, INC-77", null=True)]
    detail: Annotated[str, member("level, scopes or verdict, if any", "as critical", null=True)]
    tenant: Annotated[str | None, member("null = it is about the whole deployment", "acme-corp")]
    agent: AgentName | None
