"""The console at `/console`: pages for people, made here, by the same services as the API's answers.

`console_app` puts it together; pages depend on `page_dependencies` and ask the services of the slices, as routes do;
`sign_in`, `openid_provider`, `console_sessions` say who is there; `live_updates` tells pages what changed; `pages/` has
one module per page, `templates/` and `static/` what they look like.
"""
