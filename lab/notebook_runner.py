"""Notebooks: started in JupyterLab, or run from top to bottom, with executed copies and a page of each."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess  # nosec B404 # runs only our own interpreter
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from trustwatch.api.settings.loading import environment_with

from .charts import VEGA_LITE_MIME, describe_chart
from .session import LabError

MAX_CONCURRENT_NOTEBOOKS = 2
CELL_TIMEOUT_S = 300
_PICTURE_SCALE = 1.5
WriteMessage = Callable[[str], None]


class NotebookRun(NamedTuple):
    """Result of a notebook run. *error* is "" if every cell ran."""

    name: str
    cells: int
    charts: int
    error: str


def find_notebooks(folder: Path) -> list[Path]:
    """Return the notebooks of a folder, by name. Raises LabError if there are none."""
    notebooks = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    if not notebooks:
        raise LabError(f"{folder.absolute()}: no notebooks; they are in the folder `notebooks` of the repository")
    return notebooks


def start_jupyterlab(folder: Path, settings: Path | None, browser: bool) -> int:
    """Serve JupyterLab on loopback, with its own token, until Ctrl-C, and return its status."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder.absolute()}",
        *(() if browser else ("--no-browser",)),
        *(("--allow-root",) if os.geteuid() == 0 else ()),
    ]
    with subprocess.Popen(command, env=environment_with(settings)) as process:  # noqa: S603 (our own interpreter)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # it got the signal, too, and asks whether that was meant
                continue


def run_notebooks(notebooks: Sequence[Path], settings: Path | None, out: Path, say: WriteMessage) -> list[NotebookRun]:
    """Run notebooks, two at a time, each in a kernel of this interpreter. The executed copies go to *out*."""
    out.mkdir(parents=True, exist_ok=True)
    env = environment_with(settings)

    async def run_all(sockets: Path) -> list[NotebookRun]:
        slots = asyncio.Semaphore(MAX_CONCURRENT_NOTEBOOKS)

        async def run(path: Path) -> NotebookRun:
            async with slots:
                book = await _run_notebook(path, env, out, sockets)
                say(f"{book.name}: " + (book.error or f"{book.cells} cells, {book.charts} charts"))
                return book

        return list(await asyncio.gather(*map(run, notebooks)))

    with tempfile.TemporaryDirectory(prefix="trustwatch-lab-") as sockets:
        return asyncio.run(run_all(Path(sockets)))


async def _run_notebook(path: Path, env: Mapping[str, str], out: Path, sockets: Path) -> NotebookRun:
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book: Any = nbformat.read(path, as_version=4)
    # Sockets are private files, so that no other user of the machine can connect.
    manager = AsyncKernelManager(transport="ipc", ip=str(sockets / path.stem[:8]))
    spec = manager.kernel_spec
    assert spec is not None
    spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]  # not that of another Python
    client = NotebookClient(
        book,
        km=manager,
        timeout=CELL_TIMEOUT_S,
        startup_timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(path.parent.absolute())}},
    )
    error = ""
    try:
        await client.async_execute(env=dict(env))
    except CellExecutionError as failed:
        error = str(failed).strip()
    finally:
        await manager.shutdown_kernel(now=True)
    nbformat.write(book, out / path.name)
    (out / f"{path.stem}.html").write_text(render_page(book, path.stem), encoding="utf-8")
    return NotebookRun(path.name, len(book.cells), len(_charts(book)), error)


def render_page(book: Any, title: str) -> str:
    """Render an executed notebook as one HTML file that needs no network, with charts as described pictures."""
    import vl_convert
    from nbconvert import HTMLExporter

    copy = deepcopy(book)
    for output in _charts(copy):
        spec = output["data"][VEGA_LITE_MIME]
        png = base64.b64encode(vl_convert.vegalite_to_png(dict(spec), scale=_PICTURE_SCALE)).decode()
        source = f'style="max-width: 100%" src="data:image/png;base64,{png}"'
        output["data"] = {"text/html": f'<img alt="{escape(describe_chart(spec))}" {source}>'}
    nowhere = dict.fromkeys(("require_js_url", "jquery_url", "mathjax_url", "mermaid_js_url"), "")
    exporter: Any = HTMLExporter(**nowhere, exclude_input_prompt=True, exclude_output_prompt=True)
    page: str = exporter.from_notebook_node(copy, resources={"metadata": {"name": title}})[0]
    return page


def _charts(book: Any) -> list[Any]:
    outputs = (output for cell in book.cells for output in cell.get("outputs", ()))
    return [output for output in outputs if VEGA_LITE_MIME in output.get("data", {})]
