"""Bearer tokens: verified against the keys of configured issuers, remembered, and signed for local development.

`token_verification` checks one token against one set of keys (RFC 7519, 8725, 9068) and ID tokens of people, `jwks`
fetches and keeps the keys, `bearer_tokens` remembers verified tokens, `callers` finds whom a token acts for, and
`signing` has our own keys. `proof_of_possession` checks what bound tokens come with, `client_certificates` reads what
proxies forward and finds their callers, `set_verification` checks received security event tokens, and `set_encryption`
encrypts them.
"""
