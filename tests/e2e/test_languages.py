"""All six languages in one sandbox: through the official code-interpreter SDK, and through the native stream."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.e2e.endless import ENDLESS
from tests.support.server.live_server import LiveServer, run_script
from tests.support.server.stream_client import connected, of_type, output

CREATE = {
    "image": {"uri": "sandlot/code-interpreter"},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600,
    "resourceLimits": {"cpu": "2", "memory": "4Gi"},
}

# For each: code that leaves something, code that shows it, what that gives, code that raises, what the error is named.
LANGUAGES = {
    "python": ("x = 20", "print('out'); x + 22", "42", "1 / 0", "ZeroDivisionError"),
    "javascript": ("let x = 20", "console.log('out'); x + 22", "42", "null.f", "TypeError"),
    "typescript": ("let x: number = 20", "console.log('out'); x + 22", "42", "throw new RangeError('r')", "RangeError"),
    "java": ("int x = 20;", 'System.out.println("out"); x + 22', "42", "1 / 0", "EvalException"),
    "go": ("x := 20", 'fmt.Println("out"); x + 22', "42", 'panic("p")', "panic"),
    "bash": ("x=20", "echo out; echo $((x + 22))", "", "exit_with() { return 3; }; exit_with", "CommandExecError"),
}

BEGUN = {
    "python": "print('begun')\n",
    "javascript": "console.log('begun');",
    "typescript": "console.log('begun');",
    "java": 'System.out.println("begun");',
    "go": 'fmt.Println("begun")\n',
    "bash": "echo begun;",
}

SDK = """
import asyncio, json, sys
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox

async def main():
    languages = json.loads(sys.argv[1])
    sandbox = await Sandbox.create("sandlot/code-interpreter", resource={"cpu": "2", "memory": "4Gi"})
    interpreter = await CodeInterpreter.create(sandbox)
    said = {}
    for language, (leave, show, _, wrong, _) in languages.items():
        context = await interpreter.codes.create_context(language)
        other = await interpreter.codes.create_context(language)
        run = interpreter.codes.run
        assert (await run(leave, context=context)).error is None
        shown = await run(show, context=context)
        failed = await run(wrong, context=context)
        apart = await run(show, context=other)
        again = await run(show, context=context)
        said[language] = {
            "out": "".join(line.text for line in shown.logs.stdout),
            "value": "".join(result.text for result in shown.result),
            "error": failed.error.name,
            "has traceback": bool(failed.error.traceback),
            "apart": (apart.error is not None) or "".join(r.text for r in apart.result) != "42",
            "stays": "".join(result.text for result in again.result),
            "listed": context.id in [one.id for one in await interpreter.codes.list_contexts(language)],
        }
        await interpreter.codes.delete_context(other.id)
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


RICH = """
import matplotlib.pyplot as plt, pandas
from IPython.display import HTML, JSON, Javascript, Latex, Markdown, SVG, display
plt.plot([1, 2])
plt.show()
display(HTML("<b>x</b>"))
handle = display(Markdown("*x*"), display_id=True)
for one in (Latex("$x$"), SVG("<svg xmlns='http://www.w3.org/2000/svg'/>"), JSON({"a": 1}), Javascript("1")):
    display(one)
handle.update(Markdown("*y*"))
pandas.DataFrame({"a": [1]})
"""


def test_through_the_official_sdk(sdk: Path, server: LiveServer) -> None:
    """State, values, output and errors of each language, and contexts that share nothing."""
    said = run_script(sdk, server, SDK, json.dumps(LANGUAGES))
    for language, (_, _, value, _, error) in LANGUAGES.items():
        assert said[language] == {
            "out": "out" if value else "out42",
            "value": value,
            "error": error,
            "has traceback": True,
            "apart": True,
            "stays": value,
            "listed": True,
        }, language


