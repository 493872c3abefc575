"""Bodies of acts."""
# No postponed annotations here: pydantic reads them.

from pydantic import BaseModel, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.acts import Act, ActKind

from ..http.schemas import TimeText


class ActOut(BaseModel):
    """One thing that somebody did."""

    at: TimeText
    by: str = Field(description="who did it, as the record of it says; people of the console as `console:NAME`")
    kind: ActKind = Field(description="what it was about")
    action: str = Field(description="what was done, by kind", examples=["approve"])
    subject_id: str = Field(
        description="id of the pin, approval, case, feedback, erasure, stream; version of a model; of a release the "
        "decision that came of it",
        examples=["01KAW4CD1JQ4V1S0Z3Y8M4C2QK"],
    )
    why: str | None = Field(description="in the words of who did it", examples=["key leaked, INC-77"])
    detail: str | None = Field(description="level, scopes or verdict, in short", examples=["as critical"])
    tenant: str | None = Field(description="null = it is about the whole deployment")
    agent_id: str | None = Field(description="null = it is about no single agent")
    issuer: str | None = Field(description="of the agent")


def act_out(act: Act) -> ActOut:
    """An act as it is answered."""
    return ActOut(
        at=format_rfc3339(act.at_ms),
        by=act.by,
        kind=act.kind,
        action=act.action,
        subject_id=act.subject_id,
        why=act.why or None,
        detail=act.detail or None,
        tenant=act.tenant,
        agent_id=None if act.agent is None else act.agent.agent_id,
        issuer=None if act.agent is None else act.agent.issuer,
    )
