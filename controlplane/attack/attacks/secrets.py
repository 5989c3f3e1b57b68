"""Attacks on secrets: the API key, the sandbox's token, and what a client gave a sandbox."""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from controlplane.attack.client.api import KEY_HEADER, Answer, Unreachable
from controlplane.attack.client.model import Attack
from controlplane.attack.client.outcome import Outcome, broken, held, not_applicable, unclear
from controlplane.attack.client.program import given
from controlplane.attack.client.target import LEAST_CPU, LEAST_MEMORY, Box, Target

PORT = 8011
_REPORT = "report it, with the answer that tells the secret; then change the key"

# It prints hashes only, so that looking for a secret tells it to nobody.
_WORDS = """
import hashlib, re
word = re.compile(rb"[A-Za-z0-9_-]{16,200}")
seen = set()
def look(path):
    try:
        with open(path, "rb") as file:
            for found in word.findall(file.read(1 << 20)):
                seen.add(hashlib.sha256(found).hexdigest())
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    if pid != str(os.getpid()):
        for name in ("environ", "cmdline"):
            look("/proc/%s/%s" % (pid, name))
look("/proc/self/environ")
for top in ("/run", "/etc", "/tmp", "/var/tmp", "/root", "/home", "/dev/shm", "/opt/execd/etc"):
    for where, folders, names in os.walk(top):
        for name in names:
            path = os.path.join(where, name)
            if os.path.isfile(path):
                look(path)
print("looked", *sorted(seen))
"""

# A service that answers with the head of the request that reached it.
ECHO = given(
    """
import threading
def serve(line):
    head = b""
    while b"\\r\\n\\r\\n" not in head and len(head) < 65536:
        chunk = line.recv(65536)
        if not chunk:
            return
        head += chunk
    body = head.split(b"\\r\\n\\r\\n")[0]
    fields = ("Content-Type: text/plain", "Content-Length: %d" % len(body), "Connection: close", "", "")
    line.sendall("\\r\\n".join(("HTTP/1.1 200 OK", *fields)).encode() + body)
    line.close()
listener = socket.create_server(("127.0.0.1", port))
while True:
    line, _ = listener.accept()
    threading.Thread(target=serve, args=(line,)).start()
""",
    port=PORT,
)


def _secrets_of(target: Target, box: Box) -> dict[str, str]:
    found = {"the API key": target.api.key, "the sandbox's token": box.token}
    return {name: secret for name, secret in found.items() if secret}


def _told(target: Target, box: Box, text: str) -> str:
    """Return the name of a secret that stands in a text, or ""."""
    return next((name for name, secret in _secrets_of(target, box).items() if secret in text), "")


async def _inside(target: Target) -> Outcome:
    """Look through environments, command lines and files for the key and the token."""
    box = await target.box()
    said = (await box.output_of(_WORDS, timeout_s=50)).split()
    if "looked" not in said:
        return unclear("the program did not look")
    for name, secret in _secrets_of(target, box).items():
        if hashlib.sha256(secret.encode()).hexdigest() in said:
            return broken(f"{name} is inside the sandbox")
    return held(f"{len(said) - 1} words")


async def wait_served(box: Box, path: str = "/") -> Answer:
    """Ask a service that was just started until it answers. Raises Unreachable."""
    for _ in range(40):
        answer = await box.api.request("GET", box.port(PORT) + path)
        if answer.status < 500:
            return answer
    raise Unreachable("the service in the sandbox did not start")


async def _service_headers(target: Target) -> Outcome:
    """Call a service with every header that may carry the key or the token."""
    async with target.sandbox(memory=LEAST_MEMORY, cpu=LEAST_CPU) as box:
        await box.start(ECHO)
        await wait_served(box)
        for headers in (
            {},
            {"Authorization": f"Bearer {target.api.key}"},
            {"Authorization": f"Bearer {box.token}"},
            {"X-EXECD-ACCESS-TOKEN": box.token},
            {"OpenSandbox-Secure-Access": box.token, "OPENSANDBOX-EGRESS-AUTH": box.token},
            {"X-EXECD-ACCESS-TOKEN": target.api.key},
        ):
            answer = await target.api.request("GET", box.port(PORT) + "/", headers=headers)
            if answer.status != 200:
                continue
            if name := _told(target, box, answer.text):
                return broken(f"a service reads {name} in {', '.join(headers) or KEY_HEADER}")
        return held()


async def _service_tokens_of_others(target: Target) -> Outcome:
    """Call a service with the token of another sandbox beside the key."""
    other = await target.neighbour()
    if not other.token:
        return not_applicable("this server gives no tokens")
    async with target.sandbox(memory=LEAST_MEMORY, cpu=LEAST_CPU) as box:
        await box.start(ECHO)
        await wait_served(box)
        answer = await target.api.request(
            "GET", box.port(PORT) + "/", headers={"Authorization": f"Bearer {other.token}"}
        )
        return broken("a service reads another sandbox's token") if other.token in answer.text else held()


async def _records(target: Target) -> Outcome:
    """Give a sandbox a secret variable; read everything that the API tells of the sandbox."""
    mark = secrets.token_hex(16)
    async with target.sandbox(memory=LEAST_MEMORY, cpu=LEAST_CPU, env={"PASSWORD": mark}) as box:
        if mark not in await box.output_of("print(os.environ.get('PASSWORD'))"):
            return unclear("the variable did not reach the sandbox")
        base = f"/v1/sandboxes/{box.id}"
        paths = (
            base,
            "/v1/sandboxes",
            f"{base}/endpoints/{PORT}",
            f"{base}/diagnostics/logs?scope=container",
            f"{base}/diagnostics/events?scope=runtime",
            f"{base}/diagnostics/summary",
            "/metrics",
            f"{box.agent}/metrics",
        )
        for path in paths:
            answer = await target.api.request("GET", path)
            if mark in answer.text:
                return broken(f"GET {path.replace(box.id, 'ID')} tells the variables of a sandbox")
            if target.api.key in answer.text:
                return broken(f"GET {path.replace(box.id, 'ID')} tells the API key")
        return held()


