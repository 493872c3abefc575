"""Access: what the slice adds to the application, hooks and gateways included."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from ..events.audit_sink import ProofReports
from ..events.origin_keys import open_shared_secret
from ..http.agent_lookup import AgentResolver
from ..http.auth.bearer_tokens import PresentedToken
from ..http.auth.callers import AuthenticatedCaller
from ..http.auth.client_certificates import CertificateCallers
from ..http.auth.proof_of_possession import ProofRefused, ProofVerifier, ShownProof
from ..http.fast_path import HOST_HEADER, AllowedHosts
from ..http.problems import ProblemError
from ..http.prometheus_metrics import LabelledValues, MetricValues
from ..http.runtime import Runtime
from ..http.slice import FastRoute, LifespanService, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..settings.service_settings import ListenSettings
from .call_evaluation import CallEvaluator, CallQuestion, FastCallRoute, LiveCallScorer
from .decision_point import PolicyDecisionPoint
from .gateways.gateway_issuers import GatewayIssuers
from .gateways.gateway_server import GatewayServer
from .hooks.hook_server import HookServer
from .routes import actuations_router, router
from .service import ContainmentService

PROVEN: Final = "trustwatch.proven"
"""Member of the scope of a request whose proof was accepted: several parts of the service authenticate it."""


@dataclass(eq=False, repr=False)
class CallerProofs:
    """Checks the proofs of bound tokens of callers."""

    _proofs: ProofVerifier
    _listen: ListenSettings
    _reports: ProofReports

    def __post_init__(self) -> None:
        self._hosts = AllowedHosts(self._listen)

    def check(self, caller: AuthenticatedCaller, presented: PresentedToken, scope: MutableMapping[str, Any]) -> None:
        """Raise InvalidToken unless the request proves possession of the key of the caller's token. Runs once per
        request.
        """
        if scope.get(PROVEN) == presented.token:
            return
        headers = scope["headers"]
        shown = ShownProof(
            presented.is_dpop,
            tuple(value for name, value in headers if name == b"dpop"),
            scope["method"],
            self._url(scope),
            self._proofs.certificate_of(headers, (scope.get("client") or ("",))[0]),
        )
        try:
            holder = caller.issuer, caller.client_id or caller.subject
            self._proofs.check(caller.bound_to, presented.token, shown, holder)
        except ProofRefused as refused:  # evidence about an agent if the caller is one
            tenant, issuer = caller.binding.default_tenant or "", caller.binding.default_issuer or caller.issuer
            self._reports.report("api", tenant, issuer, caller.client_id or caller.subject, refused)
            raise
        scope[PROVEN] = presented.token

    def _url(self, scope: MutableMapping[str, Any]) -> str:
        """Return the URL that the client called, or "" if it names another service."""
        path: str = scope["raw_path"].decode("latin-1")
        if self._listen.public_url is not None:
            return self._listen.public_url.rstrip("/") + path
        try:
            self._hosts.check(scope)
        except ProblemError:
            return ""
        host = next(value for name, value in scope["headers"] if name == HOST_HEADER)
        return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}{path}"


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, decision_point = services.get(Runtime), services.get(PolicyDecisionPoint)
    settings, approvals = runtime.settings, decision_point.approval_workflow
    containment = ContainmentService(runtime, approvals, services.get(AgentResolver), services.get(StoreExecutor))
    calls = CallEvaluator(runtime, approvals, services.find(LiveCallScorer))
    hooks = HookServer(services, calls)
    reports = ProofReports(decision_point.audit_sink.enqueue, runtime.now_ms)
    has_nonce = settings.verification.proofs.nonce
    nonce_key = open_shared_secret(settings).nonce_key() if has_nonce else secrets.token_bytes(32)
    proofs = ProofVerifier(settings.verification.proofs, runtime.clock, nonce_key)
    runtime.verifier.check_proof = CallerProofs(proofs, settings.listen, reports).check
    issuer_names = [issuer.issuer for issuer in settings.issuers]
    certificates = CertificateCallers(settings.callers, issuer_names, settings.verification, runtime.clock)
    runtime.verifier.caller_without_token = certificates.caller_of if len(certificates) else None
    if not settings.gateway.issuers:
        return containment, calls, hooks, reports
    issuers = GatewayIssuers(
        settings.gateway,
        settings.verification,
        runtime.clock,
        runtime.new_id,
        runtime.monotonic,
        settings.outgoing.ca_file,
    )
    gateway = GatewayServer(services, issuers, proofs, reports)
    return containment, calls, hooks, reports, issuers, gateway


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    issuers = services.find(GatewayIssuers)
    return () if issuers is None else (issuers,)


def _fast_routes(services: ServiceRegistry) -> Sequence[FastRoute]:
    gateway = services.find(GatewayServer)
    return *(() if gateway is None else (gateway,)), FastCallRoute(services), services.get(HookServer)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    runtime, decision_point = services.get(Runtime), services.get(PolicyDecisionPoint)
    audit, policy, calls = decision_point.audit_sink, runtime.live_policy, services.find(CallEvaluator)
    values: dict[str, LabelledValues] = {
        "trustwatch_verdicts_total": {labels: count for labels, count in decision_point.verdict_counts.items()},
        "trustwatch_call_verdicts_total": {} if calls is None else {labels: n for labels, n in calls.counts.items()},
        "trustwatch_verdict_failures_total": {labels: count for labels, count in decision_point.failure_counts.items()},
        "trustwatch_audit_events_total": {("written",): audit.written, ("dropped",): audit.dropped},
        "trustwatch_policy_errors_total": {(): policy.errors},
        "trustwatch_approvals_failed_total": {
            ("unasked",): decision_point.approval_workflow.failed_requests,
            ("unspent",): decision_point.approval_workflow.unspent_approvals,
        },
    }
    reports = services.find(ProofReports)
    if reports is not None:
        values["trustwatch_proofs_refused_total"] = {labels: count for labels, count in reports.counts.items()}
    issuers = services.find(GatewayIssuers)
    if issuers is not None:
        values["trustwatch_tokens_revoked_total"] = {
            labels: count for labels, count in issuers.revocation_counts.items()
        }
        key_sets = issuers.jwks.status()
        values["trustwatch_issuer_keys"] = {(key_set.issuer,): key_set.keys for key_set in key_sets}
        values["trustwatch_issuer_keys_skipped_total"] = {
            (key_set.issuer,): key_set.skipped_keys for key_set in key_sets
        }
    return values


SLICE = Slice(
    "access",
    routers=(actuations_router, router),
    services=_make_services,
    lifespans=_lifespans,
    fast_routes=_fast_routes,
    metrics=_metric_values,
    documented=files(__package__).joinpath("documented_paths.yaml"),
    documented_records=(CallQuestion,),
)
