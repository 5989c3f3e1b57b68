"""What each language promises beyond a value: through the official SDK, and through the native stream."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.e2e.endless import ENDLESS
from tests.support.server.live_server import LiveServer, run_script
from tests.support.server.stream_client import connected, of_type, output

CREATE = {
    "image": {"uri": "sandlot/code-interpreter"},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600,
    "resourceLimits": {"cpu": "2", "memory": "512Mi"},
}

# Runs of one context, in turn: code, what it prints, its value, the name of its error.
FEATURES = {
    "python": [
        ("%env SANDLOT_TEST=1\nimport os\nos.environ['SANDLOT_TEST']", "env: SANDLOT_TEST=1", "'1'", ""),
        ("!echo shell; echo $((6 * 7))", "shell\n42", "", ""),
        ("listing = !echo captured\nlisting[0]", "", "'captured'", ""),
        ("import asyncio\nawait asyncio.sleep(0.01)\n'awaited'", "", "'awaited'", ""),
        (
            "import ctypes, subprocess\nprint('one ', end='')\nsubprocess.run(['echo', 'two'])\n"
            "ctypes.CDLL(None).printf(b'three ')\nprint('four')",
            "one two\nthree four",
            "",
            "",
        ),
        ("import sys\nsys.exit(3)", "", "", "SystemExit"),
        ("input()", "", "", "EOFError"),
        ("listing[0]", "", "'captured'", ""),
    ],
    "javascript": [
        ("const {sep} = await import('node:path'); sep", "", "'/'", ""),
        ("require('node:os').EOL.length", "", "1", ""),
        ("await new Promise((done) => setTimeout(() => done('later'), 10))", "", "'later'", ""),
        ("function deep() { throw new RangeError('far') }\ndeep()", "", "", "RangeError"),
        ("const sep = deep.name; sep", "", "'deep'", ""),
    ],
    "typescript": [
        ("enum Color { Red = 7 }\nColor.Red", "", "7", ""),
        ("interface Point { a: number }\nconst p: Point = { a: 1 }\np.a", "", "1", ""),
        ("const same = <T,>(x: T): T => x\nsame<string>('s')", "", "'s'", ""),
        ("await Promise.resolve(p.a + 1)", "", "2", ""),
        ("let x: number = ;", "", "", "SyntaxError"),
    ],
    "java": [
        ("import java.util.stream.*;\nIntStream.range(0, 3).boxed().toList()", "", "[0, 1, 2]", ""),
        ("class Point {\n  int x = 3;\n  int twice() { return 2 * x; }\n}", "", "", ""),
        ("int f(int n) { return n < 2 ? 1 : n * f(n - 1); }\nf(5) + new Point().twice()", "", "126", ""),
        ('throw new java.io.IOException("no");', "", "", "EvalException"),
        ("int = 3;", "", "", "CompilationException"),
    ],
    "go": [
        ("func double(x int) int { return 2 * x }\ndouble(21)", "", "42", ""),
        ("type point struct{ X int }\np := &point{5}", "", "", ""),
        ("p.X", "", "5", ""),
        ('package main\nimport "fmt"\nfunc main() { fmt.Println("whole") }', "whole", "", ""),
        ("var none []int\nnone[3]", "", "", "panic"),
        ("os.Exit(3)", "", "", "ExitError"),
        ("undeclared", "", "", "CompileError"),
        ("p.X", "", "5", ""),
    ],
    "bash": [
        ('greet() { echo "hi $1"; }\ngreet you', "hi you", "", ""),
        ("cd /tmp && A=1 && greet again", "hi again", "", ""),
        ("sleep 60 & jobs -r | wc -l; echo $PWD $A", "1\n/tmp 1", "", ""),
        ("kill %1; wait %1 2>/dev/null; jobs -r | wc -l; false", "0", "", "CommandExecError"),
    ],
}

SDK = """
import asyncio, json, sys
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox
from opensandbox.models.execd import ExecutionHandlers