async def _errors(target: Target) -> Outcome:
    """Send the key in every wrong place; no refusal may repeat it."""
    key, box = target.api.key, await target.box()
    tries: tuple[tuple[str, str, dict[str, str], object], ...] = (
        ("GET", f"/v1/sandboxes/{key}", {}, None),
        ("GET", f"/v1/nothing/{key}", {}, None),
        ("GET", f"/v1/sandboxes?state={key}", {}, None),
        ("POST", "/v1/sandboxes", {}, {"image": {"uri": key}, "entrypoint": [key]}),
        ("POST", "/v1/sandboxes", {}, {key: key}),
        ("POST", "/v1/sandboxes", {"Content-Type": key}, {"a": 1}),
        ("GET", "/v1/sandboxes", {"Authorization": f"Basic {key}"}, None),
        ("GET", f"/v1/sandboxes/{box.id}/diagnostics/{key}", {}, None),
    )
    for method, path, headers, body in tries:
        answer = await target.api.request(method, path, headers=headers, json=body)
        # What the client itself wrote into a path or a field may be named in its refusal; a header's secret may not.
        if key in answer.text and key not in path and key not in msgspec.json.encode(body).decode():
            return broken(f"{method} {path[:40]}: the answer repeats the key of the request's head")
        if box.token and box.token in answer.text:
            return broken(f"{method} {path[:40]}: the answer tells the sandbox's token")
    return held()


async def _traces(target: Target) -> Outcome:
    """Provoke errors; no answer may show code, paths or variables of the server."""
    box = await target.box()
    tries: tuple[tuple[str, str, bytes | None], ...] = (
        ("POST", "/v1/sandboxes", b"{"),
        ("POST", "/v1/sandboxes", b"\xff\xfe"),
        ("POST", "/v1/sandboxes", b"[" * 100_000),
        ("POST", "/v1/sandboxes", b'{"timeout":' + b"9" * 5000 + b"}"),
        ("POST", f"{box.agent}/command", b'{"command":"\\u0000"}'),
        ("GET", f"{box.agent}/files/download?path=%00", None),
        ("GET", f"{box.agent}/files/download?path=%ff%fe", None),
        ("POST", f"{box.agent}/files/upload", b"--x\r\n"),
        ("GET", f"/v1/sandboxes/{box.id}/endpoints/99999999999999999999", None),
        ("GET", f"/v1/sandboxes/{box.id}/proxy/abc/", None),
        ("PATCH", "/v1/sandboxes", None),
        ("GET", "/v1/sandboxes?page=-1&pageSize=abc", None),
    )
    for method, path, data in tries:
        answer = await target.api.request(method, path, data=data, headers={"Content-Type": "application/json"})
        for sign in ("Traceback", 'File "', "site-packages", "controlplane/", "starlette", "0x7f"):
            if sign in answer.text:
                return broken(f"{method} {path.replace(box.id, 'ID')[:60]}: the answer shows {sign!r}")
        if answer.status == 500:
            return broken(f"{method} {path.replace(box.id, 'ID')[:60]} is answered with 500")
    return held()


async def _server_names(target: Target) -> Outcome:
    """Look for a header that tells which programs and versions the server is made of."""
    answer = await target.api.request("GET", "/health", key="")
    found = [
        f"{name}: {answer.headers[name][0]}" for name in ("server", "x-powered-by", "via") if name in answer.headers
    ]
    return broken(", ".join(found)) if found else held()


ATTACKS = (
    Attack(
        id="secrets.inside",
        tries="Look through all environments, command lines and files of a sandbox for the API key and the token",
        outcome="Neither is there",
        cure=_REPORT,
        act=_inside,
    ),
    Attack(
        id="secrets.service-headers",
        tries="Read the caller's API key or token in a request that is forwarded to a service",
        outcome="No header that the server takes for its own reaches the service",
        cure=_REPORT,
        act=_service_headers,
    ),
    Attack(
        id="secrets.other-tokens",
        tries="Read another sandbox's token in a request that is forwarded to a service",
        outcome="It stays behind, whoever sends it",
        cure=_REPORT,
        act=_service_tokens_of_others,
    ),
    Attack(
        id="secrets.records",
        tries="Read a sandbox's variables or the key in records, lists, diagnostics and metrics",
        outcome="No answer tells them",
        cure=_REPORT,
        act=_records,
    ),
    Attack(
        id="secrets.errors",
        tries="Have a refusal repeat the key of the request",
        outcome="No refusal does",
        cure=_REPORT,
        act=_errors,
    ),
    Attack(
        id="secrets.traces",
        tries="Provoke errors whose answer shows code, paths or variables of the server",
        outcome="Each is refused with a code and a sentence, none with status 500",
        cure=_REPORT,
        act=_traces,
    ),
    Attack(
        id="secrets.server-name",
        tries="Learn the server's programs and versions from its headers",
        outcome="No header names them",
        cure="have the reverse proxy drop its own Server and Via headers",
        must_pass=False,
        act=_server_names,
    ),
)
