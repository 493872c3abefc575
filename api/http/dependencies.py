"""Dependencies of every ordinary route: the services of the application, and the caller with the scope it needs."""
# No postponed annotations here: FastAPI reads them from objects that are not functions.

import ipaddress
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Path, Request, Security
from fastapi.security import OAuth2
from starlette.types import Scope

from trustwatch.scoring.store.read_scope import restrict_reads

from .agent_lookup import AgentSelector
from .auth.bearer_tokens import TokenVerifier, authorization_header, presented_token
from .auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK, SCOPE_INGEST, SCOPE_SCORE_READ, AuthenticatedCaller
from .auth.token_verification import UNBOUND, InvalidToken, MissingToken, UnknownKey
from .connection_guard import ConnectionGuard
from .openapi_document import OAUTH_SCHEME
from .refused_callers import CALLER_OF_REQUEST
from .runtime import Runtime
from .schemas import IssuerParam, TenantParam
from .slice import ServiceRegistry

T = TypeVar("T")

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

oauth2_scheme = OAuth2(
    flows={"clientCredentials": {"tokenUrl": "https://as.example/oauth2/token", "scopes": {}}},
    scheme_name=OAUTH_SCHEME,
    description="An access token (JWT, RFC 9068) of a configured issuer, as Bearer. The token endpoint is the "
    "issuer's.",
    auto_error=False,
)


def services_of(request: Request) -> ServiceRegistry:
    """Return the services of the application that serves *request*."""
    services = request.app.state.services
    assert isinstance(services, ServiceRegistry)
    return services


def provided(kind: type[T]) -> Callable[[Request], T]:
    """Return a dependency: the service of that type. If this process does not have it, the answer is 503."""

    def service_of(request: Request) -> T:
        return services_of(request).get(kind)

    return service_of


class RequireScope:
    """A dependency: the caller, whose token must have *scope* or one of *others* ("" = any token that is valid).

    From then on the request reads only those rows of the store that the caller may see. With *unless_local* a request
    from this machine needs no token, and its caller is None. A request that a proxy has passed on is not from this
    machine, even if the proxy is.
    """

    def __init__(self, scope: str, *others: str, unless_local: bool = False) -> None:
        self.scope = scope
        self.scopes = [name for name in (scope, *others) if name]
        self._others = frozenset(others)
        self._unless_local = unless_local

    async def __call__(
        self, request: Request, _: Annotated[Any, Security(oauth2_scheme)]
    ) -> AuthenticatedCaller | None:
        try:
            caller = await authenticate_connection(services_of(request), request.scope)
        except MissingToken:
            if self._unless_local and is_local(request):
                return None
            raise
        if self.scope and not caller.scopes & self._others:
            caller.require(self.scope)
        restrict_reads(caller.read_scope)
        return caller


AnyCallerUnlessLocal: Final = RequireScope("", unless_local=True)


def declared(required: Any) -> Any:
    """Return a dependency that has `scopes`, with these in the OpenAPI document: a token needs one of them."""
    return Security(required, scopes=required.scopes)


def is_local(request: Request) -> bool:
    """Return whether *request* comes from this machine, and not through a proxy that adds a header or is configured."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    proxies = services_of(request).get(Runtime).settings.verification.proofs.declared_proxies
    return address.is_loopback and not any(address in ipaddress.ip_network(network) for network in proxies)


RuntimeDep = Annotated[Runtime, Depends(provided(Runtime))]
ReaderDep = Annotated[AuthenticatedCaller, declared(RequireScope(SCOPE_SCORE_READ))]
SenderDep = Annotated[AuthenticatedCaller, declared(RequireScope(SCOPE_INGEST))]
ReviewerDep = Annotated[AuthenticatedCaller, declared(RequireScope(SCOPE_FEEDBACK))]
AdministratorDep = Annotated[AuthenticatedCaller, declared(RequireScope(SCOPE_ADMIN))]


AgentIdParam = Annotated[str, Path(description="ID of the agent, percent-encoded once.")]


def _agent_of_path(agent_id: AgentIdParam, tenant: TenantParam = None, issuer: IssuerParam = None) -> AgentSelector:
    return AgentSelector(agent_id, tenant, issuer)


AgentDep = Annotated[AgentSelector, Depends(_agent_of_path)]


async def authenticate_request(verifier: TokenVerifier[AuthenticatedCaller], scope: Scope) -> AuthenticatedCaller:
    """Return the caller of a request. Waits only for a key that is not known yet. Raises AuthenticationFailed."""
    authorization = authorization_header(scope)
    if authorization is None and verifier.caller_without_token is not None:
        scope[CALLER_OF_REQUEST] = caller = verifier.caller_without_token(scope)
        return caller
    presented = presented_token(authorization)
    try:
        caller = verifier.verify_now(presented.token)
    except UnknownKey:
        caller = await verifier.verify(presented.token)
    if presented.is_dpop or caller.bound_to != UNBOUND:
        if verifier.check_proof is None:
            raise InvalidToken("the token is bound to a key, and no proofs are checked here", lasting=False)
        verifier.check_proof(caller, presented, scope)
    scope[CALLER_OF_REQUEST] = caller
    return caller


async def authenticate_connection(services: ServiceRegistry, scope: Scope) -> AuthenticatedCaller:
    """Like `authenticate_request`; further bytes of the request then count as those of a known caller."""
    caller = await authenticate_request(services.get(Runtime).verifier, scope)
    guard = services.find(ConnectionGuard)
    if guard is not None:
        guard.admit(scope["client"])
    return caller
