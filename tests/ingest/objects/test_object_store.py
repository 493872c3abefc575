"""URLs of object stores: which are taken, and that a refused one is never shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trustwatch.ingest import extras
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.objects.object_names import is_object_name
from trustwatch.ingest.objects.object_store import open_object_store

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of nobody, at an address where nobody listens, so that no test asks the machines of a cloud."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AZURE_STORAGE_ACCOUNT_NAME": "nobody",
        "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("url", ["{}", "file://{}", "{}/"])
def test_a_folder_by_path_or_url(tmp_path: Path, url: str) -> None:
    """Both are the same place; it is made."""
    folder = tmp_path / "with space"
    store = open_object_store(url.format(str(folder).replace(" ", "%20") if url.startswith("file") else folder))

    store.put("a", b"1")

    assert (folder / "a").read_bytes() == b"1"


def test_a_relative_path_is_of_the_folder_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_object_store("var/objects")
    monkeypatch.chdir("/")

    store.put("a", b"1")

    assert (tmp_path / "var/objects/a").read_bytes() == b"1"


@pytest.mark.parametrize(
    "url", ["s3://bucket-1", "s3://bucket-1/", "s3://bucket.1/a/B_c-1/", "gs://bucket_1/a", "az://container/a/b"]
)
def test_a_bucket_is_not_asked_when_it_is_opened(url: str) -> None:
    assert repr(open_object_store(url)) == f"CloudObjects('{url.rstrip('/')}')"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/a",
        f"s3://AKIA:{SECRET}/x@bucket/a",
        f"s3://bucket/a?aws_secret_access_key={SECRET}",
        f"s3://bucket/a#{SECRET}",
        f"az://container/a?sig={SECRET}",
        f"s3:{SECRET}",
        f"s3:/{SECRET}",
        f"s3:///{SECRET}@",
        f"s3://bucket/../{SECRET}",
        f"s3://bucket//{SECRET}",
        f"S4://{SECRET}@bucket",
        f"https://user:{SECRET}@host/bucket",
        f"file://user:{SECRET}@host/path",
        f"file:///path?{SECRET}",
        f"file:{SECRET}",
        "",
    ],
)
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    """Above all those with keys; whoever reads the error learns which setting it is."""
    with pytest.raises(ConfigError, match=r"^`state\.objects` ") as refused:
        open_object_store(url, setting="`state.objects`")

    assert SECRET not in str(refused.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder needs none, and loads none."""
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "obstore")

    with pytest.raises(ConfigError) as missing:
        open_object_store("s3://bucket", setting="`state.objects`")

    said = "`state.objects` names s3://, but obstore is not installed: pip install '.[objects]'"
    assert str(missing.value).startswith(said)


def test_a_folder_loads_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from trustwatch.ingest.objects.object_store import open_object_store as o; "
        "o(sys.argv[1]).check(); print('obstore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_names() -> None:
    """The longest ones that are taken, and one sign more."""
    assert is_object_name("a" * 200) and not is_object_name("a" * 201)
    longest = "/".join(["a" * 139] * 5)
    assert len(longest) == 699
    assert is_object_name(longest + "a") and not is_object_name(longest + "aa")
