"""Every tool of the official MCP server, called as a model's host calls them: over stdio. Runs in its environment.

    mcp_tour.py direct|proxy IMAGE

Prints JSON: for each tool "ok", or what went wrong; and all tools there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

WAY, IMAGE = sys.argv[1:3]
results: dict[str, str] = {}


def text_of(answer):
    return "".join(getattr(piece, "text", "") for piece in answer.content)


async def tour(session):
    async def call(name, expect="", **arguments):
        answer = await session.call_tool(name, arguments)
        text = text_of(answer)
        is_error = getattr(answer, "is_error", False) or getattr(answer, "isError", False)
        if results.get(name, "ok") == "ok":  # one that failed once has failed, whatever it does after that
            results[name] = "ok" if not is_error and expect in text else f"failed: {text[:300]}"
        return text

    sandbox = json.loads(await call("sandbox_create", image=IMAGE, metadata={"mcp": WAY}))["sandbox_id"]
    at = {"sandbox_id": sandbox}
    await call("sandbox_connect", **at)
    await call("sandbox_get_info", "Running", **at)
    await call("sandbox_list", sandbox, filter={"metadata": {"mcp": WAY}})
    await call("sandbox_renew", timeout_seconds=1200, **at)
    await call("sandbox_get_metrics", "cpu", **at)
    await call("sandbox_healthcheck", "true", **at)
    await call("sandbox_get_endpoint", "8123", port=8123, **at)
    await call("command_run", "hello", command="echo hello", **at)
    behind = json.loads(await call("command_run", command="sleep 300", background=True, **at))
    await call("command_interrupt", execution_id=behind["id"], **at)
    await call("file_create_directories", entries=[{"path": "/tour/in", "mode": 755}], **at)
    await call("file_write", path="/tour/a", content="one two", **at)
    await call("file_read", "one two", path="/tour/a", **at)
    entry = {"path": "/tour/a", "old_content": "one", "new_content": "1"}
    await call("file_replace_contents", "1", entries=[entry], **at)
    await call("file_move", entries=[{"src": "/tour/a", "dest": "/tour/in/b"}], **at)
    await call("file_search", "/tour/in/b", path="/tour", pattern="b", **at)
    await call("file_delete", paths=["/tour/in/b"], **at)
    await call("file_delete_directories", paths=["/tour"], **at)
    await call("sandbox_kill", **at)
    return [tool.name for tool in (await session.list_tools()).tools]


async def main():
    server = StdioServerParameters(
        command=os.path.join(os.path.dirname(sys.executable), "opensandbox-mcp"),
        args=["--transport", "stdio", *(["--use-server-proxy"] if WAY == "proxy" else [])],
        env=dict(os.environ),
    )
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        return await tour(session)


surface: list[str] = []
try:
    surface = asyncio.run(main())
finally:
    print(json.dumps({"results": results, "surface": surface}))
