"""The console at `/console`: pages for people, made here, from the same store, view and rules as the API's answers.

`app` puts it together; `gate` is what pages depend on; `signin`, `oidc`, `sessions` say who is there; `live` tells
pages what changed; `pages/` has one module per page, `templates/` and `static/` what they look like.
"""
