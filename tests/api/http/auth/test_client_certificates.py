"""Headers of proxies that tell a client's certificate: what is read, and that no name in a certificate changes it."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.api.http.auth.client_certificates import read_certificate

from ....support.proofs import make_certificate, x5t_of

CERTIFICATE = make_certificate()
X5T = x5t_of(CERTIFICATE)
DIGEST = base64.urlsafe_b64decode(X5T + "=").hex()
ESCAPED = quote(CERTIFICATE.public_bytes(Encoding.PEM).decode())
FORGED = "ab" * 32
FORGED_ESCAPED = quote(make_certificate("forged").public_bytes(Encoding.PEM).decode())
FORGERIES = (
    f";Hash={FORGED}",
    f",Hash={FORGED}",
    f';Hash="{FORGED}"',
    f'";Hash={FORGED};Subject="',
    f'\\";Hash={FORGED}',
    f"\\;Hash={FORGED}",
    f";hash={FORGED}",
    f';Cert="{FORGED_ESCAPED}"',
    ";",
    ",",
    '"',
    "\\",
    "=",
    "\n",
)
texts = st.lists(st.sampled_from(FORGERIES) | st.text(max_size=5), max_size=6).map("".join)


def thumbprint(header: str) -> str:
    return read_certificate(header.encode()).thumbprint


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def test_headers_of_certificates() -> None:
    der = base64.b64encode(CERTIFICATE.public_bytes(Encoding.DER)).decode()
    for header in (
        f":{der}:",
        ESCAPED,
        f'Hash={DIGEST};Subject="CN=agent"',
        f"hash={DIGEST}",
        f'By=spiffe://x;Cert="{ESCAPED}"',
        f'By=a;By=b;Hash={DIGEST};Cert="{ESCAPED}";Subject="";URI=;URI=spiffe://x?a=b;DNS=a.example;DNS=b.example',
        f'Hash={DIGEST};Subject="O=Acme\\, Inc.,CN=a;Hash={FORGED},Hash={FORGED}"',
        f'Hash={DIGEST};Subject="CN=\\";Hash={FORGED}"',
    ):
        assert thumbprint(header) == X5T, header[:60]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "::",
        ":!!!:",
        ":" + base64.b64encode(b"no certificate").decode() + ":",
        ESCAPED[:200],
        "Hash=zz",
        "Hash=abcd",
        "Hash=",
        'Cert=""',
        "By=x",
        f"Hash={DIGEST},Hash={DIGEST}",
        f"Hash={FORGED},Hash={DIGEST}",
        f"Hash={DIGEST};Hash={DIGEST}",
        f"Hash={DIGEST};hash={FORGED}",
        f'Hash={FORGED};Cert="{ESCAPED}"',
        f'Cert="{ESCAPED}";URI=x;Hash={FORGED}',
        f'Hash={DIGEST};Subject="CN=a',
        f'Hash={DIGEST};Subject="CN=a"b',
        f'Hash={DIGEST};Subject=CN"a"',
        f"Hash={DIGEST};",
        f"Hash={DIGEST};URI",
        "x" * 40_000,
    ],
    ids=lambda _: (
        "header"
    ),  # the certificate is a new one each time: workers that share the tests would not agree on names
)
def test_what_can_not_be_read(header: str) -> None:
    """Is none: nor is what came over several proxies, says a thing twice, or says two things."""
    assert thumbprint(header) == ""
    assert read_certificate(b"\xff" * 40).thumbprint == ""


@given(texts, st.permutations(["hash", "subject", "by"]))
def test_quoted_names_change_nothing(name: str, order: list[str]) -> None:
    """Whatever a subject holds, in quotes as Envoy has it: the certificate is the client's."""
    pairs = {"hash": f"Hash={DIGEST}", "subject": f"Subject={quoted(name)}", "by": f"By={quoted(name)}"}
    assert thumbprint(";".join(pairs[key] for key in order)) == X5T


@given(texts, texts)
def test_names_that_are_not_quoted_forge_nothing(uri: str, name: str) -> None:
    """Envoy quotes neither `URI` nor `DNS`: a header that one of them breaks is none, never another's."""
    header = f"Hash={DIGEST};Subject={quoted(name)};URI={uri};DNS={name}"
    assert thumbprint(header) in ("", X5T)
    assert thumbprint(f'Cert="{ESCAPED}";URI={uri}') in ("", X5T)


def test_a_certificate_of_a_version_that_there_is_not_is_none() -> None:
    """The parser of certificates has an error of its own for it, which is no ValueError."""
    der = CERTIFICATE.public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert version in der
    odd = der.replace(version, bytes.fromhex("a003020101"), 1)
    assert read_certificate(b":" + base64.b64encode(odd) + b":").thumbprint == ""
