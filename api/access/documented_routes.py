"""Hooks and gateways in the OpenAPI document: `hooks/` and `gateways/` answer these paths before FastAPI sees them.

The routes here are documentation: the application does not serve them.
"""
# No postponed annotations here: FastAPI reads them.

from typing import Annotated, Any, Final

from fastapi import Body, Header, Path, Response, Security
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBearer
from pydantic import ConfigDict, Field

from ..http.auth.callers import SCOPE_DECIDE
from ..http.dependencies import oauth2_scheme
from ..http.openapi_document import DocumentedRouter
from ..http.schemas import problem_responses
from ..http.wire import Wire


def _open(example: Any) -> ConfigDict:
    """A body that may have any further members."""
    return ConfigDict(extra="allow", json_schema_extra={"example": example})


def _optional(description: str, **more: Any) -> Any:
    """A member that may be left out, and has no default that the document would show."""
    return Field(default_factory=dict, description=description, **more)


class ProductQuestion(Wire):
    """The request of an authorization server, as its own documentation has it."""

    model_config = _open(
        {"request": {"client_id": "agent-payment-processor-v2.1", "grant_types": ["client_credentials"]}}
    )


class ProductAnswer(Wire):
    """The answer in the product's own words."""

    model_config = _open({"session": {"access_token": {"risk_level": "low"}}})


class AuthzenEntity(Wire):
    """A subject or resource of AuthZEN."""

    type: str = Field(description="of a `user` or an `identity` the agent is in `context`", examples=["agent"])
    id: str = Field(description="its id", examples=["agent-payment-processor-v2.1"])
    properties: dict[str, Any] = _optional("more about it")


class AuthzenAction(Wire):
    """An action of AuthZEN."""

    name: str = Field(description="a scope, the name of a call, or `issue:TYPE:GRANT`", examples=["payments:write"])
    properties: dict[str, Any] = _optional("more about it, `effect` among it")


class EvaluationQuestion(Wire):
    """Whether a subject may do something."""

    subject: AuthzenEntity = Field(description="who acts")
    action: AuthzenAction = Field(description="what is done")
    resource: AuthzenEntity = Field(description="what it is done to")
    context: dict[str, Any] = _optional(
        "`agent`, `client_id`, `act`: the agents that are judged; with `arguments` a call is judged as "
        "`POST /v1/agents/{agent_id}/calls/evaluate` does",
    )


class EvaluationsQuestion(Wire):
    """Several evaluations; what one does not say is that of the whole."""

    subject: AuthzenEntity = _optional("who acts, if an item does not say it")
    action: AuthzenAction = _optional("what is done, if an item does not say it")
    resource: AuthzenEntity = _optional("what it is done to, if an item does not say it")
    context: dict[str, Any] = _optional("context, if an item has none")
    evaluations: list[dict[str, Any]] = Field(
        description="the items, in the order of the answers", examples=[[{"action": {"name": "payments:write"}}]]
    )
    options: dict[str, Any] = _optional("`evaluations_semantic`: after which answer the rest is left out")


class EvaluationAnswer(Wire):
    """One decision."""

    decision: bool = Field(description="whether it may be done")
    context: dict[str, Any] = _optional(
        "`reason` of a denial; `agent`: whose verdict it is, if several are judged or none is named; "
        "`issuance`: lifetime, scopes and claims of a token",
    )


class EvaluationsAnswer(Wire):
    """The decisions, in the order of the items."""

    evaluations: list[EvaluationAnswer] = Field(description="one for each item that was looked at")


class AuthzenMetadata(Wire):
    """Metadata of the decision point."""

    policy_decision_point: str = Field(description="URL of this service", examples=["https://trust.example"])
    access_evaluation_endpoint: str = Field(
        description="URL for one evaluation", examples=["https://trust.example/access/v1/evaluation"]
    )
    access_evaluations_endpoint: str = _optional("URL for many")
    capabilities: list[str] = _optional("profiles that are understood")


class GatewayRefusal(Wire):
    """Why a call may not continue: no more than the agent may know."""

    error: str = Field(description="code as OAuth 2.0 has it", examples=["access_denied"])
    request_id: str = Field(description="the gateway's id of the call, or one of ours", examples=["req-1"])


