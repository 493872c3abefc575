"""Mappings of gateways' JSON logs, as their manuals and real records show them.

Each needs the gateway to log who called: `docs/ingest-topics.md` says which lines that takes. Records that name no
agent are skipped: a gateway logs every stranger too. An action is the tool, or the method with the route (paths hold
ids, of which each would be an action of its own); the path is the resource, without its query.

Only ids that the gateway alone chooses identify an event. `x-request-id` is no such id: a client may send its own, and
one that repeated it would have all its events but the first dropped as duplicates.
"""

from __future__ import annotations

from collections.abc import Mapping

from .record_mapping import MappingSpec

OUTCOME_OF_STATUS = {
    "denied": "denied",
    "error": "error",
    "1xx": "success",
    "2xx": "success",
    "3xx": "success",
    "401": "denied",
    "403": "denied",
    "*": "error",
}
EFFECT_OF_METHOD = {
    "GET": "read",
    "HEAD": "read",
    "OPTIONS": "read",
    "POST": "write",
    "PUT": "write",
    "PATCH": "write",
    "DELETE": "delete",
    "tools/list": "read",
    "resources/list": "read",
    "resources/read": "read",
    "prompts/list": "read",
    "prompts/get": "read",
    "*": "unknown",
}
_HTTP_VALUES = {"outcome": OUTCOME_OF_STATUS, "effect": EFFECT_OF_METHOD}

_ENVOY_AGENT = '"jwt.act.sub" || "jwt.client_id" || "jwt.azp"'
ENVOY = MappingSpec(
    anonymous="skip",
    members={
        "time": "start_time",
        "agent.id": f'{_ENVOY_AGENT} || "jwt.sub"',
        "agent.issuer": '"jwt.iss"',
        "principal.id": f'({_ENVOY_AGENT}) && "jwt.sub" != ({_ENVOY_AGENT}) && "jwt.sub"',
        "type": "\"mcp.method.name\" == 'tools/call' && 'tool.call' || 'api.call'",
        "action": '"mcp.name" || "mcp.tool.name" || "mcp.method.name"'
        " || join(' ', [method || '-', route_name || no_query(\"x-envoy-origin-path\") || '-'])",
        "effect": '"mcp.method.name" || method',
        "resource.id": 'no_query("x-envoy-origin-path")',
        "resource.target": 'host(":authority") || "mcp.provider.name"',
        # Denied by us, and by us not answering, are not what an agent did wrong.
        "outcome": "response_code_details == 'ext_authz_denied' && 'denied'"
        " || response_code_details == 'ext_authz_error' && 'error' || response_code",
        # Envoy's own word: an upstream server has no say in it.
        "caused_by": "contains(['ext_authz_denied', 'ext_authz_error'], response_code_details || '') && 'trustwatch'",
        "status": "response_code",
        "error": "response_code_details != 'via_upstream' && response_code_details"
        " || upstream_transport_failure_reason",
        "bytes_in": "bytes_received",
        "bytes_out": "bytes_sent",
        "duration_ms": "duration",
        "client.ip": "host(downstream_remote_address)",
        "client.user_agent": '"user-agent"',
        # Not the scopes of the token: what we left out of it ourselves is no change of the agent's habits.
        "credential.token_id": 'sha256("jwt.jti")',
        "session": '"mcp.session.id"',
        "attributes.request_id": '"x-request-id"',
        "attributes.model": '"gen_ai.response.model" || "gen_ai.request.model"',
        "attributes.input_tokens": '"gen_ai.usage.input_tokens"',
        "attributes.output_tokens": '"gen_ai.usage.output_tokens"',
    },
    values=_HTTP_VALUES,
)
"""Envoy, Envoy Gateway and Envoy AI Gateway: their default keys and `jwt.*` added by configuration."""

_MCP = '("mcp.method.name" || "mcp.method")'
_OUR_REFUSAL = "reason == 'ExtAuth' && contains(['401', '403'], to_string(\"http.status\"))"
AGENTGATEWAY = MappingSpec(
    anonymous="skip",
    logfmt=True,
    members={
        "time": "time || timestamp",
        "agent.id": '"jwt.act.sub" || client_id || "jwt.sub" || "agw.api_key.name"',
        "principal.id": '("jwt.act.sub" || client_id) && "jwt.sub" != ("jwt.act.sub" || client_id) && "jwt.sub"',
        "type": f"{_MCP} == 'tools/call' && 'tool.call' || \"a2a.method\" && 'a2a.message' || 'api.call'",
        "action": f'"gen_ai.tool.name" || {_MCP} || "a2a.method" || "gen_ai.operation.name"'
        " || join(' ', [\"http.method\" || '-', route || no_query(\"http.path\") || '-'])",
        "effect": f'{_MCP} || "http.method"',
        "resource.id": '"mcp.resource.uri" || no_query("http.path")',
        "resource.target": '"mcp.target" || host(endpoint) || "http.host"',
        # Refused by us, or by us not answering: see `ENVOY`.
        "outcome": f"{_OUR_REFUSAL} && 'denied' || reason == 'ExtAuth' && 'error'"
        ' || "mcp.error.code" && \'error\' || "a2a.response.error_code" && \'error\' || "http.status"',
        # Not `error` and `mcp.error.message`: they hold what the server behind the gateway wrote.
        "caused_by": "reason == 'ExtAuth' && 'trustwatch'",
        "status": '"http.status"',
        "error": f"{_OUR_REFUSAL} && 'ext_authz_denied' || reason == 'ExtAuth' && 'ext_authz_error'"
        ' || error || "mcp.error.message" || "error.type" || reason',
        "duration_ms": "ms(duration)",
        "client.ip": 'host("src.addr")',
        "client.user_agent": '"user_agent.name"',
        "session": '"mcp.session.id" || "a2a.context.id"',
        "trace_id": '"trace.id"',
        "attributes.model": '"gen_ai.response.model" || "gen_ai.request.model"',
        "attributes.input_tokens": '"gen_ai.usage.input_tokens"',
        "attributes.output_tokens": '"gen_ai.usage.output_tokens"',
    },
    values=_HTTP_VALUES,
)
"""agentgateway: its default lines (logfmt), or the same keys as JSON."""

