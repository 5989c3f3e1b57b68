"""Attacks on what is left: of a sandbox that ended, in one that begins, and between two that live."""

from __future__ import annotations

import asyncio
import secrets

import msgspec

from controlplane.attack.client.api import Unreachable
from controlplane.attack.client.model import Attack
from controlplane.attack.client.outcome import Outcome, broken, held, not_applicable, unclear
from controlplane.attack.client.program import command, given
from controlplane.attack.client.target import Box, Target

LEAST_ID_CHARS = 16
STREAM_END_S = 15.0  # the stream of a command ends so long after its sandbox
_REPORT = "report it: a used container must never be used again"

_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root", "/home", "/opt", "/var/lib", "/srv", "/etc")  # noqa: S108

_LEAVE = """
left = []
for top in places:
    try:
        with open(os.path.join(top, ".attack-" + mark), "w") as file:
            file.write(mark)
        left.append(top)
    except OSError:
        pass
_LIBC.shmget(0x5a17, 4096, 0o1666)
print("left", *left)
"""

_FIND = """
found = []
for top in places:
    path = os.path.join(top, ".attack-" + mark)
    if os.path.exists(path):
        found.append(path)
if mark in "".join(os.environ.values()):
    found.append("the environment")
for pid in filter(str.isdigit, os.listdir("/proc")):
    if pid != str(os.getpid()) and mark in text_of("/proc/%s/cmdline" % pid) + text_of("/proc/%s/environ" % pid):
        found.append("process " + pid)
keys = [int(line.split()[0]) for line in text_of("/proc/sysvipc/shm").splitlines()[1:]]
if 0x5a17 in keys:
    found.append("shared memory")
held_unless(found)
"""

# What languages keep there themselves once they run: compiled code, counters of the Java machine.
_FRESH = """
found = []
own = (".X11-unix", "node-compile-cache", "hsperfdata_root")
names = [name for name in os.listdir("/tmp") if name not in own] if os.path.isdir("/tmp") else []
found += ["/tmp/" + name for name in names]
for home in ("/root", "/home/sandbox"):
    for name in (".bash_history", ".python_history", ".node_repl_history", ".viminfo", ".lesshst", ".ssh", ".netrc",
        ".git-credentials", ".aws", ".docker"):
        if os.path.exists(os.path.join(home, name)):
            found.append(os.path.join(home, name))
held_unless(found)
"""

_FRESH_PROCESSES = """
known = ("python", "node", "java", "go", "bash", "zygote", "execd")
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    # Node.js calls its process MainThread.
    program = os.path.basename(text_of("/proc/%s/cmdline" % pid).partition("\\0")[0])
    name = (text_of("/proc/%s/comm" % pid).strip() + " " + program).strip()
    if name and not any(word in name for word in known) and status(pid).get("VmSize"):
        found.append(name)
held_unless(found)
"""

_RANDOM = "import random, uuid; print(random.random(), random.getrandbits(64), uuid.uuid4())"


async def _leftovers(target: Target) -> Outcome:
    """Leave files, a process, a variable and shared memory in a sandbox; look for them in the next ones."""
    mark = secrets.token_hex(8)
    async with target.sandbox(env={"LEFT": mark}) as first:
        said = await first.output_of(given(_LEAVE, mark=mark, places=_PLACES))
        if "/" not in said:
            return unclear("nothing could be left")
        await first.start(given("import time; time.sleep(600)", mark=mark))
    for _ in range(2):
        async with target.sandbox() as next_one:
            outcome = await next_one.attack(given(_FIND, mark=mark, places=_PLACES))
            if outcome != held():
                return outcome
    return held()


async def _between(target: Target) -> Outcome:
    """Leave the same in a sandbox that lives; look for it in another that lives."""
    mark = secrets.token_hex(8)
    box, neighbour = await target.box(), await target.neighbour()
    if "/" not in await box.output_of(given(_LEAVE, mark=mark, places=_PLACES)):
        return unclear("nothing could be left")
    return await neighbour.attack(given(_FIND, mark=mark, places=_PLACES))


async def _fresh(target: Target) -> Outcome:
    """Look at a new sandbox before anything ran in it."""
    async with target.sandbox() as box:
        return await box.attack(_FRESH)


async def _fresh_processes(target: Target) -> Outcome:
    async with target.sandbox() as box:
        return await box.attack(_FRESH_PROCESSES)


async def _random(target: Target) -> Outcome:
    """Ask contexts of one sandbox and of another for random numbers: forks of one process must not agree."""
    seen: list[str] = []
    for box in (await target.box(), await target.neighbour()):
        for _ in range(2):
            told = await _run_code(target, box, _RANDOM)
            if not told:
                return not_applicable("the image has no Python contexts")
            seen += told.split()
    return held() if len(set(seen)) == len(seen) else broken("two contexts drew the same random numbers")


async def _contexts(target: Target) -> Outcome:
    """Look in one context for what another holds."""
    box = await target.box()
    if not await _run_code(target, box, "attack_mark = 42; print(attack_mark)"):
        return not_applicable("the image has no Python contexts")
    told = await _run_code(target, box, "print('attack_mark' in globals())")
    return held() if told == "False" else broken("a new context holds another's variable")


async def _run_code(target: Target, box: Box, code: str) -> str:
    """Run Python in a new context; return what it printed, "" if the image has no Python."""
    made = await target.api.request("POST", f"{box.agent}/code/context", json={"language": "python"}, timeout_s=60)
    told = made.json()
    if made.status != 200 or not isinstance(told, dict):
        return ""
    body = {"code": code, "context": {"id": told["id"], "language": "python"}}
    answer = await target.api.request("POST", f"{box.agent}/code", json=body, timeout_s=60)
    texts = []
    for line in answer.body.splitlines():
        text = line.removeprefix(b"data:").strip()
        if text.startswith(b"{") and (event := msgspec.json.decode(text)).get("type") == "stdout":
            texts.append(event.get("text", ""))
    await target.api.request("DELETE", f"{box.agent}/code/contexts/{told['id']}")
    return "".join(texts).strip()


