"""Stores of objects: one interface for a folder and for the clouds' buckets, opened by a URL."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError
from ..extras import require_extra
from .folder_objects import FolderObjects

CALL_S: Final = 10.0
"""Seconds after which a call to a cloud ends, whatever it waits for."""
CLOUD_SCHEMES: Final = ("s3", "gs", "az")

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
_PREFIX = re.compile(r"(/[a-zA-Z0-9_-][a-zA-Z0-9._-]*)*/?")


class ObjectStore(Protocol):
    """Named pieces of bytes. A reader beside a writer gets all of an object or none, of several writers one wins.

    Calls block, and may come from several threads. Names hold a-z, 0-9, ".", "_", "-" and "/" between parts, no part
    begins with "." (`object_names`); any other is a ValueError.
    """

    def put(self, name: str, content: bytes) -> None:
        """Write an object, or put another content in its place; it is durable when this returns.

        Raises:
            Unavailable: it was not written, or nobody said so in time. The same call may succeed later.
        """

    def get(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            ObjectMissing: the store answers, and has none of that name.
            Unavailable: nobody can tell now.
        """

    def list_names(self, prefix: str) -> list[str]:
        """Names that begin with *prefix*, in order; "" = all. Whatever `put` returned for is there.

        The text counts: "a/1" lists `a/10`, too, "a/1/" lists what is in that folder.

        Raises:
            Unavailable: nobody can tell now.
        """

    def delete(self, names: Collection[str]) -> None:
        """Remove objects; one that is not there is no error.

        Raises:
            Unavailable: some may be left; the same call may succeed later.
        """

    def count_unfinished(self, older_than_s: float) -> int:
        """Number of pieces that no name shows: a crash of a writer left them, or one is at work. Of that age or more.

        Raises:
            Unavailable: nobody can tell now.
        """

    def remove_unfinished(self, older_than_s: float) -> None:
        """Remove such pieces of that age, in seconds, or more; a writer that was slower writes its object again.

        Raises:
            Unavailable: some may be left; the same call may succeed later.
        """

    def check(self) -> None:
        """Write, read, list and delete a small object, at start.

        Raises:
            ConfigError: the store refuses: no such bucket, keys, rights, a full disk.
            Unavailable: nobody answers: the store is down, or its address is wrong.
        """


def open_object_store(url: str, *, setting: str = "the URL of objects", call_s: float = CALL_S) -> ObjectStore:
    """Open a store; a folder is made where it does not exist, a cloud is not asked yet.

    Args:
        url: a path or `file:///path`; `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`. Keys come
            from the environment, as obstore reads it (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from here.
        setting: what messages call the URL.
        call_s: seconds after which a call to a cloud ends.

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
