"""Proof of possession: tokens that are bound to a key (DPoP, RFC 9449) or to a certificate (mTLS, RFC 8705).

A bound token is invalid without its proof. If the token is valid and the proof is not, another party holds the token.
That is evidence about its agent, and is reported (`ProofRefused.report`) in addition to the refusal.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import string
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import jwt

from ...settings.access_settings import ProofSettings
from .client_certificates import ForwardedCertificates
from .token_verification import InvalidToken, TokenBinding, base64url, key_thumbprint, usable_keys

DPOP_TYPE: Final = "dpop+jwt"
DPOP_ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA")
MAX_PROOF_BYTES: Final = 8 * 1024
MAX_JTI_LENGTH: Final = 1024
MAX_RSA_BITS: Final = 4096
_MODULUS_LENGTH: Final = math.ceil(MAX_RSA_BITS / 6)
_EXPONENT_LENGTH: Final = math.ceil(32 / 6)
"""Both in characters of base64url; numbers have no zero bytes before them (RFC 7518, section 6.3.1)."""
FUTURE_S: Final = 5.0
"""Lead of a client's clock that is forgiven, s."""

PROOF_MAX_AGE_S: Final = 60.0
"""Maximum age of a DPoP proof. Clients make one for each request."""
NONCE_S: Final = 300.0
"""A nonce is valid for this time, at most twice."""
MAX_REMEMBERED_PROOFS: Final = 200_000
"""Proofs that a process remembers, so that none is accepted twice: 3,000 per second for their 60 s."""

SHARE: Final = 10
"""One holder of tokens may take up one part in so many of what is remembered."""

Report = Literal["", "evidence", "proof"]
"""Meaning of a failure for the agent: none (a clock, a nonce), evidence, or proof that another party has its token."""


class ProofRefused(InvalidToken):
    """A bound token without a valid proof."""

    code = "invalid_dpop_proof"

    def __init__(self, action: str, report: Report, sentence: str, thumbprint: str = "", scheme: str = "DPoP") -> None:
        super().__init__(sentence, lasting=False)
        self.action = action  # of its audit event
        self.report = report  # what it means for the agent
        self.thumbprint = thumbprint  # of the key or certificate that was shown; "" = none was
        self.nonce = ""  # that the client is to use; "" = none
        self.scheme = scheme  # `DPoP`, or `Bearer` if the token is bound to a certificate

    @property
    def error(self) -> str:
        """`error` of the challenge."""
        return self.code if self.scheme == "DPoP" else InvalidToken.code


class NonceRequired(ProofRefused):
    """The proof has no current nonce. The client retries with the one in the answer."""

    code = "use_dpop_nonce"

    def __init__(self) -> None:
        super().__init__("proof-without-nonce", "", "the proof must have the nonce of this answer")


class ShownProof(NamedTuple):
    """Proofs that a request presents with its token; "" = not known."""

    is_dpop: bool  # the token came under the scheme `DPoP`
    proofs: tuple[bytes, ...]  # values of its `DPoP` headers
    method: str
    url: str
    certificate: str = ""  # SHA-256 of the client's certificate, base64url


