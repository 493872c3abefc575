"""Slack's clicks in the OpenAPI document: they are answered before FastAPI, which knows nothing of them."""

from __future__ import annotations

from typing import Any, Final

from ..http.openapi_document import SCHEMA_REF_PREFIX, DescribedPaths
from .slack_endpoint import INTERACTIONS_PATH


def _problem(text: str) -> dict[str, Any]:
    schema = {"$ref": f"{SCHEMA_REF_PREFIX}ProblemOut"}
    return {"description": text, "content": {"application/problem+json": {"schema": schema}}}


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "description": text, "schema": schema}


_FORM: Final = {
    "type": "object",
    "required": ["payload"],
    "properties": {
        "payload": {
            "type": "string",
            "description": "JSON of the interaction, as Slack documents `block_actions`",
            "examples": ['{"type":"block_actions"}'],
        }
    },
}

DESCRIBED_PATHS: Final = DescribedPaths(
    paths={
        INTERACTIONS_PATH: {
            "post": {
                "tags": ["cases"],
                "operationId": "take_slack_interaction",
                "summary": "Take a button that was pressed in Slack",
                "description": "The Request URL of the app of `webhooks[].slack_app.interactions`. Slack signs; the "
                "person is known by the settings. What came of it is told to that person in Slack. There where a "
                "target has buttons.",
                "security": [{"slackSignature": []}],
                "parameters": [
                    _header(
                        "X-Slack-Request-Timestamp",
                        "seconds since 1970, of the last five minutes",
                        {"type": "string", "pattern": "^[0-9]{1,12}$"},
                    )
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/x-www-form-urlencoded": {"schema": _FORM}},
                },
                "responses": {
                    "200": {"description": "it is Slack's, and is being done"},
                    "400": _problem("it is no form with a payload"),
                    "401": _problem("it is unsigned, too old, signed by no app of ours, or came before"),
                    "404": _problem("no target has buttons"),
                    "413": {"description": "the body has more than 256 KiB"},
                    "421": _problem("no target has buttons, and `Host` is not this service"),
                    "503": {"description": "too many clicks are worked on; press again"},
                },
            }
        }
    },
    security_schemes={
        "slackSignature": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Slack-Signature",
            "description": "`v0=` and the HMAC-SHA256, in hex, of `v0:timestamp:body` with the app's signing secret",
        }
    },
)
