"""Bearer tokens: verified against the keys of configured issuers, remembered, and signed for local development.

`token_verification` checks one token against one set of keys (RFC 7519, 8725, 9068) and ID tokens of people, `jwks`
fetches and keeps the keys, `bearer_tokens` remembers tokens already judged, `callers` says whom a token speaks for,
`signing` has the local development key. `proof_of_possession` checks what bound tokens come with, `client_certificates`
reads what proxies tell, `set_verification` checks the security event tokens of others; `security_event_keys` signs our
own, and `signed_answers` answers by those keys.
"""
