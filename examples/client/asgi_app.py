"""An API that tells Trustwatch what agents do, and refuses those that are not to be trusted now.

    python examples/client/asgi_app.py
    curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8480/orders/42    # README.md says where TOKEN comes from

Its fail mode is `last_known`, else open: it would rather answer than stand still, and whoever was contained stays so.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import uvicorn
from common import BUDGET_S, PORT, URL, Authentication, caller, service_token
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from trustwatch_client import (
    Approvals,
    AsyncCallVerdicts,
    AsyncEventSender,
    AsyncTrustClient,
    Challenge,
    RiskSettings,
    SenderSettings,
    TrustMiddleware,
)

settings = RiskSettings(fail_mode="last_known", without_last_known="open", budget_s=BUDGET_S)
client = AsyncTrustClient(URL, service_token, settings)
verdicts = AsyncCallVerdicts(URL, service_token, fail_mode="open")
approvals = Approvals(URL, service_token)
sender = AsyncEventSender(URL, service_token, SenderSettings(source="urn:example:orders"))


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await client.check()
    yield
    await sender.close()
    await client.close()
    await verdicts.close()
    await approvals.close()


async def read(request: Request) -> JSONResponse:
    return JSONResponse({"order": request.path_params["order"], "by": request.scope["claims"]["client_id"]})


async def write(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())}, 201)


def needed(scope: MutableMapping[str, Any]) -> set[str]:
    """Scopes that a request needs: with them, policies and approvals hold to the letter."""
    return {"orders:read" if scope["method"] == "GET" else "orders:write"}


app = Starlette(routes=[Route("/orders/{order}", read), Route("/orders", write, methods=["POST"])], lifespan=lifespan)
watched = TrustMiddleware(
    app,
    caller=lambda scope: caller(scope.get("claims")),
    client=client,
    sender=sender,
    challenge=Challenge(acr_values="urn:example:mfa"),
    approved=approvals,
    calls=verdicts,
    needed=needed,
)
guarded = Authentication(watched, "orders")  # outermost: what the middleware reads has been verified

if __name__ == "__main__":
    uvicorn.run(guarded, host="127.0.0.1", port=PORT, log_level="warning")
