"""What can go wrong, once each, as the official Python SDKs tell it. Runs in the SDK's environment.

    error_tour.py async|sync IMAGE SERVER_PID ALLOWED_DIRECTORY

The rows are those of the contract's tables: which of the SDK's exceptions comes, with which status and code. Needs a
server that keeps one snapshot, one context and ten minutes, pulls nothing, and allows volumes in one directory, which
is empty. Prints JSON: for each row "ok", or what came instead.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import os
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta

import code_interpreter
import opensandbox
import opensandbox.exceptions
from opensandbox import AcquirePolicy, PoolCreationSpec
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.exceptions import (
    InvalidArgumentException,
    PoolAcquireFailedException,
    PoolDestroyedException,
    PoolEmptyException,
    PoolNotRunningException,
    SandboxApiException,
    SandboxConnectionException,
    SandboxInternalException,
    SandboxReadyTimeoutException,
    SandboxTimeoutException,
)
from opensandbox.models.filesystem import (
    ContentReplaceEntry,
    DirectoryListEntry,
    MoveEntry,
    SearchEntry,
    SetPermissionEntry,
    WriteEntry,
)
from opensandbox.models.isolated import CreateIsolatedSessionRequest, IsolatedWorkspaceSpec
from opensandbox.models.sandboxes import (
    OSSFS,
    PVC,
    CredentialProxyConfig,
    Host,
    NetworkPolicy,
    NetworkRule,
    PlatformSpec,
    SandboxFilter,
    Volume,
)
from opensandbox.models.templates import CreateTemplateRequest, TemplateFilter
from opensandbox.transport import RetryPolicy

KIND, IMAGE, SERVER_PID, ALLOWED = sys.argv[1:5]
IS_SYNC = KIND == "sync"
Sandbox = opensandbox.SandboxSync if IS_SYNC else opensandbox.Sandbox
Manager = opensandbox.SandboxManagerSync if IS_SYNC else opensandbox.SandboxManager
CodeInterpreter = code_interpreter.CodeInterpreterSync if IS_SYNC else code_interpreter.CodeInterpreter
Pool = opensandbox.SandboxPoolSync if IS_SYNC else opensandbox.SandboxPoolAsync
PoolManager = opensandbox.SandboxPoolManagerSync if IS_SYNC else opensandbox.SandboxPoolManagerAsync
PoolStore = opensandbox.InMemoryPoolStateStore if IS_SYNC else opensandbox.InMemoryAsyncPoolStateStore
Config = ConnectionConfigSync if IS_SYNC else ConnectionConfig
KEY = os.environ.pop("OPEN_SANDBOX_API_KEY")  # some rows come without
NOBODY = "0123456789abcdef"  # no sandbox has that id
SECOND = timedelta(seconds=1)

# Exceptions that no row here is about.
ELSEWHERE = {
    "SandboxException": "what all others are",
    "SandboxRateLimitException": "needs a server whose engine starts nothing: tests/e2e/test_client_errors.py",
    "SandboxUnhealthyException": "the SDK raises it nowhere",
    "PoolStateStoreUnavailableException": "of a store in Redis, which is no server of ours",
    "PoolDestroyIncompleteException": "of such a store that fails",
}

results: dict[str, str] = {}
kinds: set[str] = set()  # of the exceptions that came


async def wait(value):
    """Wait for what can be waited for."""
    return await value if inspect.isawaitable(value) else value


async def fails(row, kind, code, method, *arguments, status=None, says="", is_retryable=False, **keywords):
    """Call a method that must fail exactly so. An answer of the server has a status, and a request id to find it by."""
    try:
        value = await wait(method(*arguments, **keywords))
        if inspect.isasyncgen(value):
            value = [piece async for piece in value]
        came = f"no error, but {value!r:.200}"
    except Exception as error:
        seen = (type(error), getattr(error, "status_code", None), getattr(getattr(error, "error", None), "code", None))
        came = "ok"
        if seen != (kind, status, code):
            traceback.print_exc()
            came = f"{seen[0].__name__} {seen[1]} {seen[2]}: {error!s:.200}"
        elif says.lower() not in str(error).lower():
            came = f"{says!r} is not in {error!s:.200}"
        elif status is not None and not error.request_id:
            came = "no request id"
        elif error.is_retryable != is_retryable:
            came = f"is_retryable is {error.is_retryable}"
    assert row not in results, row
    kinds.add(kind.__name__)
    results[row] = came


async def refused(row, status, code, method, *arguments, **keywords):
    """Call a method which the server must refuse so."""
    await fails(row, SandboxApiException, code, method, *arguments, status=status, **keywords)


async def invalid(row, method, *arguments, **keywords):
    """Call a method with what the SDK itself refuses."""
    await fails(row, InvalidArgumentException, "INVALID_ARGUMENT", method, *arguments, **keywords)


class BreaksOff(io.RawIOBase):
    """A file whose second half cannot be read."""

    def __init__(self):
        self.pieces = [b"half"]

    def read(self, size=-1):
        if self.pieces:
            return self.pieces.pop()
        raise RuntimeError("the rest is lost")


async def until(look, is_done):
    while not is_done(value := await wait(look())):
        await asyncio.sleep(0.05)
    return value


async def tour():
    config = Config(api_key=KEY)
    manager = await wait(Manager.create(config))
    await keys()
    await creating(config)
    await volumes(config)
    await nobody(manager, config)
    sandbox = await wait(Sandbox.create(IMAGE, connection_config=config))
    await lifecycle(sandbox, manager)
    await snapshots(sandbox, manager, config)
    await commands(sandbox)
    await files(sandbox)
    await codes(sandbox)
    await unsupported(sandbox, manager, config)
    await connecting(sandbox, manager, config)
    await paused(sandbox, manager, config)
    await ended(manager, config)
    await pools(manager, config)
    await wait(sandbox.kill())
    left = await wait(manager.list_sandbox_infos(SandboxFilter(states=["Pending", "Running", "Paused"])))
    assert left.sandbox_infos == [], "a create that failed has left a sandbox"
    there = {name for name in opensandbox.exceptions.__all__ if name.endswith("Exception")}
    assert there == kinds | ELSEWHERE.keys(), there ^ (kinds | ELSEWHERE.keys())


async def keys():
    for name, key, code in (("no key", "", "MISSING_API_KEY"), ("a wrong key", "of somebody else", "INVALID_API_KEY")):
        config = Config(api_key=key)
        await refused(f"{name}: create", 401, code, Sandbox.create, IMAGE, connection_config=config)
        await refused(f"{name}: connect", 401, code, Sandbox.connect, NOBODY, connection_config=config)
        manager = await wait(Manager.create(config))
        await refused(f"{name}: list", 401, code, manager.list_sandbox_infos, SandboxFilter())
        await refused(f"{name}: kill", 401, code, manager.kill_sandbox, NOBODY)


async def creating(config):
    async def create(row, code, *, status=400, image=IMAGE, **keywords):
        await refused(row, status, code, Sandbox.create, image, connection_config=config, **keywords)

    parameter, unsupported = "SANDBOX::INVALID_PARAMETER", "SANDBOX::API_NOT_SUPPORTED"
    await create(
        "an image that is not there", "DOCKER::SANDBOX_IMAGE_PULL_FAILED", image="no/such/image:1", says="no/such"
    )
    await create("no name of an image", parameter, image="Not A Name", says="image.uri")
    await create("a program that is not there", "DOCKER::INVALID_ENTRYPOINT", entrypoint=["/no/such/program"])
    await create("no entrypoint", "DOCKER::INVALID_ENTRYPOINT", entrypoint=[" "])
    await create("a timeout too short", parameter, timeout=5 * SECOND, says="timeout")
    await create("a timeout too long", "DOCKER::INVALID_EXPIRATION", timeout=timedelta(days=1), says="600")
    await create("a reserved variable", parameter, env={"OPENSANDBOX_LIFECYCLE": "x"}, says="reserved")
    await create("reserved metadata", "SANDBOX::INVALID_METADATA_LABEL", metadata={"opensandbox.io/a": "b"})
    await create(
        "metadata that is no label", "SANDBOX::INVALID_METADATA_LABEL", metadata={"a": "b c"}, says="metadata.a"
    )
    await create("no amount of memory", parameter, resource={"memory": "lots"}, says="memory")
    await create("no amount of cores", parameter, resource={"cpu": "-1"}, says="cpu")
    await create("a resource that is not limited here", unsupported, resource={"disk": "1Gi"}, says="disk")
    await create("more than the limit", parameter, resource={"cpu": "1"}, resource_requests={"cpu": "2"}, says="cpu")
    await create("another platform", unsupported, platform=PlatformSpec(os="windows", arch="amd64"), says="platform")
    await create("a pool that is not there", "KUBERNETES::POOL_NOT_FOUND", extensions={"poolRef": "p"}, says="default")
    await create("isolation where it is not allowed", unsupported, extensions={"bootstrap.execd.isolation": "enable"})
    await create("an extension's value", parameter, extensions={"access.renew.extend.seconds": "1"}, says="300")
    rule = NetworkRule(action="allow", target="example.com")
    await create(
        "rules for single targets", unsupported, network_policy=NetworkPolicy(defaultAction="deny", egress=[rule])
    )
    policy = NetworkPolicy(defaultAction="deny", egress=[])
    proxied = CredentialProxyConfig(enabled=True)
    await create("a credential proxy", unsupported, network_policy=policy, credential_proxy=proxied)
    await invalid("neither image nor snapshot", Sandbox.create, connection_config=config)
    await invalid("image and snapshot", Sandbox.create, IMAGE, snapshot_id="s", connection_config=config)
    await invalid(
        "a negative polling interval",
        Sandbox.create,
        IMAGE,
        health_check_polling_interval=-SECOND,
        connection_config=config,
    )


async def volumes(config):
    async def mount(row, code, *mounted, **keywords):
        await refused(row, 400, f"VOLUME::{code}", Sandbox.create, IMAGE, volumes=mounted, connection_config=config)

    def volume(name="data", path="/data", **keywords):
        return Volume(**{"name": name, "mountPath": path, "host": Host(path=ALLOWED), **keywords})

    claim = PVC(claimName="no-such-claim", createIfNotExists=False)
    bucket = OSSFS(bucket="b", endpoint="e", accessKeyId="i", accessKeySecret="s")
    await mount("volume: no label as name", "INVALID_NAME", volume(name="Not_A_Label"))
    await mount("volume: a name twice", "DUPLICATE_NAME", volume(), volume(path="/other"))
    await mount("volume: a mount path of the sandbox's", "INVALID_MOUNT_PATH", volume(path="/proc"))
    await mount("volume: a mount path twice", "INVALID_MOUNT_PATH", volume(), volume(name="other"))
    await mount("volume: out of itself", "INVALID_SUB_PATH", volume(subPath="../x"))
    await mount("volume: no normal path", "INVALID_HOST_PATH", volume(host=Host(path=f"{ALLOWED}/../x")))
    await mount("volume: a path that is not allowed", "HOST_PATH_NOT_ALLOWED", volume(host=Host(path="/etc")))
    await mount("volume: a path that is not there", "HOST_PATH_NOT_FOUND", volume(host=Host(path=f"{ALLOWED}/none")))
    await mount("volume: no label as claim", "INVALID_PVC_NAME", volume(host=None, pvc=PVC(claimName="Not_A_Label")))
    await mount("volume: a claim that is not there", "PVC_NOT_FOUND", volume(host=None, pvc=claim))
    await mount("volume: a bucket", "UNSUPPORTED_BACKEND", volume(host=None, ossfs=bucket))


async def nobody(manager, config):
    gone = (404, "DOCKER::SANDBOX_NOT_FOUND")
    await refused("nobody: connect", *gone, Sandbox.connect, NOBODY, connection_config=config)
    await refused("nobody: static resume", *gone, Sandbox.resume, NOBODY, connection_config=config)
    await refused("nobody: get", *gone, manager.get_sandbox_info, NOBODY, says=NOBODY)
    await refused("nobody: kill", *gone, manager.kill_sandbox, NOBODY)
    await refused("nobody: pause", *gone, manager.pause_sandbox, NOBODY)
    await refused("nobody: resume", *gone, manager.resume_sandbox, NOBODY)
    await refused("nobody: renew", *gone, manager.renew_sandbox, NOBODY, timedelta(minutes=5))
    await refused("nobody: metadata", *gone, manager.patch_sandbox_metadata, NOBODY, {"a": "b"})
    await refused("nobody: snapshot", *gone, manager.create_snapshot, NOBODY)
    await refused("nobody: logs", *gone, manager.get_diagnostic_logs, NOBODY, "container")
    await refused("nobody: events", *gone, manager.get_diagnostic_events, NOBODY, "runtime")
    await invalid("no id: connect", Sandbox.connect, "", connection_config=config)


async def lifecycle(sandbox, manager):
    await refused("a deadline that is past", 400, "DOCKER::INVALID_EXPIRATION", sandbox.renew, timedelta(minutes=-5))
    await refused("resume what runs", 409, "DOCKER::SANDBOX_NOT_PAUSED", manager.resume_sandbox, sandbox.id)
    await refused(
        "change reserved metadata",
        400,
        "SANDBOX::INVALID_METADATA_LABEL",
        sandbox.patch_metadata,
        {"opensandbox.io/a": "b"},
    )
    await refused("no port", 400, "DOCKER::INVALID_PORT", sandbox.get_endpoint, 70000)
    proxied = await wait(Sandbox.connect(sandbox.id, connection_config=Config(api_key=KEY, use_server_proxy=True)))
    soon = int(time.time()) + 300
    await refused("sign for the proxy", 400, "SANDBOX::INVALID_PARAMETER", proxied.get_signed_endpoint, 8000, soon)
    await refused("sign for the past", 400, "SANDBOX::INVALID_PARAMETER", sandbox.get_signed_endpoint, 8000, 1)
    scope = (400, "DIAGNOSTICS_SCOPE_UNSUPPORTED")
    await refused("no scope of logs", *scope, sandbox.get_diagnostic_logs, "nothing")
    await refused("no scope of events", *scope, sandbox.get_diagnostic_events, "nothing")
    await refused(
        "list a state there is not",
        400,
        "SANDBOX::INVALID_PARAMETER",
        manager.list_sandbox_infos,
        SandboxFilter(states=["Dreaming"]),
    )


async def snapshots(sandbox, manager, config):
    await refused("no snapshot: get", 404, "SNAPSHOT::NOT_FOUND", manager.get_snapshot, NOBODY)
    await refused("no snapshot: delete", 404, "SNAPSHOT::NOT_FOUND", manager.delete_snapshot, NOBODY)
    # A create is not documented to answer with 404.
    await refused(
        "no snapshot: restore", 400, "SNAPSHOT::NOT_FOUND", Sandbox.create, snapshot_id=NOBODY, connection_config=config
    )
    snapshot = await wait(manager.create_snapshot(sandbox.id))
    await refused("too many snapshots", 409, "SNAPSHOT::TOO_MANY", manager.create_snapshot, sandbox.id)
    await until(lambda: manager.get_snapshot(snapshot.id), lambda found: found.status.state == "Ready")
    restored = await wait(Sandbox.create(snapshot_id=snapshot.id, connection_config=config))
    await refused("a snapshot in use", 409, "SNAPSHOT::DELETE_CONFLICT", manager.delete_snapshot, snapshot.id)
    await wait(restored.kill())
    await wait(manager.delete_snapshot(snapshot.id))  # while the container of `restored` is being removed


async def commands(sandbox):
    run, box = sandbox.commands.run, sandbox.commands
    await refused("a command with NUL", 400, "INVALID_REQUEST_BODY", run, "echo a\0b")
    await refused("no command: status", 404, "COMMAND_NOT_FOUND", box.get_command_status, "none")
    await refused("no command: logs", 404, "COMMAND_NOT_FOUND", box.get_background_command_logs, "none")
    await refused("no session: run", 404, "SESSION_NOT_FOUND", box.run_in_session, "none", "true")
    await refused("no session: delete", 404, "SESSION_NOT_FOUND", box.delete_session, "none")
    await invalid("an empty command", run, " ")
    await invalid("an empty argv", run, [])
    await invalid("no name of a variable", box.set_env, "not a name", "x")


async def files(sandbox):
    box, missing = sandbox.files, (404, "FILE_NOT_FOUND")
    await wait(box.write_files([WriteEntry(path="/tmp/a", data="a"), WriteEntry(path="/tmp/b", data="b")]))
    await refused("no file: read", *missing, box.read_file, "/no/such/file", says="/no/such/file")
    await refused("no file: bytes", *missing, box.read_bytes, "/no/such/file")
    # Of a stream the SDK reads the status only.
    await refused("no file: stream", 404, "UNEXPECTED_RESPONSE", read_stream, box, "/no/such/file")
    await refused("no file: info", *missing, box.get_file_info, ["/tmp/a", "/no/such/file"])
    await refused("no file: search", *missing, box.search, SearchEntry(path="/no/such", pattern="*"))
    await refused("no file: list", *missing, box.list_directory, DirectoryListEntry(path="/no/such"))
    await refused("no file: move", *missing, box.move_files, [MoveEntry(src="/no/such/file", dest="/tmp/c")])
    # These two are not documented to answer with 404.
    permission, replaced = (
        SetPermissionEntry(path="/no/such/file", mode=600),
        ContentReplaceEntry(path="/no/such/file", old_content="a", new_content="b"),
    )
    await refused("no file: permissions", 400, "FILE_NOT_FOUND", box.set_permissions, [permission])
    await refused("no file: replace", 400, "FILE_NOT_FOUND", box.replace_contents, [replaced])
    await refused("a range that is not there", 416, "INVALID_FILE", box.read_bytes, "/tmp/a", range_header="bytes=9-")
    await refused("read a directory", 400, "INVALID_FILE", box.read_file, "/tmp")
    await refused("write to a directory", 400, "INVALID_FILE", box.write_file, "/tmp", "x")
    await refused("write through a file", 400, "INVALID_FILE", box.write_file, "/tmp/a/b", "x")
    await refused("move onto a file", 400, "INVALID_FILE", box.move_files, [MoveEntry(src="/tmp/a", dest="/tmp/b")])
    mine = sandbox.files_with_identity(1000, 1000)
    await refused("write where another may", 400, "INVALID_FILE", mine.write_file, "/root/x", "x")
    await invalid("nobody's identity", sandbox.files_with_identity, -1, 0)
    assert await wait(box.read_file("/tmp/b")) == "b"


async def read_stream(box, path):
    """Read a stream to its end: the request may only go out with the first piece."""
    stream = await wait(box.read_bytes_stream(path))
    return b"".join(stream) if IS_SYNC else b"".join([piece async for piece in stream])


async def codes(sandbox):
    interpreter = await wait(CodeInterpreter.create(sandbox))
    box = interpreter.codes
    await refused("no context: get", 404, "CONTEXT_NOT_FOUND", box.get_context, "none")
    await refused("no context: delete", 404, "CONTEXT_NOT_FOUND", box.delete_context, "none")
    await refused("no language: context", 400, "NOT_SUPPORTED", box.create_context, "klingon", says="klingon")
    context = await wait(box.create_context("python"))
    await refused("too many contexts", 400, "RUNTIME_ERROR", box.create_context, "python", says="1 context")
    await wait(box.delete_context(context.id))
    # Of running code the SDK keeps the body as it is.
    lost = (400, "UNEXPECTED_RESPONSE")
    await refused("no context: run", *lost, box.run, "1", context=context, says='"CONTEXT_NOT_FOUND"')
    await refused("no language: run", *lost, box.run, "1", language="klingon", says='"NOT_SUPPORTED"')
    await invalid("no code", box.run, " ")


async def unsupported(sandbox, manager, config):
    request = CreateIsolatedSessionRequest(workspace=IsolatedWorkspaceSpec(path="/tmp", mode="rw"))
    await refused("no isolation", 503, "NOT_SUPPORTED", sandbox.isolation.create, request, is_retryable=True)
    vault = (404, "SANDBOX::API_NOT_SUPPORTED")
    await refused("vault: get", *vault, sandbox.credential_vault.get)
    await refused("vault: bindings", *vault, sandbox.credential_vault.list_bindings)
    await refused(
        "vault: create", 400, "SANDBOX::API_NOT_SUPPORTED", sandbox.credential_vault.create, credentials=[], bindings=[]
    )
    template = (501, "FSB::API_NOT_SUPPORTED")
    await refused(
        "template: create", *template, manager.create_template, CreateTemplateRequest(image="a", publish="s3://a")
    )
    await refused("template: get", *template, manager.get_template, "t")
    await refused("template: list", *template, manager.list_templates, TemplateFilter())
    await refused("template: delete", *template, manager.delete_template, "t")
    await refused(
        "a sandbox from a template",
        400,
        "SANDBOX::API_NOT_SUPPORTED",
        Sandbox.create_from_template,
        "t",
        timeout=timedelta(minutes=5),
        connection_config=config,
    )


async def connecting(sandbox, manager, config):
    never = {"retry_policy": RetryPolicy.disabled(), "api_key": KEY}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = "{}:{}".format(*listener.getsockname())
    connection = (SandboxConnectionException, "CONNECTION")
    nowhere = Config(domain=closed, **never)
    is_retryable = {"is_retryable": True}
    await fails("a closed port: create", *connection, Sandbox.create, IMAGE, connection_config=nowhere, **is_retryable)
    away = await wait(Manager.create(nowhere))
    await fails("a closed port: list", *connection, away.list_sandbox_infos, SandboxFilter(), **is_retryable)
    hasty = await wait(Manager.create(Config(request_timeout=SECOND / 2, **never)))
    os.kill(int(SERVER_PID), signal.SIGSTOP)
    try:
        await fails(
            "a server that hangs",
            SandboxTimeoutException,
            "TIMEOUT",
            hasty.get_sandbox_info,
            sandbox.id,
            says="timed out",
        )
    finally:
        os.kill(int(SERVER_PID), signal.SIGCONT)
    assert (await wait(manager.get_sandbox_info(sandbox.id))).status.state == "Running"

    async def unhealthy(_):
        return False

    await fails(
        "never ready",
        SandboxReadyTimeoutException,
        "READY_TIMEOUT",
        Sandbox.create,
        IMAGE,
        health_check=(lambda _: False) if IS_SYNC else unhealthy,
        ready_timeout=SECOND / 2,
        health_check_polling_interval=SECOND / 20,
        connection_config=config,
        says="timed out",
    )

    entry = WriteEntry(path="/tmp/half", data=BreaksOff())
    await fails(
        "an upload that breaks off",
        SandboxInternalException,
        "INTERNAL_UNKNOWN_ERROR",
        sandbox.files.write_files,
        [entry],
        says="the rest is lost",
    )
    await refused("what broke off is not there", 404, "FILE_NOT_FOUND", sandbox.files.read_file, "/tmp/half")


async def paused(sandbox, manager, config):
    await wait(sandbox.pause())
    stopped = (409, "DOCKER::SANDBOX_NOT_RUNNING")
    await refused("paused: pause", *stopped, manager.pause_sandbox, sandbox.id)
    await refused("paused: run", *stopped, sandbox.commands.run, "true")
    await refused("paused: read", *stopped, sandbox.files.read_file, "/tmp/a")
    # A status that is not documented for this one: the SDK keeps the body as it is.
    await refused("paused: metrics", 409, "UNEXPECTED_RESPONSE", sandbox.get_metrics, says=f'"{stopped[1]}"')
    await fails(
        "paused: connect",
        SandboxReadyTimeoutException,
        "READY_TIMEOUT",
        Sandbox.connect,
        sandbox.id,
        connect_timeout=SECOND / 2,
        connection_config=config,
        says="timed out",
    )
    await wait(manager.resume_sandbox(sandbox.id))


async def ended(manager, config):
    entrypoint = ["sh", "-c", "until [ -e /tmp/end ]; do sleep 0.05; done; exit 3"]
    sandbox = await wait(Sandbox.create(IMAGE, entrypoint=entrypoint, connection_config=config))
    await wait(sandbox.files.write_file("/tmp/end", ""))
    await until(sandbox.get_info, lambda info: info.status.state in ("Failed", "Terminated"))
    stopped, gone = "DOCKER::SANDBOX_NOT_RUNNING", "DOCKER::SANDBOX_NOT_FOUND"
    # Each refusal has the reason, and those at which a client waits for the sandbox come at once.
    for row, status, code, method, *arguments in (
        ("pause", 409, stopped, sandbox.pause),
        ("renew", 409, stopped, sandbox.renew, timedelta(minutes=5)),
        ("metadata", 409, stopped, sandbox.patch_metadata, {"a": "b"}),
        ("run", 409, stopped, sandbox.commands.run, "true"),
        ("resume", 409, "DOCKER::SANDBOX_NOT_PAUSED", manager.resume_sandbox, sandbox.id),
        ("snapshot", 409, "SNAPSHOT::INVALID_SOURCE_STATE", sandbox.create_snapshot, "late"),
        ("ready", 403, "UNEXPECTED_RESPONSE", sandbox.check_ready, timedelta(hours=1), timedelta(seconds=0.1)),
        ("endpoint", 404, stopped, sandbox.get_endpoint, 8080),
    ):
        await refused(f"ended: {row}", status, code, method, *arguments, says="exit code 3")
    await wait(sandbox.kill())
    # The answer to a kill is the end, although the container is removed behind it.
    await refused("killed: info", 404, gone, sandbox.get_info)
    await refused("killed: renew", 404, gone, sandbox.renew, timedelta(minutes=5))
    await refused("killed: kill", 404, gone, sandbox.kill)

    async def fail_at_once():
        """Which of its requests is the first to hear of the end is a matter of milliseconds."""
        entrypoint = ["sh", "-c", "echo no such option >&2; exit 3"]
        return await wait(
            Sandbox.create(IMAGE, entrypoint=entrypoint, ready_timeout=timedelta(hours=1), connection_config=config)
        )

    try:
        lucky = await fail_at_once()
        results["an entrypoint that fails at once"] = "ok"  # it was ready before its entrypoint ended
        await wait(lucky.kill())
    except SandboxApiException as error:
        told = "exit code 3; it said: no such option" in str(error)
        results["an entrypoint that fails at once"] = "ok" if told else f"{error!s:.300}"


async def pools(manager, config):
    store = PoolStore()

    def pool(name, max_idle):
        spec = PoolCreationSpec(image=IMAGE, metadata={"pool": name})
        return Pool(pool_name=name, max_idle=max_idle, state_store=store, connection_config=config, creation_spec=spec)

    only_idle = (None, AcquirePolicy.FAIL_FAST)
    empty = pool("empty", 0)
    await fails("a pool that was not started", PoolNotRunningException, "POOL_NOT_RUNNING", empty.acquire)
    await wait(empty.start())
    await fails("an empty pool", PoolEmptyException, "POOL_EMPTY", empty.acquire, *only_idle)
    await wait(empty.shutdown())
    await wait(store.put_idle("stale", NOBODY))
    stale = pool("stale", 1)  # full, so that it leaves what it has alone until that is asked for
    await wait(stale.start())
    await fails(
        "a pool of what is gone",
        PoolAcquireFailedException,
        "POOL_ACQUIRE_FAILED",
        stale.acquire,
        *only_idle,
        says=NOBODY,
    )
    await wait(stale.shutdown())
    await wait(PoolManager(state_store=store, connection_config=config).destroy("stale"))
    await fails("a pool that was destroyed", PoolDestroyedException, "POOL_DESTROYED", stale.start)
    alive = SandboxFilter(states=["Running"], metadata={"pool": "stale"})
    await until(lambda: manager.list_sandbox_infos(alive), lambda found: found.sandbox_infos == [])


try:
    asyncio.run(tour())
finally:
    print(json.dumps(results))