class IntrospectionQuestion(Wire):
    """The token that is asked about."""

    token: str = Field(
        description="a JWT, or an opaque token of a configured issuer", examples=["eyJhbGciOiJFUzI1NiJ9.e30.c2ln"]
    )
    token_type_hint: str = _optional("not looked at")


class IntrospectionAnswer(Wire):
    """Claims of an active token, its scopes as policy leaves them; of any other `active: false` alone."""

    model_config = ConfigDict(extra="allow")

    active: bool = Field(description="whether it may be used")
    scope: str = _optional("scopes that are left")
    client_id: str = _optional("client that the token was issued to", examples=["agent-ledger"])
    risk_level: str = _optional("level of the agent, with `gateway.risk_claims`")


class IntrospectionError(Wire):
    """An error as OAuth 2.0 has it."""

    error: str = Field(description="code of the error", examples=["invalid_client"])
    error_description: str = _optional("what is wrong")


def _header(name: str, text: str) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}}}


def _refusals(descriptions: dict[int, str], model: type[Wire] | None = None) -> dict[int | str, Any]:
    """Answers with a body of *model*, or a text; 401 says how to authenticate."""
    text: dict[str, Any] = {"text/plain": {"schema": {"type": "string", "description": "what is wrong"}}}
    answers: dict[int | str, Any] = {}
    for status, description in descriptions.items():
        answers[status] = {"description": description} | ({"content": text} if model is None else {"model": model})
    if 503 in answers:
        answers[503]["headers"] = _header("Retry-After", "seconds")
    if 401 in answers:
        answers[401]["headers"] = _header("WWW-Authenticate", "how to authenticate, and what was wrong")
    return answers


_NOT_OURS: Final = "neither a bearer token nor a `Host` of this service"
_COMMON: Final = problem_responses(
    {
        400: "several or malformed Authorization headers, or an unreadable request",
        404: "nothing of that name is configured here",
        413: "the body has more bytes than the route takes",
        421: _NOT_OURS,
    }
)
_EVALUATION_ANSWERS: Final = {
    **_refusals(
        {
            400: "no evaluation can be read, or the body is not `application/json`",
            401: "no token, or one that is refused",
            403: "the token lacks the scope, or its client may not ask about those agents",
            413: "the body is too large",
        }
    ),
    **problem_responses({404: "AuthZEN is not configured here", 421: _NOT_OURS}),
}
_CHECK_ANSWERS: Final = {
    200: {
        "description": "the call may continue",
        "headers": _header("X-Risk-Level", "risk level, if the settings name a header"),
    },
    **_refusals(
        {401: "no token, one that is refused, or a person must approve first", 403: "the call may not continue"},
        GatewayRefusal,
    ),
    **_COMMON,
}


def _header_param(name: str, description: str, **limits: Any) -> Any:
    return Header(alias=name, default_factory=str, description=description, **limits)


_RequestId = Annotated[
    str, _header_param("X-Request-ID", "id of the request, given back with the answer", max_length=128)
]
_FORM: Final = Body(media_type="application/x-www-form-urlencoded")  # fastapi.Form needs python-multipart
_BY_TOKEN: Final = Security(oauth2_scheme, scopes=[SCOPE_DECIDE])
_HOOK_SECRETS: Final[list[Any]] = [
    APIKeyHeader(
        name="X-Trustwatch-Key",
        scheme_name="hookSecret",
        description="secret of a hook (`proof: header`); `header` of the settings may name another one",
    ),
    HTTPBasic(scheme_name="hookBasic", description="secret of a hook, `user:password` (`proof: basic`)"),
    HTTPBearer(scheme_name="hookBearer", description="secret of a hook (`proof: bearer`)"),
    APIKeyHeader(
        name="ZITADEL-Signature",
        scheme_name="hookSignature",
        description="HMAC-SHA-256 of time and body under the hook's secret",
    ),
]
_CLIENT: Final = HTTPBasic(scheme_name="clientBasic", description="a client of `gateway.clients`")
_AGENT: Final = HTTPBearer(
    scheme_name="agentToken", bearerFormat="JWT", description="the agent's own access token, as the gateway got it"
)

hooks = DocumentedRouter("hooks")
gateways = DocumentedRouter("gateways")


