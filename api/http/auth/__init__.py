"""Bearer tokens: verified against the keys of configured issuers, remembered, and signed for local development.

One file per matter: `verify` (RFC 7519, 8725, 9068; the only importer of PyJWT for verifying), `jwks` (keys, fetched
and kept), `cache` (tokens already judged), `gate` (all of it together), `identity` (ID tokens of
people), `sign` (the local development key).
"""
