"""Acts: what people did, whatever it was about. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from .agents import AgentName

ActKind = Literal["pin", "approval", "release", "case", "feedback", "erasure", "model", "stream"]
ACT_KINDS: tuple[ActKind, ...] = get_args(ActKind)


class Act(msgspec.Struct, frozen=True):
    """One thing that a person (or a program in a person's place) ordered, decided or said.

    Attributes:
        kind: what it is about; with *action*, what was done.
        subject_id: of the pin, approval, case, feedback, erasure or stream; the version of a model; of a release the
            decision that came of it.
        why: in the person's words; "" = nothing was said.
        detail: what makes the act (a level, scopes, a verdict), in short; "" = nothing more.
        tenant: None = it is about the deployment.
        agent: None = it is about no single agent.
    """

    at_ms: int
    by: str
    kind: ActKind
    action: str
    subject_id: str
    why: str
    detail: str
    tenant: str | None
    agent: AgentName | None