def told(run):
    return [
        "\\n".join(line.text for line in run.logs.stdout),
        "".join(result.text for result in run.result),
        run.error.name if run.error else "",
    ]

async def main():
    features, endless = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    sandbox = await Sandbox.create("sandlot/code-interpreter", resource={"cpu": "2", "memory": "4Gi"})
    codes = (await CodeInterpreter.create(sandbox)).codes
    said = {}
    for language, runs in features.items():
        context = await codes.create_context(language)
        said[language] = [told(await codes.run(code, context=context)) for code, *_ in runs]
        begun = asyncio.Queue()
        going = asyncio.create_task(codes.run(
            endless[language], context=context, handlers=ExecutionHandlers(on_init=lambda init: begun.put(init.id))
        ))
        await codes.interrupt(await begun.get())
        interrupted = (await going).error is not None
        last = runs[-1] if not runs[-1][3] else runs[0]
        again = told(await codes.run(last[0], context=context))
        said[language].append([interrupted, again == list(last[1:])])
    dying = await codes.create_context("python")
    died = await codes.run("import ctypes; ctypes.string_at(0)", context=dying)
    said["death"] = [died.error.name, "SIGSEGV" in died.error.value]
    said["default"] = told(await codes.run("import os; os._exit(4)", language="python"))[2]
    said["default again"] = told(await codes.run("1 + 1", language="python"))[1]
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


def test_through_the_official_sdk(sdk: Path, server: LiveServer) -> None:
    """Every feature, an interrupt after which the state is there still, and deaths that cost one context."""
    said = run_script(sdk, server, SDK, json.dumps(FEATURES), json.dumps(ENDLESS))
    for language, runs in FEATURES.items():
        *found, ending = said[language]
        assert found == [list(told) for _, *told in runs], language
        assert ending == [True, True], language
    assert said["death"] == ["ContextDied", True]
    assert (said["default"], said["default again"]) == ("ContextDied", "2")


@pytest.mark.parametrize("language", FEATURES)
async def test_through_the_stream(server: LiveServer, sandbox: str, language: str) -> None:
    """The same, where what is printed comes with its ends of lines, and a shell's failure is in its receipt."""
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language=language)
        for code, printed, value, error in FEATURES[language]:
            messages = await client.ask("run", code=code, context=opened["id"])
            assert output(messages) == (f"{printed}\n" if printed else ""), code
            assert [one["data"]["text/plain"] for one in of_type(messages, "result")] == ([value] if value else []), (
                code
            )
            raised = [one["name"] for one in of_type(messages, "raised")]
            assert raised == ([error] if error and language != "bash" else []), code
            assert messages[-1]["receipt"]["cause"] == ("error" if error else "ok"), code
        await client.ask("context.close", id=opened["id"])


# What wants more memory than there is: in the context's own process, and in a program that it runs.
GREEDY = {
    "python": ("kept = [bytearray(10 << 20) for _ in range(100)]", "died"),
    "bash": ("python3 -c 'bytearray(10**9)'", "oom"),
    "go": ("kept := make([]byte, 1<<30)\nfor i := range kept { kept[i] = 1 }", "oom"),
}


@pytest.mark.parametrize("language", GREEDY)
async def test_out_of_memory(server: LiveServer, sandbox: str, language: str) -> None:
    """The receipt has the cause, and how much it was; another context lives on."""
    code, cause = GREEDY[language]
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language=language)
        (other, _) = await client.ask("context.open", language="bash")
        receipt = (await client.ask("run", code=code, context=opened["id"]))[-1]["receipt"]
        assert (receipt["cause"], receipt["exit_code"], receipt["limits_hit"]) == (cause, 137, ["memory"])
        assert receipt.get("died_of") == ("oom" if cause == "died" else None)
        if language != "bash":  # which knows of itself only
            assert receipt["peak_memory_bytes"] > 200 << 20
        assert output(await client.ask("run", code="echo alive", context=other["id"])) == "alive\n"


