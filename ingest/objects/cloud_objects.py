"""Objects in a bucket of S3 or what speaks it, of Google Cloud Storage or of Azure, through obstore.

Nothing that obstore says is repeated as it is: its errors hold addresses, headers and bodies of answers. What a person
acts on is picked out of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Any, Final, TypeVar

import obstore
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from ..errors import ConfigError, ObjectMissing, Unavailable
from .object_names import check_object_name, check_prefix, is_object_name
from .store_trial import StoreRefused, try_store

RETRIES: Final = 3
RETRY_FOR_S: Final = 5.0
"""Within one call; whoever called tries again later."""
DELETES_AT_A_TIME: Final = 16

Answer = TypeVar("Answer")

_STATUS = re.compile(r"status code: ((\d{3})[A-Za-z ]*)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_AGAIN_LATER = {"408", "409", "425", "429"}
"""Statuses of 4xx that refuse nothing."""
_REFUSALS: Final = (
    ("BadScheme", "plain http is used with AWS_ALLOW_HTTP=true (AZURE_ALLOW_HTTP) alone"),
    ("BareRedirect", "it points to another region: is AWS_REGION the one of the bucket?"),
    ("MissingAccount", "the environment names no account (AZURE_STORAGE_ACCOUNT_NAME)"),
    ("RustPanic", "obstore can not work with the endpoint of the environment: is it a URL, https://host?"),
)
"""Words in obstore's errors or the name of one, and what they mean; none of these goes by waiting."""
_NO_ANSWERS: Final = (
    ("/latest/api/token", "the environment has no keys (AWS_ACCESS_KEY_ID), and this machine is none of AWS"),
    ("/computeMetadata/", "the environment has no keys (GOOGLE_APPLICATION_CREDENTIALS), and this is none of Google"),
    ("dns error", "nobody knows the name of its host"),
    ("Connection refused", "the connection was refused"),
    ("certificate", "its certificate is not trusted"),
    ("TimedOut", "no answer in time"),
)
"""The same of what may go by itself."""


def open_cloud_objects(url: str, setting: str, call_s: float) -> CloudObjects:
    """Open a bucket; nothing is asked yet.

    Args:
        url: `s3://`, `gs://` or `az://`, a bucket and a prefix, already checked.
        setting: what messages call the URL.
        call_s: seconds after which a call ends.

    Raises:
        ConfigError: the environment lacks what this cloud needs.
    """
    pause = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2}
    retries: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_FOR_S), "backoff": pause}
    try:  # without options of the client: given ones replace those of the environment (AWS_ALLOW_HTTP, AWS_PROXY_URL)
        store = from_url(url, retry_config=retries)
    except Exception as error:
        raise ConfigError(f"{setting} can not be used: {_cause(error)[0]}") from None
    return CloudObjects(store, url.rstrip("/"), call_s)


class CloudObjects:
    """Objects of a bucket below a prefix, an `ObjectStore`.

    Each call runs in an event loop of its own, which ends it in time wherever it hangs; so it can not be called from
    a coroutine, whose loop it would block.
    """

    def __init__(self, store: Any, shown: str, call_s: float) -> None:
        """Keep the store of obstore; nothing is asked yet.

        Args:
            store: bucket and prefix, with its keys.
            shown: the URL in messages, without any secret.
            call_s: seconds after which a call ends.
        """
        self._store = store
        self._shown = shown
        self._call_s = call_s

    def __repr__(self) -> str:
        return f"CloudObjects({self._shown!r})"

    def put(self, name: str, content: bytes) -> None:
        """Write an object with one request, of which a crash leaves nothing. Raises as `ObjectStore.put`."""
        check_object_name(name)
        self._run("put", lambda: obstore.put_async(self._store, name, content, use_multipart=False))

    def get(self, name: str) -> bytes:
        """Read an object. Raises as `ObjectStore.get`."""
        check_object_name(name)
        content = self._run("get", lambda: self._read(name))
        if content is None:
            raise ObjectMissing(f"{self._shown}: there is no object {name}")
        return content

    def list_names(self, prefix: str) -> list[str]:
        """Names of all pages. Raises as `ObjectStore.list_names`."""
        folder = check_prefix(prefix).rpartition("/")[0]
        found = self._run("list", lambda: self._listed(folder))
        return sorted(name for name in found if name.startswith(prefix) and is_object_name(name))

    def delete(self, names: Collection[str]) -> None:
        """Remove objects, S3's a thousand at a time. Raises as `ObjectStore.delete`."""
        given = [check_object_name(name) for name in names]
        if given:
            self._run("delete", lambda: self._remove(given))

    def count_unfinished(self, older_than_s: float) -> int:  # noqa: ARG002 (of the protocol)
        """None: an object is written with one request, of which a crash leaves nothing."""
        return 0

    def remove_unfinished(self, older_than_s: float) -> None:
        """Nothing is to be done: see `count_unfinished`."""

    def check(self) -> None:
        """Try all of it. Raises as `ObjectStore.check`."""
        try:
            try_store(self, self._shown)
        except StoreRefused as error:
            raise ConfigError(f"{error}; see to the bucket, and to keys and endpoint in the environment") from None
        except Unavailable as error:
            raise Unavailable(f"{error}; is the endpoint of the environment right, and does it run?") from None

    def _run(self, what: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        answers: list[Answer] = []  # beside the task, whose result the signal module of Python writes out as text

        async def within() -> None:
            try:
                async with asyncio.timeout(self._call_s):
                    answers.append(await call())
            except TimeoutError:
                raise Unavailable(f"{self._shown}: {what} was not answered within {self._call_s:g} s") from None
            except Exception as error:  # obstore has errors of its own, built-in ones, and one for what it never meant
                cause, refused = _cause(error)
                raise (StoreRefused if refused else Unavailable)(f"{self._shown}: {what}: {cause}") from None

        asyncio.run(within())
        return answers.pop()

    async def _read(self, name: str) -> bytes | None:
        try:
            answer = await obstore.get_async(self._store, name)
            return bytes(await answer.bytes_async())
        except FileNotFoundError:
            await self._listed(name)  # a bucket that is not there is "not found", too: this raises then
            return None

    async def _listed(self, folder: str) -> list[str]:
        found = await obstore.list(self._store, folder or None).collect_async()
        return [one["path"] for one in found]

    async def _remove(self, names: list[str]) -> None:
        try:
            await obstore.delete_async(self._store, names)
        except FileNotFoundError:  # of the bucket, or of one object, after which the others may be left
            await self._listed(names[0])
            gate = asyncio.Semaphore(DELETES_AT_A_TIME)
            await asyncio.gather(*(self._remove_one(name, gate) for name in names))

    async def _remove_one(self, name: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                await obstore.delete_async(self._store, name)
            except FileNotFoundError:
                return


def _cause(error: Exception) -> tuple[str, bool]:
    """A cause that a person acts on, and whether the store refuses, so that nothing changes by waiting."""
    text = str(error)
    if status := _STATUS.search(text):
        code = _CODE.search(text)
        answer = f"it answers {status[1].strip()}" + (f", {code[1]}" if code else "")
        return answer, status[2].startswith("4") and status[2] not in _AGAIN_LATER
    words = f"{type(error).__name__} {text}"
    for table, refused in ((_REFUSALS, True), (_NO_ANSWERS, False)):
        for sign, meaning in table:
            if sign in words:
                return meaning, refused
    refusals = FileNotFoundError | PermissionDeniedError | UnauthenticatedError
    return f"obstore says {type(error).__name__}", isinstance(error, refusals)
