"""Stores of objects, opened by a URL: a folder, or a bucket of a cloud."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError
from ..extras import require_extra
from .folder_objects import FolderObjects
from .protocols import ObjectStore

__all__ = ["CALL_S", "CLOUD_SCHEMES", "ObjectStore", "open_object_store"]

CALL_S: Final = 10.0
"""Seconds after which a call to a cloud ends, whatever it waits for; 64 MB need 6.4 MB a second then."""
CLOUD_SCHEMES: Final = ("s3", "gs", "az")

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
_PREFIX = re.compile(r"(/[a-zA-Z0-9_-][a-zA-Z0-9._-]*)*/?")


def open_object_store(url: str, *, setting: str = "the URL of objects", call_s: float = CALL_S) -> ObjectStore:
    """Open a store; a folder is made where it does not exist, a cloud is not asked yet.

    Args:
        url: a path or `file:///path`; `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`. Keys come
            from the environment, as obstore reads it (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from here.
        setting: what messages call the URL.
        call_s: seconds after which a call to a cloud ends. obstore itself ends one request after 30 s.

    Raises:
        ConfigError: no such URL, a folder that can not be made, keys in the URL, a missing extra.
    """
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    if scheme in CLOUD_SCHEMES:
        _check_cloud_url(url, scheme, setting)
        require_extra("objects", f"{setting} names {scheme}://")
        from .cloud_objects import open_cloud_objects

        return open_cloud_objects(url, setting, call_s)
    if scheme == "file":
        return FolderObjects(_folder_of(url, setting))
    if scheme or not url:  # not repeated: what nobody expected may hold a password
        raise ConfigError(f"{setting} is neither a folder nor file:///, s3://, gs:// or az://")
    return FolderObjects(Path(url))


def _folder_of(url: str, setting: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment or not url[5:].startswith("//"):
        raise ConfigError(f"{setting} is no file:///path of this machine")
    return Path(unquote(parts.path))


def _check_cloud_url(url: str, scheme: str, setting: str) -> None:
    """Refuse all but a bucket and a prefix. The message repeats nothing of a URL that may hold a secret."""
    bucket, slash, prefix = url.partition("://")[2].partition("/")
    if _BUCKET.fullmatch(bucket) is None or _PREFIX.fullmatch(slash + prefix) is None or ".." in url:
        raise ConfigError(
            f"{setting} is not {scheme}://bucket/prefix (letters, digits, . _ -); "
            "keys and endpoints come from the environment, never from the URL"
        )