class NonceIssuer:
    """Issues nonces that are not stored. Every process with the same key accepts them."""

    _TIME = struct.Struct(">Q")
    _MAC_BYTES = 16

    def __init__(self, key: bytes, lifetime_s: float) -> None:
        self._key = key
        self._lifetime_s = lifetime_s

    def current(self, now: float) -> str:
        """Return the nonce of *now*."""
        return self._nonce(int(now // self._lifetime_s))

    def accepts(self, nonce: object, now: float) -> bool:
        """Return whether *nonce* is that of this period or of the previous one."""
        period = int(now // self._lifetime_s)
        given = nonce.encode(errors="replace") if isinstance(nonce, str) else b""
        return any([hmac.compare_digest(self._nonce(period - back).encode(), given) for back in (0, 1)])

    def _nonce(self, period: int) -> str:
        packed = self._TIME.pack(period)
        mac = hmac.new(self._key, b"dpop-nonce" + packed, hashlib.sha256).digest()[: self._MAC_BYTES]
        return base64url(packed + mac)


class ProofWindow:
    """Proofs that were shown, by second and holder.

    Bounded: if a holder shows too many, its oldest are forgotten; if all together are too many, the oldest of all are.
    Proofs as old as those are refused from then on, of that holder or of all. So no proof is ever taken twice; under
    that load clients have less time to show theirs. Nothing is known of proofs from before the process began.
    """

    def __init__(self, max_age_s: float, most: int, began: float) -> None:
        self._max_age_s = max_age_s
        self._most = most
        self._most_of_one = max(1, most // SHARE)
        self._by_second: dict[int, dict[bytes, set[bytes]]] = {}
        self._count = 0
        self._counts: Counter[bytes] = Counter()
        self._floors: dict[bytes, int] = {}
        self._floor = int(began) - 1
        """Second of `iat` up to which every proof is refused; `_floors` has those of single holders."""
        self._forgotten = self._floor

    def __len__(self) -> int:
        return self._count

    def remembers(self, holder: bytes, iat: float) -> bool:
        """Return whether the window covers a proof of *holder* with that `iat`, so that a repeated proof would be
        recognized."""
        floor = max(self._floor, self._floors.get(holder, self._floor))
        # What is forgotten stays forgotten if a clock is set back.
        return int(iat) > floor and int(iat) >= self._forgotten

    def add(self, holder: bytes, digest: bytes, iat: float, now: float) -> bool:
        """Remember a proof. Returns False if it was shown before, or is as old as some that were forgotten."""
        oldest = int(now - self._max_age_s) - 1
        if oldest > self._forgotten:
            self._forgotten = oldest
            for second in [known for known in self._by_second if known < oldest]:
                self._drop_all(second)
            self._floors = {known: floor for known, floor in self._floors.items() if floor >= oldest}
        if not self.remembers(holder, iat):
            return False
        shown = self._by_second.setdefault(int(iat), {}).setdefault(holder, set())
        if digest in shown:
            return False
        shown.add(digest)
        self._count += 1
        self._counts[holder] += 1
        while self._counts[holder] > self._most_of_one:
            self._floors[holder] = min(second for second, shown in self._by_second.items() if holder in shown)
            self._drop(self._floors[holder], holder)
        while self._count > self._most:
            self._floor = min(self._by_second)
            self._drop_all(self._floor)
        return True

    def _drop_all(self, second: int) -> None:
        for holder in list(self._by_second[second]):
            self._drop(second, holder)

    def _drop(self, second: int, holder: bytes) -> None:
        shown = self._by_second[second]
        dropped = len(shown.pop(holder))
        self._count -= dropped
        self._counts[holder] -= dropped
        if not self._counts[holder]:
            del self._counts[holder]
        if not shown:
            del self._by_second[second]


class ProofVerifier:
    """Checks the proofs of bound tokens. For one event loop."""

    def __init__(self, settings: ProofSettings, clock: Callable[[], float], nonce_key: bytes) -> None:
        self._clock = clock
        self._nonces = NonceIssuer(nonce_key, NONCE_S) if settings.nonce else None
        self.window = ProofWindow(PROOF_MAX_AGE_S, MAX_REMEMBERED_PROOFS, clock())
        self._certificates = ForwardedCertificates(settings)

    def check(self, binding: TokenBinding, token: bytes, shown: ShownProof, holder: Sequence[str]) -> None:
        """Raise InvalidToken, usually a ProofRefused, unless a request proves everything that its token is bound to."""
        if binding.is_unchecked:
            sentence = "the token is bound in a way that is not checked here: its cnf may have jkt and x5t#S256 alone"
            raise InvalidToken(sentence, lasting=False)
        if binding.x5t and not shown.certificate:
            sentence = "the token is bound to a certificate, and none was shown with it"
            raise ProofRefused("certificate-missing", "evidence", sentence, scheme="Bearer")
        if binding.x5t and not hmac.compare_digest(shown.certificate.encode(), binding.x5t.encode()):
            sentence = "the token is bound to another certificate"
            raise ProofRefused("certificate-of-another", "proof", sentence, shown.certificate, scheme="Bearer")
        if binding.jkt or shown.is_dpop:
            try:
                self._check_proof(binding.jkt, token, shown, _digest(*holder))
            except ProofRefused as refused:
                if self._nonces is not None:
                    refused.nonce = self._nonces.current(self._clock())
                raise

    def _check_proof(self, jkt: str, token: bytes, shown: ShownProof, holder: bytes) -> None:
        if not jkt:
            raise ProofRefused("proof-unbound", "", "the token is not bound to a key; present it as Bearer")
        if not shown.is_dpop:
            sentence = "the token is bound to a key and may not be presented as Bearer"
            raise ProofRefused("proof-missing", "evidence", sentence)
        if len(shown.proofs) != 1:
            raise ProofRefused("proof-missing", "evidence", "the request must have exactly one DPoP header")
        proof = _read_proof(shown.proofs[0])
        stolen = _stolen(proof, jkt, token)
        if stolen is None:
            self._check_call(proof, shown)
        _check_signature(proof)
        if stolen is not None:
            raise stolen
        self._check_first_use(proof, holder)

    def _check_call(self, proof: _Proof, shown: ShownProof) -> None:
        """Check what costs nothing, before the signature."""
        claims, now, iat = proof.claims, self._clock(), proof.claims["iat"]
        url = normal_url(shown.url)  # "" is not a URL, and matches none
        if claims["htm"] != shown.method or not url or normal_url(claims["htu"]) != url:
            raise ProofRefused("proof-of-another-call", "evidence", "the proof is for another call", proof.thumbprint)
        if isinstance(iat, bool) or not isinstance(iat, int | float) or not -1e12 < iat < 1e12:
            raise ProofRefused("proof-malformed", "evidence", "the proof says no time (iat)", proof.thumbprint)
        if not now - PROOF_MAX_AGE_S <= iat <= now + FUTURE_S:
            raise ProofRefused("proof-expired", "", "the proof is too old, or of the future (iat)", proof.thumbprint)

    def _check_first_use(self, proof: _Proof, holder: bytes) -> None:
        claims, now = proof.claims, self._clock()
        if self._nonces is not None and not self._nonces.accepts(claims.get("nonce"), now):
            raise NonceRequired
        if not self.window.remembers(holder, claims["iat"]):
            sentence = "the service began since, or too many proofs are shown: make a new one (iat)"
            raise ProofRefused("proof-forgotten", "", sentence, proof.thumbprint)
        if not self.window.add(holder, _digest(proof.thumbprint, claims["jti"]), claims["iat"], now):
            raise ProofRefused("proof-replayed", "proof", "the proof was shown before (jti)", proof.thumbprint)

    def certificate_of(self, headers: list[tuple[bytes, bytes]], peer: str) -> str:
        """Return the SHA-256 of the client's certificate, as a trusted proxy forwards it; "" if there is none."""
        return self._certificates.shown(headers, peer).thumbprint


class _Proof(NamedTuple):
    """A well-formed proof. Its claims are trusted only after its signature is verified."""

    signed: bytes  # what the signature is of
    signature: bytes
    alg: str
    jwk: Mapping[str, Any]
    thumbprint: str  # of its key
    claims: Mapping[str, Any]


def _read_proof(proof: bytes) -> _Proof:
    if len(proof) > MAX_PROOF_BYTES:
        raise _malformed()
    try:
        parts = jwt.decode_complete(proof.decode("ascii"), options=_PROOF_OPTIONS)
        header, claims = parts["header"], parts["payload"]
        alg, jwk = header.get("alg"), header.get("jwk", {})
        if header.get("typ") != DPOP_TYPE or "crit" in header or alg not in DPOP_ALGORITHMS:
            raise _malformed()
        read = _Proof(proof.rpartition(b".")[0], parts["signature"], alg, jwk, key_thumbprint(jwk), claims)
    except Exception:  # an unverified header may hold anything; PyJWT and msgspec expect texts
        raise _malformed() from None
    jti = claims["jti"]
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_LENGTH or not isinstance(claims["htu"], str):
        raise _malformed()
    return read


def _check_signature(proof: _Proof) -> None:
    if proof.jwk["kty"] == "RSA":  # a long key would take long to verify: its text is checked before it is built
        bounds = (("n", _MODULUS_LENGTH), ("e", _EXPONENT_LENGTH))
        if any(not isinstance(proof.jwk[name], str) or len(proof.jwk[name]) > most for name, most in bounds):
            raise _malformed(f"an RSA key of a proof has at most {MAX_RSA_BITS} bits, and an exponent of 32")
    try:
        key = dict(usable_keys(proof.jwk, (proof.alg,)))[proof.alg]
        is_valid = key.Algorithm.verify(proof.signed, key.key, proof.signature)
    except Exception:  # as above, and cryptography
        raise _malformed() from None
    if not is_valid:
        raise _malformed()


def _malformed(sentence: str = "the proof is malformed") -> ProofRefused:
    return ProofRefused("proof-malformed", "evidence", sentence)


def _stolen(proof: _Proof, jkt: str, token: bytes) -> ProofRefused | None:
    """Return the refusal of a proof whose valid signature shows that another party has the token; else None."""
    if not hmac.compare_digest(proof.thumbprint.encode(), jkt.encode(errors="replace")):
        return ProofRefused("proof-of-another-key", "proof", "the proof is made with another key", proof.thumbprint)
    ath, expected = proof.claims["ath"], base64url(hashlib.sha256(token).digest())
    if not isinstance(ath, str) or not hmac.compare_digest(ath.encode(errors="replace"), expected.encode()):
        return ProofRefused("proof-of-another-token", "proof", "the proof is for another token", proof.thumbprint)
    return None


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(errors="replace"), digest_size=16).digest()


_PROOF_OPTIONS: Final[Any] = {
    "require": ["jti", "htm", "htu", "iat", "ath"],
    **dict.fromkeys([f"verify_{what}" for what in ("signature", "aud", "exp", "iat", "nbf", "sub", "jti")], False),
}
"""PyJWT checks that the claims are there, and nothing of their values."""
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = {f"{ord(sign):02X}": sign for sign in string.ascii_letters + string.digits + "-._~"}
"""Characters that a normal URL has unescaped, by their codes."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def normal_url(url: str) -> str:
    """Return a URL without query and fragment, in the normal form of RFC 3986; "" if it is invalid.

    >>> normal_url("HTTPS://Api.Example:443/a%2db%2f?x=1")
    'https://api.example/a-b%2F'
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return ""
    if scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc:
        return ""
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port in (None, _DEFAULT_PORTS[scheme]) else f"{shown}:{port}"
    path = _PERCENT.sub(lambda found: _UNRESERVED.get(found[1].upper(), found[0].upper()), parts.path)
    return f"{scheme}://{authority}{path or '/'}"
