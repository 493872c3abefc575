"""Call a tool of an MCP server over HTTP, with the agent's token, and say what came of it.

python examples/mcp/call_tool.py URL TOKEN_FILE TOOL [NAME=VALUE ...]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client


async def call(url: str, token: str, tool: str, arguments: dict[str, object]) -> str:
    """What the tool answers, or why it was not called."""
    said = ""
    headers = {"authorization": f"Bearer {token}"}
    try:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            result = await client.call_tool(tool, arguments)
            said = f"answer: {result.content[0].text}"
    except* MCPError as refused:
        said = f"refused: {innermost(refused)}"
    return said


def innermost(error: BaseException) -> BaseException:
    """The error itself, which the SDK's task groups wrap."""
    return innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def value(text: str) -> object:
    """A number as a number, all else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python call_tool.py URL TOKEN_FILE TOOL [NAME=VALUE ...]")
    url, token_file, tool, *given = sys.argv[1:]
    arguments = {name: value(text) for name, _, text in (one.partition("=") for one in given)}
    print(asyncio.run(call(url, Path(token_file).read_text().strip(), tool, arguments)))
