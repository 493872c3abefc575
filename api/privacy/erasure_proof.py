"""The proof of an erasure: a signed document that names who was erased by a slow salted hash alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.decision_chain import ChainHead, chain_heads_document

from .embedded_targets import ErasureSummary

PROOF_TYPE = "trustwatch-erasure+jwt"

_REMAINS_ALWAYS = (
    (
        "tombstones of decisions: tenant, UTC day, place and salted digests in the chain",
        "the chain of decisions stays verifiable; the salt is gone, so that no guess can be checked",
        "retention removes them",
    ),
    (
        "what left before: alerts at their receivers, orders at authorization servers, answers to API callers",
        "it is in other systems",
        "they erase it",
    ),
    (
        "back-ups, and bytes of files and rows that were freed on disk",
        "they cannot be read through this service",
        "they are overwritten or expire",
    ),
)
_REMAINS_BY_KIND = {
    "agent": (
        (
            "a row of counts and keyed hashes in each trained model, under a 128-bit hash of the agent's full name "
            "with the model's salt as key",
            "a model is one verified artefact; the row is no longer used (the agent begins as a new one)",
            "those model versions are removed",
        ),
        (
            "counts of its peer group in trained models",
            "sums over many agents, which name none",
            "those model versions are removed",
        ),
        (
            "marks by which the agent is not taken up from a model's history again",
            "HMAC-SHA-256 of a 64-bit hash of its full name, under the key in `privacy-key`",
            "the key is replaced",
        ),
    ),
    "principal": (
        (
            "keyed 64-bit hashes of the name in the state of agents that acted for it, and in trained models",
            "SipHash-2-4 under the salt of the model; anyone who has that salt can check a name they already know. The "
            "hashes keep those agents' habits",
            "those agents are forgotten, or a model with another salt comes into force",
        ),
    ),
}

_REMAINS_ON_SERVER = (
    "removed row versions in files, write-ahead log and replicas of PostgreSQL",
    "VACUUM has freed them; the server overwrites them when it uses their room again",
    "they are overwritten, and archived WAL expires",
)


class ProofSigner(NamedTuple):
    """Signs proofs: (document, type) → compact JWS. Reads them; raises ValueError for one that is not ours."""

    sign: Callable[[dict[str, Any], str], str]
    read: Callable[[str, str], dict[str, Any]]


def proof_document(
    erasure: Erasure, done_ms: int, after: list[ChainHead], summary: ErasureSummary, *, on_server: bool
) -> dict[str, Any]:
    """The document of an erasure that is done."""
    counts = {name: count for name, count in erasure.counts.items() if isinstance(count, int)}
    remains = [*summary.remains, *_REMAINS_BY_KIND[erasure.kind], *_REMAINS_ALWAYS]
    if on_server:
        remains.append(_REMAINS_ON_SERVER)
    return {
        "type": "erasure",
        "version": 1,
        "erasure_id": erasure.erasure_id,
        "software": version("trustwatch"),
        "asked": {
            "kind": erasure.kind,
            "tenant": erasure.tenant,
            "issuer": erasure.issuer or None,
            "subject": {"scrypt": erasure.subject_digest, "salt": erasure.subject_salt, "n": 2**14, "r": 8, "p": 1},
            "reason": erasure.reason,
            "by": erasure.asked_by,
            "at": format_rfc3339(erasure.asked_ms),
        },
        "done_at": format_rfc3339(done_ms),
        "covers": summary.covers,
        "erased": counts,
        "left": {},
        "chain": {"before": erasure.counts.get("chain", []), "after": chain_heads_document(after)},
        "topics": list(summary.topics),
        "remains": [{"what": what, "why": why, "until": until} for what, why, until in remains],
    }
