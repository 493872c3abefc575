"""The console at `/console`: pages for people, rendered from the same services as the API's answers.

`slice` puts it together; pages depend on `page_dependencies` and call the services of the slices, as routes do;
`sign_in`, `openid_provider` and `console_sessions` identify the person; `live_updates` notifies pages of changes.
`pages/`, `templates/` and `static/` contain the pages.
"""