@hooks.post(
    "/hooks/{hook}",
    summary="Decide about a token that is being issued",
    dependencies=[Security(secret) for secret in _HOOK_SECRETS],
    response_model=ProductAnswer,
    response_description="the token as it may be issued, or the product's own denial",
    responses=_COMMON
    | {204: {"description": "the token is issued unchanged"}}
    | _refusals(
        {
            401: "the secret or signature is missing, wrong or too old",
            403: "the token is denied, if the product takes that for an answer",
        },
        ProductAnswer,
    ),
)
def ask_hook(
    hook: Annotated[str, Path(description="name of the hook in the settings")], question: ProductQuestion
) -> None:
    """Called by Ory Hydra, Okta, WSO2 or ZITADEL, each in its own shape, with the proof that the hook's settings name.

    Answered from memory; what cannot be decided is answered as `on_failure` says.
    """


@hooks.post(
    "/access/v1/evaluation",
    summary="AuthZEN: one evaluation",
    dependencies=[_BY_TOKEN],
    response_model=EvaluationAnswer,
    response_description="the decision",
    responses=_EVALUATION_ANSWERS,
)
def evaluate_access(question: EvaluationQuestion, request_id: _RequestId) -> None:
    """OpenID AuthZEN Authorization API 1.0, with the token issuance profile: an action `issue:TYPE:GRANT` is its gate.

    A denial has status 200. Scope `trust.decide`.
    """


@hooks.post(
    "/access/v1/evaluations",
    summary="AuthZEN: many evaluations",
    dependencies=[_BY_TOKEN],
    response_model=EvaluationsAnswer,
    response_description="the decisions",
    responses=_EVALUATION_ANSWERS,
)
def evaluate_access_batch(question: EvaluationsQuestion, request_id: _RequestId) -> None:
    """As `POST /access/v1/evaluation`, for several items. Scope `trust.decide`."""


@hooks.get(
    "/.well-known/authzen-configuration",
    summary="AuthZEN: metadata of the decision point",
    response_model=AuthzenMetadata,
    response_description="the metadata",
    responses=problem_responses(
        {400: "not exactly one `Host`", 404: "AuthZEN is not configured here", 421: "not a `Host` of this service"}
    ),
)
def read_authzen_metadata() -> None:
    """Where the decision point is, and what it can do. Open to everyone."""


def check_call(
    path: Annotated[str, Path(description="path of the call as the agent sent it, slashes included")],
    request_id: _RequestId,
) -> None:
    """`ext_authz` of Envoy over HTTP: the agent's own request without its body, behind the prefix.

    Any method is checked; the answer is a status and headers.
    """


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    gateways.add_api_route(
        "/ext-authz/{path:path}",
        check_call,
        methods=[_method],
        name=f"check_call_{_method.lower()}",
        summary=f"Envoy: check a call ({_method})",
        dependencies=[Security(_AGENT)],
        response_class=Response,
        responses=_CHECK_ANSWERS,
    )


@gateways.get(
    "/forward-auth",
    summary="Sub-requests: check a call",
    dependencies=[Security(_AGENT)],
    response_class=Response,
    responses=_CHECK_ANSWERS,
)
def check_forwarded_call(
    method: Annotated[str, _header_param("X-Forwarded-Method", "method of the call")],
    host: Annotated[str, _header_param("X-Forwarded-Host", "host of the call")],
    uri: Annotated[str, _header_param("X-Forwarded-Uri", "path of the call")],
    request_id: _RequestId,
) -> None:
    """For NGINX (`auth_request`), Traefik, Caddy, APISIX and others: a sub-request with the agent's Authorization
    header. `X-Original-…` is understood as well. Any method."""


@gateways.post(
    "/introspect",
    summary="Token introspection with risk (RFC 7662)",
    dependencies=[Security(_CLIENT), _BY_TOKEN],
    response_model=IntrospectionAnswer,
    response_description="what holds of the token",
    responses={
        **_refusals(
            {
                400: "no form with one token",
                401: "no such client, or another secret",
                403: "the token of the caller lacks the scope",
                503: "the issuer does not answer",
            },
            IntrospectionError,
        ),
        **problem_responses({404: "no gateway is configured here", 413: "the body is too large", 421: _NOT_OURS}),
    },
)
def introspect_token(question: Annotated[IntrospectionQuestion, _FORM]) -> None:
    """For resource servers: a token of an agent whose level revokes is not active any more.

    By a client of `gateway.clients` (basic), or with a token of scope `trust.decide`.
    """