async def test_the_limit_of_processes(server: LiveServer, sandbox: str) -> None:
    """Code that meets it gets an error; the receipt names the limit."""
    code = "import threading\ndone = threading.Event()\nwhile True: threading.Thread(target=done.wait).start()"
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language="python")
        messages = await client.ask("run", code=code, context=opened["id"])
        (raised,) = of_type(messages, "raised")
        assert (raised["name"], raised["value"]) == ("RuntimeError", "can't start new thread")
        assert raised["frames"][0]["code"] == "while True: threading.Thread(target=done.wait).start()"
        assert messages[-1]["receipt"]["limits_hit"] == ["pids"]
        failed = await client.ask("context.fork", id=opened["id"], count=1)
        assert (failed[-1]["type"], failed[-1]["code"]) == ("failed", "CONTEXT_NOT_FORKABLE")
        assert "threads" in failed[-1]["message"]
        await client.ask("context.close", id=opened["id"])


async def test_copies_share_what_they_do_not_write(server: LiveServer, sandbox: str) -> None:
    """Ten copies of a context that holds 200 MB, in a sandbox that has room for two."""
    async with connected(server, sandbox) as client:
        (opened, _) = await client.ask("context.open", language="python")
        await client.ask("run", code="import numpy as np\nbig = np.ones(200 * 2**20 // 8)", context=opened["id"])
        copies = of_type(await client.ask("context.fork", id=opened["id"], count=10), "context")
        assert len(copies) == 10
        for copy in copies:
            (result,) = of_type(await client.ask("run", code="int(big.sum())", context=copy["id"]), "result")
            assert result["data"]["text/plain"] == str(200 * 2**20 // 8)
        for context in (opened, *copies):
            await client.ask("context.close", id=context["id"])


async def test_displays_that_are_updated_and_pictures(server: LiveServer, sandbox: str) -> None:
    """With the id of what they take the place of, also over HTTP."""
    code = (
        "from IPython.display import Image\n"
        "shown = display('a', display_id='bar')\nshown.update('b')\n"
        "display(Image(data=b'\\xff\\xd8\\xff\\xe0', format='jpeg'))"
    )
    async with connected(server, sandbox) as client:
        first, second, picture = of_type(await client.ask("run", code=code, language="python"), "result")
    assert (first["display_id"], "update" in first) == ("bar", False)
    assert (second["display_id"], second["update"]) == ("bar", True)
    assert picture["data"]["image/jpeg"] == "/9j/4A=="
    answer = server.request("POST", "/v1/contexts/execute", {"sandbox_id": sandbox, "code": code})
    assert [one.get("update", False) for one in answer["results"]] == [False, True, False]


def test_limits_that_the_server_sets() -> None:
    """How many contexts, and how much output a run may have: by the settings, to the sandbox, as the client sees it."""
    with LiveServer(["--pool-size", "0", "--max-contexts", "2", "--output-limit", "100"]) as small:
        sandbox_id = small.request("POST", "/v1/sandboxes", CREATE)["id"]
        path = f"{small.address}/v1/sandboxes/{sandbox_id}"
        with httpx.Client(headers={"OPEN-SANDBOX-API-KEY": small.key}, timeout=60, trust_env=False) as client:
            statuses = [client.post(f"{path}/contexts", json={"language": "bash"}) for _ in range(3)]
            assert [answer.status_code for answer in statuses[:2]] == [200, 200]
            assert "2 contexts may exist at once" in statuses[2].json()["message"]
            body = {
                "sandbox_id": sandbox_id,
                "context_id": statuses[0].json()["id"],
                "code": "head -c 300000 /dev/zero",
            }
            answer = client.post(f"{small.address}/v1/contexts/execute", json=body).json()
            assert len(answer["stdout"]) == 100 * 1024
            assert "more than 102400 bytes" in answer["stderr"]
            assert answer["receipt"]["output_bytes"] == 300_000
            session = client.post(f"{path}/proxy/44772/session", json={}).json()["session_id"]
            events = client.post(f"{path}/proxy/44772/session/{session}/run", json={"command": body["code"]}).text
            assert "more than 102400 bytes" in events