KONG = MappingSpec(
    anonymous="skip",
    time_format="ms",
    members={
        "id": "request.id",
        "time": "started_at",
        "agent.id": "consumer.custom_id || consumer.username || authenticated_entity.id",
        "type": "'api.call'",
        "action": "join(' ', [request.method || '-', route.name || route.id || no_query(request.uri) || '-'])",
        "effect": "request.method",
        "resource.id": "no_query(request.uri)",
        "resource.target": "service.host || host(request.url)",
        "outcome": "response.status",
        "status": "response.status",
        "error": "source != 'upstream' && source",
        "bytes_in": "request.size",
        "bytes_out": "response.size",
        "duration_ms": "latencies.request",
        "client.ip": "client_ip",
        "client.user_agent": 'request.headers."user-agent"',
        "attributes.service": "service.name",
        "attributes.workspace": "workspace_name",
    },
    values=_HTTP_VALUES,
)
"""Kong: the record of its log plug-ins (http-log, kafka-log, file-log, tcp-log)."""

APISIX = MappingSpec(
    anonymous="skip",
    time_format="ms",
    members={
        "time": "start_time",
        "agent.id": "consumer.username",
        "type": "'api.call'",
        "action": "join(' ', [request.method || '-', route_id || no_query(request.uri) || '-'])",
        "effect": "request.method",
        "resource.id": "no_query(request.uri)",
        "resource.target": "host(request.url)",
        "outcome": "response.status",
        "status": "response.status",
        "bytes_in": "request.size",
        "bytes_out": "response.size",
        "duration_ms": "latency",
        "client.ip": "client_ip",
        "client.user_agent": 'request.headers."user-agent"',
        "attributes.route": "route_id",
        "attributes.service": "service_id",
    },
    values=_HTTP_VALUES,
)
"""Apache APISIX: the default record of kafka-logger and http-logger, one or an array."""

CADDY = MappingSpec(
    anonymous="skip",
    when="request",
    time_format="s",
    members={
        "time": "ts",
        "agent.id": "user_id",
        "type": "'api.call'",
        "action": "join(' ', [request.method || '-', no_query(request.uri) || '-'])",
        "effect": "request.method",
        "resource.id": "no_query(request.uri)",
        "resource.target": "host(request.host)",
        "outcome": "status",
        "status": "status",
        "bytes_in": "bytes_read",
        "bytes_out": "size",
        "duration_ms": "scale(duration, `1000`)",
        "client.ip": "request.client_ip || request.remote_ip",
        "client.user_agent": 'request.headers."User-Agent"[0]',
    },
    values=_HTTP_VALUES,
)
"""Caddy: its JSON access log; other lines of the server are skipped."""

_OF_A_TOOL = "(resource_type == 'tool' && contains(['EXECUTE', 'execute', 'invoke', 'invoke_tool', 'call'], action))"
CONTEXTFORGE = MappingSpec(
    anonymous="skip",
    members={
        "id": "id",
        "time": "utc(timestamp)",
        "agent.id": "user_email || user_id",
        "type": f"{_OF_A_TOOL} && 'tool.call' || contains(['EXECUTE', 'READ', 'ACCESS'], action) && 'api.call'"
        " || 'admin'",
        "action": f"{_OF_A_TOOL} && (resource_name || resource_id) || join(' ', [action, resource_type || '-'])",
        "effect": f"{_OF_A_TOOL} && 'EXECUTE' || before(action, '_')",
        "resource.type": "resource_type",
        "resource.id": "resource_id",
        "outcome": "contains([`true`, `1`, 'true', 'True', '1'], success) && 'success' || 'error'",
        "client.ip": "client_ip",
        "client.user_agent": "user_agent",
        "trace_id": "correlation_id",
        "attributes.team": "team_id",
        "attributes.data_classification": "data_classification",
    },
    values={
        "effect": {
            **dict.fromkeys(("READ", "ACCESS", "EXPORT", "read", "list", "get"), "read"),
            **dict.fromkeys(("CREATE", "UPDATE", "IMPORT", "create", "update"), "write"),
            **dict.fromkeys(("DELETE", "delete"), "delete"),
            "*": "unknown",
        }
    },
)
"""ContextForge: its audit trail, of its API or of its database; spans of it are `otlp`."""

GATEWAY_PRESETS: Mapping[str, MappingSpec] = {
    "envoy": ENVOY,
    "agentgateway": AGENTGATEWAY,
    "kong": KONG,
    "apisix": APISIX,
    "caddy": CADDY,
    "contextforge": CONTEXTFORGE,
}
