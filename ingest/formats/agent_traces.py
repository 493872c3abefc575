"""Traces of agents as LangSmith and Langfuse export them: the calls of tools and models, never what they said.

Neither has a member for the agent: who writes a trace names it in its metadata, or the project or trace is called like
it. So ids are self-asserted, as those of OpenTelemetry spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .format_signs import SIGNS
from .record_mapping import MappingSpec, UnpackedRecord
from .wrapped_records import unpack_audit_log

_RUN_METADATA = "extra.metadata"

LANGSMITH = MappingSpec(
    anonymous="skip",
    # Chains, prompts and parsers are steps inside of an agent.
    when="contains(['tool', 'llm', 'retriever', 'embedding'], run_type) && status != 'pending'",
    members={
        "id": "id",
        "time": "utc(start_time)",
        "agent.id": f"{_RUN_METADATA}.agent_id || {_RUN_METADATA}.agent_name || {_RUN_METADATA}.lc_agent_name"
        f" || {_RUN_METADATA}.assistant_id || session_name || session_id",
        "agent.version": f"{_RUN_METADATA}.agent_version || {_RUN_METADATA}.revision_id",
        "agent.self_asserted": "`true`",
        "principal.id": f"{_RUN_METADATA}.user_id",
        "type": "run_type == 'tool' && 'tool.call' || 'api.call'",
        "action": "run_type == 'tool' && name || run_type",
        "effect": "run_type == 'retriever' && 'read' || 'unknown'",
        "resource.target": f"{_RUN_METADATA}.ls_provider",
        "outcome": "(error || status == 'error') && 'error' || 'success'",
        # Not `error`: it is a text of the program, and quotes what was sent.
        "error": "(error || status == 'error') && 'error'",
        "duration_ms": "ms_between(start_time, end_time)",
        "session": f"{_RUN_METADATA}.thread_id || {_RUN_METADATA}.session_id || {_RUN_METADATA}.conversation_id",
        "trace_id": "trace_id",
        "attributes.model": f"{_RUN_METADATA}.ls_model_name",
        "attributes.input_tokens": "prompt_tokens",
        "attributes.output_tokens": "completion_tokens",
    },
)
"""LangSmith: runs of its bulk export, its API and its SDK."""

_SPAN_ATTRIBUTES = "metadata.attributes"
_SERVICE = 'metadata.resourceAttributes."service.name"'

LANGFUSE = MappingSpec(
    anonymous="skip",
    when="contains(['TOOL', 'GENERATION', 'RETRIEVER', 'EMBEDDING'], type)",
    members={
        "id": "id",
        "time": "utc(startTime || start_time)",
        "agent.id": f'metadata.agent_id || metadata.agent_name || {_SPAN_ATTRIBUTES}."gen_ai.agent.id"'
        f' || {_SPAN_ATTRIBUTES}."gen_ai.agent.name" || metadata.lc_agent_name || traceName || trace_name'
        f" || !starts_with({_SERVICE} || 'unknown_service', 'unknown_service') && {_SERVICE}",
        "agent.version": "version",
        "agent.self_asserted": "`true`",
        "principal.id": "userId || user_id",
        "type": "type == 'TOOL' && 'tool.call' || 'api.call'",
        "action": "type == 'TOOL' && name || type",
        "effect": "type == 'RETRIEVER' && 'read' || 'unknown'",
        "outcome": "level == 'ERROR' && 'error' || 'success'",
        # Not `statusMessage`: a text of the program.
        "error": "level == 'ERROR' && 'error'",
        "duration_ms": "scale(latency, `1000`)",
        "session": "sessionId || session_id",
        "trace_id": "traceId || trace_id",
        "attributes.environment": "environment",
        "attributes.model": "model || providedModelName || provided_model_name",
    },
)
"""Langfuse: observations of its API, its exports to blob storage and its downloads."""


def unpack_observations(value: bytes) -> Iterator[UnpackedRecord]:
    """Observations; those in a trace's page or download with what the trace alone says."""
    for raw, record, kind, _ in unpack_audit_log(value, shows=SIGNS["langfuse"]):
        observations = record.get("observations") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(observations, list):
            yield UnpackedRecord(raw, record, kind)
            continue
        of_trace = {
            "traceName": record.get("name"),
            "userId": record.get("userId"),
            "sessionId": record.get("sessionId"),
        }
        for observation in observations:
            named = observation if isinstance(observation, dict) else {}
            yield UnpackedRecord(raw, {**of_trace, **named}, kind)


AGENT_TRACE_PRESETS: Mapping[str, MappingSpec] = {"langsmith": LANGSMITH, "langfuse": LANGFUSE}
