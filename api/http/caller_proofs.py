"""Proofs of possession of the callers of our own API: what each request shows beside a bound token."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

from ..settings.service_settings import ListenSettings
from .allowed_hosts import HOST_HEADER, AllowedHosts
from .auth.bearer_tokens import PresentedToken
from .auth.callers import AuthenticatedCaller
from .auth.proof_of_possession import ProofRefused, ProofVerifier, ShownProof
from .problems import ProblemError

PROVEN: Final = "trustwatch.proven"
"""Member of the scope of a request whose proof was taken: several parts of the service ask who called."""

ReportProof = Callable[[AuthenticatedCaller, ProofRefused], None]


class CallerProofs:
    """Checks what bound tokens of callers come with."""

    def __init__(self, proofs: ProofVerifier, listen: ListenSettings, report: ReportProof) -> None:
        self._proofs = proofs
        self._public_url = None if listen.public_url is None else listen.public_url.rstrip("/")
        self._hosts = AllowedHosts(listen)
        self._report = report

    def check(self, caller: AuthenticatedCaller, presented: PresentedToken, scope: MutableMapping[str, Any]) -> None:
        """Raise InvalidToken unless the request proves what the caller's token is bound to. Once for each request."""
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
        except ProofRefused as refused:
            self._report(caller, refused)
            raise
        scope[PROVEN] = presented.token

    def _url(self, scope: MutableMapping[str, Any]) -> str:
        """URL of a request, as its client called it; "" = it names another service."""
        path: str = scope["raw_path"].decode("latin-1")
        if self._public_url is not None:
            return self._public_url + path
        try:
            self._hosts.check(scope)
        except ProblemError:
            return ""
        host = next(value for name, value in scope["headers"] if name == HOST_HEADER)
        return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}{path}"