@pytest.mark.parametrize("language", LANGUAGES)
async def test_through_the_stream(server: LiveServer, sandbox: str, language: str) -> None:
    """The same, and what each run has used; a time limit and an interrupt end a run and not the context."""
    leave, show, value, wrong, error = LANGUAGES[language]
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language=language)
        context = opened["id"]
        assert (await client.ask("run", code=leave, context=context))[-1]["receipt"]["cause"] == "ok"
        shown = await client.ask("run", code=show, context=context)
        assert output(shown) == ("out\n" if value else "out\n42\n")
        assert [result["data"]["text/plain"] for result in of_type(shown, "result")] == ([value] if value else [])
        receipt = shown[-1]["receipt"]
        assert receipt["cause"] == "ok"
        assert receipt["wall_s"] > 0
        assert receipt["peak_memory_bytes"] > 1_000_000
        assert receipt["output_bytes"] == len(output(shown))
        failed = await client.ask("run", code=wrong, context=context)
        assert failed[-1]["receipt"]["cause"] == "error"
        assert [raised["name"] for raised in of_type(failed, "raised")] == ([error] if value else [])
        late = await client.ask("run", code=ENDLESS[language], context=context, timeout_s=1)
        assert late[-1]["receipt"]["cause"] == "timeout"
        endless = await client.open("run", code=BEGUN[language] + ENDLESS[language], context=context)
        while (await client.next(endless))["type"] != "data":
            pass
        await client.ask("context.interrupt", id=context)
        assert (await client.rest(endless))[-1]["receipt"]["cause"] == "interrupted"
        again = await client.ask("run", code=show, context=context)
        assert output(again) == output(shown)
        await client.ask("context.close", id=context)


async def test_all_that_python_shows(server: LiveServer, sandbox: str) -> None:
    """In the order in which it was shown, each in the forms that it has."""
    async with connected(server, sandbox) as client:
        results = of_type(await client.ask("run", code=RICH, language="python"), "result")
    forms = [sorted(set(result["data"]) - {"text/plain"}) for result in results]
    assert forms == [
        ["image/png"],
        ["text/html"],
        ["text/markdown"],
        ["text/latex"],
        ["image/svg+xml"],
        ["application/json"],
        ["application/javascript"],
        ["text/markdown"],
        ["text/html"],
    ]
    assert base64.b64decode(results[0]["data"]["image/png"]).startswith(b"\x89PNG")
    assert results[7]["data"]["text/markdown"] == "*y*"
    assert [result["kind"] for result in results] == ["display"] * 8 + ["result"]


async def test_what_a_live_context_is_asked(server: LiveServer, sandbox: str) -> None:
    """Input, completion, inspection, copies that go their own ways, an end with its cause, and a new beginning."""
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language="python")
        context = opened["id"]
        asking = await client.open("run", code="name = input('who? ')\nname * 2", context=context, allow_input=True)
        while (message := await client.next(asking))["type"] != "prompt":
            pass
        assert message["prompt"] == "who? "
        await client.ask("input", context=context, text="me")
        (result,) = of_type(await client.rest(asking), "result")
        assert result["data"]["text/plain"] == "'meme'"
        completion = (await client.ask("context.complete", id=context, code="nam", cursor=3))[0]
        assert "name" in completion["matches"]
        inspection = (await client.ask("context.inspect", id=context, code="name", cursor=4))[0]
        assert "String form: me" in inspection["data"]["text/plain"]
        copies = of_type(await client.ask("context.fork", id=context, count=2), "context")
        for number, copy in enumerate(copies):
            await client.ask("run", code=f"name += '{number}'", context=copy["id"])
        for name, one in (("'me'", context), ("'me0'", copies[0]["id"]), ("'me1'", copies[1]["id"])):
            (result,) = of_type(await client.ask("run", code="name", context=one), "result")
            assert result["data"]["text/plain"] == name
        ended = await client.ask("run", code="import os; os._exit(7)", context=context)
        assert (ended[-1]["receipt"]["cause"], ended[-1]["receipt"]["exit_code"]) == ("died", 7)
        (begun, _) = await client.ask("context.restart", id=context)
        assert begun["id"] == context
        (raised,) = of_type(await client.ask("run", code="name", context=context), "raised")
        assert raised["name"] == "NameError"