async def _after_the_end(target: Target) -> Outcome:
    """Use a sandbox's token and addresses after its end."""
    async with target.sandbox() as box:
        if (await target.api.request("GET", f"{box.agent}/ping", key="", headers=_token(box))).status != 200:
            return not_applicable("this server gives no tokens that open a sandbox")
    for method, path in (
        ("GET", f"{box.agent}/ping"),
        ("POST", f"{box.agent}/command"),
        ("GET", f"{box.agent}/files/info?path=/etc"),
        ("GET", box.port(8000) + "/"),
        ("GET", f"/v1/sandboxes/{box.id}"),
    ):
        for key in ("", None):
            answer = await target.api.request(method, path, key=key, headers=_token(box))
            if answer.status < 400:
                return broken(f"{method} {path.replace(box.id, 'ID')}: {answer.status} after the end")
    return held()


def _token(box: Box) -> dict[str, str]:
    return {box.token_header: box.token} if box.token else {}


async def _end_while_running(target: Target) -> Outcome:
    """End a sandbox while a command in it prints; the command's stream ends as well."""
    argv = command("import time\nwhile True:\n    print('on', flush=True)\n    time.sleep(0.1)")[0]
    async with (
        target.sandbox() as box,
        target.api.stream("POST", f"{box.agent}/command", json={"argv": argv}) as lines,
    ):
        said = b""
        while b'"on' not in said and (chunk := await lines.read(4096)):
            said += chunk
        if b'"on' not in said:
            return unclear("the command printed nothing")
        await target.api.request("DELETE", f"/v1/sandboxes/{box.id}", timeout_s=30)
        try:
            async with asyncio.timeout(STREAM_END_S):
                while await lines.read(65536):
                    pass
        except TimeoutError:
            return broken("the command goes on after the sandbox's end")
        except Exception as error:  # noqa: BLE001 - however the stream breaks off, it has ended
            return held(type(error).__name__)
    return held()


async def _ids(target: Target) -> Outcome:
    """Compare the ids of two sandboxes: nobody may guess one from another."""
    first, second = (await target.box()).id, (await target.neighbour()).id
    shortest = min(len(first), len(second))
    if shortest < LEAST_ID_CHARS:
        return broken(f"ids have {shortest} characters")
    same = sum(a == b for a, b in zip(first, second, strict=False))
    return broken(f"{same} of {shortest} characters are the same") if same > shortest // 2 else held()


async def _sandboxes_end(target: Target) -> Outcome:
    """Delete a sandbox twice; it is in no list, and a second deletion finds nothing."""
    async with target.sandbox() as box:
        pass
    try:
        listed = await target.api.request("GET", "/v1/sandboxes?pageSize=100")
    except Unreachable as error:
        return unclear(str(error))
    again = await target.api.request("DELETE", f"/v1/sandboxes/{box.id}")
    if box.id in listed.text or again.status != 404:
        return broken(f"it is still listed, or deleted again with {again.status}")
    return held()


ATTACKS = (
    Attack(
        id="residue.leftovers",
        tries="Leave files, a process, a variable and shared memory behind for the next sandboxes",
        outcome="They find nothing of it",
        cure=_REPORT,
        act=_leftovers,
        timeout_s=120,
    ),
    Attack(
        id="residue.neighbours",
        tries="Find files, processes, variables and shared memory of a sandbox that lives beside",
        outcome="There is nothing of it",
        cure=_REPORT,
        act=_between,
    ),
    Attack(
        id="residue.fresh-files",
        tries="Find temporary files, histories and credentials in a new sandbox",
        outcome="There are none",
        cure="rebuild the image: whatever its build left in /tmp or in a home is in every sandbox",
        must_pass=False,
        act=_fresh,
    ),
    Attack(
        id="residue.fresh-processes",
        tries="Find a process in a new sandbox that is neither the agent's nor a language's",
        outcome="There is none",
        cure=_REPORT,
        must_pass=False,
        act=_fresh_processes,
    ),
    Attack(
        id="residue.random-numbers",
        tries="Predict the random numbers of a context from those of another fork of the same process",
        outcome="No two contexts draw the same",
        cure="report it: a fork must seed its generators anew",
        act=_random,
        timeout_s=120,
    ),
    Attack(
        id="residue.contexts",
        tries="Read a variable of another context",
        outcome="A new context holds none",
        cure="report it: a context must be a fork of a process in which no user code ran",
        act=_contexts,
        timeout_s=120,
    ),
    Attack(
        id="residue.after-the-end",
        tries="Use a sandbox's token and addresses after its end",
        outcome="Each is refused, with the key as well",
        cure=_REPORT,
        act=_after_the_end,
    ),
    Attack(
        id="residue.end-while-running",
        tries="Have a command go on after its sandbox was deleted",
        outcome="Its stream ends with the sandbox",
        cure=_REPORT,
        act=_end_while_running,
    ),
    Attack(
        id="residue.deleted",
        tries="Find a deleted sandbox in a list, or delete it again",
        outcome="It is in no list, and the second deletion finds nothing",
        cure=_REPORT,
        act=_sandboxes_end,
    ),
    Attack(
        id="residue.ids",
        tries="Guess the id of a sandbox from that of another",
        outcome="Ids are long and have nothing in common",
        cure="report it: ids must be random",
        act=_ids,
    ),
)
