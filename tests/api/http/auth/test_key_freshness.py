"""Keys that were fetched since something came: a fetch that was under way has the keys of before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.settings.access_settings import IssuerSettings

ISSUER = "https://idp.example"


class SlowCache(JwksCache):
    async def _fetch_document(self, issuer: IssuerSettings) -> bytes:
        document = await super()._fetch_document(issuer)
        await asyncio.sleep(0.05)
        return document


def test_a_fetch_counts_from_its_beginning(tmp_path: Path) -> None:
    """A SET that comes while keys are fetched is judged by those that are fetched after it came."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": []}))
    issuer = IssuerSettings(issuer=ISSUER, audiences=("us",), jwks_file=path)
    now = [100.0]

    async def go() -> list[bool]:
        cache = SlowCache([issuer], lambda: now[0], lambda: now[0])
        said = [cache.is_fetched_since(ISSUER, 0.0)]
        fetch = cache.refresh_soon(ISSUER)
        assert fetch is not None
        await asyncio.sleep(0)
        now[0] = came = 113.0
        assert cache.refresh_soon(ISSUER) is fetch
        await fetch
        said += [cache.is_fetched_since(ISSUER, 100.0), cache.is_fetched_since(ISSUER, came)]
        later = cache.refresh_soon(ISSUER)
        assert later is not None
        await later
        return [*said, cache.is_fetched_since(ISSUER, came)]

    assert asyncio.run(go()) == [False, True, False, True]
