"""The OpenAPI document is one that people read and programs make clients from."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from trustwatch.api.http.app import DocumentedApp
from trustwatch.api.http.auth.callers import ALL_SCOPES, SCOPE_WORDS
from trustwatch.api.http.openapi_document import OAUTH_SCHEME, operations_of
from trustwatch.api.service.slices import SLICES

Document = dict[str, Any]
SSF_SCOPES = ("ssf.read", "ssf.manage", "ssf.manage.poll")


@pytest.fixture(scope="module")
def document() -> Document:
    return DocumentedApp(SLICES).openapi()


def test_every_schema_has_an_example_that_fits_it(document: Document) -> None:
    for name, schema in document["components"]["schemas"].items():
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        assert schema["examples"], name
        for example in schema["examples"]:
            assert example not in (None, {}, []), name
            jsonschema.Draft202012Validator(whole).validate(example)


def test_every_proof_that_is_asked_for_is_declared(document: Document) -> None:
    schemes = document["components"]["securitySchemes"]
    scopes = schemes[OAUTH_SCHEME]["flows"]["clientCredentials"]["scopes"]

    assert scopes.keys() == {*SCOPE_WORDS, *SSF_SCOPES}
    for operation in operations_of(document):
        for requirement in operation["security"]:
            ((scheme, asked),) = requirement.items()
            assert scheme in schemes
            assert len(asked) <= 1
            assert {*asked} <= (scopes.keys() if scheme == OAUTH_SCHEME else set())


def test_scopes_are_those_that_the_service_asks_for(document: Document, shared: Any) -> None:
    every = {*ALL_SCOPES, *SSF_SCOPES}
    checked = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            declared = {scope for one in operation["security"] for scope in one.get(OAUTH_SCHEME, ())}
            if not declared or "stream" in operation["operationId"] or path.startswith(("/access/", "/introspect")):
                continue
            url = shared.url + re.sub(r"\{[^}]*\}", "nobody", path)
            for scopes in ([scope] for scope in sorted(declared)):
                answer = shared.client.request(method, url, headers=shared.auth("all", *scopes))
                refused = answer.status_code == 403 and answer.json()["code"] == "insufficient_scope"
                assert not refused, (method, path, scopes)
            answer = shared.client.request(method, url, headers=shared.auth("all", *sorted(every - declared)))
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), (method, path)
            checked += 1
    assert checked > 50
