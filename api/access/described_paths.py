"""Hooks and gateways in the OpenAPI document: they are answered before FastAPI, which knows nothing of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..http.auth.callers import SCOPE_DECIDE
from ..http.openapi_document import OAUTH_SCHEME, SCHEMA_REF_PREFIX, DescribedPaths
from .schemas import CALL_QUESTION_SCHEMAS

Part = dict[str, Any]

_BY_TOKEN: Final = [{OAUTH_SCHEME: [SCOPE_DECIDE]}]
_BY_HOOK: Final[list[Part]] = [{"hookSecret": []}, {"hookBasic": []}, {"hookBearer": []}, {"hookSignature": []}]
_OF_AGENT: Final[list[Part]] = [{"agentToken": []}]


def _schema(name: str) -> Part:
    return {"$ref": SCHEMA_REF_PREFIX + name}


def _json(name: str) -> Part:
    return {"application/json": {"schema": _schema(name)}}


def _answer(text: str, content: Part | None = None, headers: Mapping[str, str] | None = None) -> Part:
    answer: Part = {"description": text}
    if content:
        answer["content"] = content
    if headers:
        answer["headers"] = {
            name: {"description": said, "schema": {"type": "string"}} for name, said in headers.items()
        }
    return answer


def _text(text: str) -> Part:
    return _answer(text, {"text/plain": {"schema": {"type": "string", "description": "what is wrong"}}})


def _problem(text: str) -> Part:
    return _answer(text, {"application/problem+json": {"schema": _schema("ProblemOut")}})


_ID_HEADER: Final[Part] = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "id of the request, given back with the answer",
    "schema": {"type": "string", "maxLength": 128},
}
_COMMON: Final[Part] = {
    "400": _problem("several or malformed Authorization headers, or an unreadable request"),
    "404": _problem("nothing of that name is configured here"),
    "413": _problem("the body has more bytes than the route takes"),
    "421": _problem("neither a bearer token nor a `Host` of this service"),
}
_CHALLENGE: Final = {"WWW-Authenticate": "how to prove oneself, and what was wrong"}


def _hook() -> Part:
    product = {"application/json": {"schema": _schema("ProductAnswer")}}
    return {
        "tags": ["hooks"],
        "operationId": "ask_hook",
        "summary": "Decide about a token that is being issued",
        "description": "Asked by Ory Hydra, Okta, WSO2 or ZITADEL, each in its own shape, with the proof that the "
        "hook's settings name. Answered from memory; what can not be decided is answered as `on_failure` says.",
        "security": _BY_HOOK,
        "parameters": [
            {
                "name": "hook",
                "in": "path",
                "required": True,
                "description": "name of the hook in the settings",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "required": True,
            "description": "the product's own request",
            "content": {"application/json": {"schema": _schema("ProductQuestion")}},
        },
        "responses": {
            **_COMMON,
            "200": _answer("the token as it may be issued, or the product's own denial", product),
            "204": _answer("the token is issued unchanged"),
            "401": _answer("the secret or signature is missing, wrong or too old", product, _CHALLENGE),
            "403": _answer("the token is denied, where the product takes that for an answer", product),
        },
    }


def _evaluation(*, several: bool) -> Part:
    many = "s" if several else ""
    return {
        "tags": ["hooks"],
        "operationId": f"evaluate_access{'_batch' if several else ''}",
        "summary": "AuthZEN: many evaluations" if several else "AuthZEN: one evaluation",
        "description": "OpenID AuthZEN Authorization API 1.0, with the token issuance profile: an action "
        f"`issue:TYPE:GRANT` is its gate. A denial has status 200. Scope `{SCOPE_DECIDE}`.",
        "security": _BY_TOKEN,
        "parameters": [_ID_HEADER],
        "requestBody": {"required": True, "content": _json(f"Evaluation{many}Question")},
        "responses": {
            "200": _answer("the decision" + many, _json(f"Evaluation{many}Answer")),
            "400": _text("no evaluation can be read, or the body is not `application/json`"),
            "401": _answer(
                "no token, or one that is refused", {"text/plain": {"schema": {"type": "string"}}}, _CHALLENGE
            ),
            "403": _text("the token lacks the scope, or its client may not ask about those agents"),
            "404": _problem("AuthZEN is not configured here"),
            "413": _text("the body is too large"),
            "421": _problem("neither a bearer token nor a `Host` of this service"),
        },
    }


def _metadata() -> Part:
    return {
        "tags": ["hooks"],
        "operationId": "read_authzen_metadata",
        "summary": "AuthZEN: metadata of the decision point",
        "description": "Where the decision point is, and what it can do. Open to everybody.",
        "security": [],
        "responses": {
            "200": _answer("the metadata", _json("AuthzenMetadata")),
            "400": _problem("not exactly one `Host`"),
            "404": _problem("AuthZEN is not configured here"),
            "421": _problem("not a `Host` of this service"),
        },
    }


def _check(operation: str, summary: str, description: str, parameters: list[Part]) -> Part:
    refused = _json("GatewayRefusal")
    return {
        "tags": ["gateways"],
        "operationId": operation,
        "summary": summary,
        "description": description,
        "security": _OF_AGENT,
        "parameters": [*parameters, _ID_HEADER],
        "responses": {
            "200": _answer(
                "the call may go on", None, {"X-Risk-Level": "risk level, where the settings name a header"}
            ),
            "401": _answer("no token, one that is refused, or a person must approve first", refused, _CHALLENGE),
            "403": _answer("the call may not go on", refused),
            **_COMMON,
        },
    }


def _ext_authz(method: str) -> Part:
    path = {
        "name": "path",
        "in": "path",
        "required": True,
        "description": "path of the call as the agent sent it, slashes included",
        "schema": {"type": "string"},
    }
    return _check(
        f"check_call_{method}",
        f"Envoy: check a call ({method.upper()})",
        "`ext_authz` of Envoy over HTTP: the agent's own request without its body, behind the prefix. Any method is "
        "checked; the answer is a status and headers.",
        [path],
    )


def _forward_auth() -> Part:
    names = {
        "X-Forwarded-Method": "method of the call",
        "X-Forwarded-Host": "host of the call",
        "X-Forwarded-Uri": "path of the call",
    }
    headers = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in names.items()
    ]
    return _check(
        "check_forwarded_call",
        "Sub-requests: check a call",
        "For NGINX (`auth_request`), Traefik, Caddy, APISIX and others: a sub-request with the agent's Authorization "
        "header. `X-Original-…` is understood as well. Any method.",
        headers,
    )


def _introspect() -> Part:
    refused = _json("IntrospectionError")
    return {
        "tags": ["gateways"],
        "operationId": "introspect_token",
        "summary": "Token introspection with risk (RFC 7662)",
        "description": "For resource servers: a token of an agent whose level revokes is not active any more. By a "
        f"client of `gateway.clients` (basic), or with a token of scope `{SCOPE_DECIDE}`.",
        "security": [{"clientBasic": []}, *_BY_TOKEN],
        "requestBody": {
            "required": True,
            "content": {"application/x-www-form-urlencoded": {"schema": _schema("IntrospectionQuestion")}},
        },
        "responses": {
            "200": _answer("what holds of the token", _json("IntrospectionAnswer")),
            "400": _answer("no form with one token", refused),
            "401": _answer("no such client, or another secret", refused, _CHALLENGE),
            "403": _answer("the token of the caller lacks the scope", refused),
            "404": _problem("no gateway is configured here"),
            "413": _problem("the body is too large"),
            "421": _problem("neither a bearer token nor a `Host` of this service"),
            "503": _answer("the issuer does not answer", refused, {"Retry-After": "seconds"}),
        },
    }


def _object(text: str, example: Any, required: tuple[str, ...] = (), **members: Part) -> Part:
    schema: Part = {"type": "object", "description": text, "properties": members, "examples": [example]}
    return schema | ({"required": list(required)} if required else {"additionalProperties": True})


def _member(kind: str, text: str, **more: Any) -> Part:
    return {"type": kind, "description": text, **more}


_ENTITY: Final = {"type": "agent", "id": "agent-payment-processor-v2.1"}
_EVALUATION: Final = {
    "subject": _ENTITY,
    "action": {"name": "payments:write"},
    "resource": {"type": "account", "id": "acct-42"},
}
_SCHEMAS: Final[Mapping[str, Part]] = {
    "ProductQuestion": _object(
        "The request of an authorization server, as its own documentation has it.",
        {"request": {"client_id": "agent-payment-processor-v2.1", "grant_types": ["client_credentials"]}},
    ),
    "ProductAnswer": _object(
        "The answer in the product's own words.", {"session": {"access_token": {"risk_level": "low"}}}
    ),
    "AuthzenEntity": _object(
        "A subject or resource of AuthZEN.",
        _ENTITY,
        ("type", "id"),
        type=_member(
            "string", "kind of the entity; of a `user` or an `identity`, who are persons, the agent is in `context`"
        ),
        id=_member("string", "its id"),
        properties=_member("object", "more about it", additionalProperties=True),
    ),
    "AuthzenAction": _object(
        "An action of AuthZEN.",
        {"name": "payments:write"},
        ("name",),
        name=_member("string", "a scope, the name of a call, or `issue:TYPE:GRANT`"),
        properties=_member("object", "more about it, `effect` among it", additionalProperties=True),
    ),
    "EvaluationQuestion": _object(
        "Whether a subject may do something.",
        _EVALUATION,
        ("subject", "action", "resource"),
        subject=_schema("AuthzenEntity") | {"description": "who acts"},
        action=_schema("AuthzenAction") | {"description": "what is done"},
        resource=_schema("AuthzenEntity") | {"description": "what it is done to"},
        context=_member(
            "object",
            "`agent`, `client_id`, `act`: the agents that are judged; with `arguments` a call is judged as "
            "`POST /v1/agents/{agent_id}/calls/evaluate` does",
            additionalProperties=True,
        ),
    ),
    "EvaluationsQuestion": _object(
        "Several evaluations; what one does not say is that of the whole.",
        {"subject": _ENTITY, "evaluations": [{name: _EVALUATION[name] for name in ("action", "resource")}]},
        ("evaluations",),
        subject=_schema("AuthzenEntity") | {"description": "who acts, where an item does not say it"},
        action=_schema("AuthzenAction") | {"description": "what is done, where an item does not say it"},
        resource=_schema("AuthzenEntity") | {"description": "what it is done to, where an item does not say it"},
        context=_member("object", "context, where an item has none", additionalProperties=True),
        evaluations=_member(
            "array",
            "the items, in the order of the answers",
            items={"type": "object", "additionalProperties": True},
        ),
        options=_member(
            "object", "`evaluations_semantic`: after which answer the rest is left out", additionalProperties=True
        ),
    ),
    "EvaluationAnswer": _object(
        "One decision.",
        {"decision": True},
        ("decision",),
        decision=_member("boolean", "whether it may be done"),
        context=_member(
            "object",
            "`reason` of a denial; `agent`: whose verdict it is, if several are judged or none is named; `issuance`: "
            "lifetime, scopes and claims of a token",
            additionalProperties=True,
        ),
    ),
    "EvaluationsAnswer": _object(
        "The decisions, in the order of the items.",
        {"evaluations": [{"decision": True}]},
        ("evaluations",),
        evaluations=_member("array", "one for each item that was looked at", items=_schema("EvaluationAnswer")),
    ),
    "AuthzenMetadata": _object(
        "Metadata of the decision point.",
        {
            "policy_decision_point": "https://trust.example",
            "access_evaluation_endpoint": "https://trust.example/access/v1/evaluation",
        },
        ("policy_decision_point", "access_evaluation_endpoint"),
        policy_decision_point=_member("string", "URL of this service"),
        access_evaluation_endpoint=_member("string", "URL for one evaluation"),
        access_evaluations_endpoint=_member("string", "URL for many"),
        capabilities=_member("array", "profiles that are understood", items={"type": "string"}),
    ),
    "GatewayRefusal": _object(
        "Why a call may not go on: no more than the agent may know.",
        {"error": "access_denied", "request_id": "req-1"},
        ("error", "request_id"),
        error=_member("string", "code as OAuth 2.0 has it"),
        request_id=_member("string", "the gateway's id of the call, or one of ours"),
    ),
    "IntrospectionQuestion": _object(
        "The token that is asked about.",
        {"token": "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"},
        ("token",),
        token=_member("string", "a JWT, or an opaque token of a configured issuer"),
        token_type_hint=_member("string", "not looked at"),
    ),
    "IntrospectionAnswer": {
        **_object(
            "Claims of an active token, its scopes as policy leaves them; of any other `active: false` alone.",
            {"active": True, "client_id": "agent-payment-processor-v2.1", "risk_level": "low"},
            ("active",),
            active=_member("boolean", "whether it may be used"),
            scope=_member("string", "scopes that are left"),
            client_id=_member("string", "client that the token was issued to"),
            risk_level=_member("string", "level of the agent, with `gateway.risk_claims`"),
        ),
        "additionalProperties": True,
    },
    "IntrospectionError": _object(
        "An error as OAuth 2.0 has it.",
        {"error": "invalid_client"},
        ("error",),
        error=_member("string", "code of the error"),
        error_description=_member("string", "what is wrong"),
    ),
}

_SECURITY_SCHEMES: Final[Mapping[str, Part]] = {
    "hookSecret": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Trustwatch-Key",
        "description": "secret of a hook (`proof: header`); `header` of the settings may name another one",
    },
    "hookBasic": {
        "type": "http",
        "scheme": "basic",
        "description": "secret of a hook, `user:password` (`proof: basic`)",
    },
    "hookBearer": {"type": "http", "scheme": "bearer", "description": "secret of a hook (`proof: bearer`)"},
    "hookSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "ZITADEL-Signature",
        "description": "HMAC-SHA-256 of time and body under the hook's secret",
    },
    "clientBasic": {"type": "http", "scheme": "basic", "description": "a client of `gateway.clients`"},
    "agentToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "the agent's own access token, as it came to the gateway",
    },
}

EXT_AUTHZ_METHODS: Final = ("get", "post", "put", "patch", "delete")

DESCRIBED_PATHS: Final = DescribedPaths(
    {
        "/hooks/{hook}": {"post": _hook()},
        "/access/v1/evaluation": {"post": _evaluation(several=False)},
        "/access/v1/evaluations": {"post": _evaluation(several=True)},
        "/.well-known/authzen-configuration": {"get": _metadata()},
        "/ext-authz/{path}": {method: _ext_authz(method) for method in EXT_AUTHZ_METHODS},
        "/forward-auth": {"get": _forward_auth()},
        "/introspect": {"post": _introspect()},
    },
    {**_SCHEMAS, **CALL_QUESTION_SCHEMAS},
    _SECURITY_SCHEMES,
)
"""Paths that `hooks/` and `gateways/` answer."""
