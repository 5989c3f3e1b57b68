"""Every public method of the official Python SDKs, once at least, against a live server. Runs in the SDK's environment.

    python_tour.py async|sync direct|proxy IMAGE

Prints JSON: for each method "ok", or the status and code with which the server refuses it, or what went wrong; and all
methods there are. One tour for both kinds of client: `do` waits where there is something to wait for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import json
import os
import sys
import traceback
import typing
import urllib.request
from datetime import UTC, datetime, timedelta

import code_interpreter
import code_interpreter.sync
import opensandbox
import opensandbox.pool
import opensandbox.sync
import pydantic
from opensandbox import AcquirePolicy, PoolCreationSpec
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.exceptions import PoolDestroyedException, SandboxApiException
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.filesystem import (
    ContentReplaceEntry,
    DirectoryListEntry,
    MoveEntry,
    SearchEntry,
    SetPermissionEntry,
    WriteEntry,
)
from opensandbox.models.isolated import CreateIsolatedSessionRequest, IsolatedRunOpts, IsolatedWorkspaceSpec
from opensandbox.models.sandboxes import NetworkRule, SandboxFilter, SnapshotFilter
from opensandbox.models.templates import CreateTemplateRequest, TemplateFilter
from opensandbox.services.filesystem import Filesystem
from opensandbox.sync.services.filesystem import FilesystemSync

KIND, WAY, IMAGE = sys.argv[1:4]
PROTOCOL = os.environ.get("TOUR_PROTOCOL", "http")
IS_SYNC = KIND == "sync"
Sandbox = opensandbox.SandboxSync if IS_SYNC else opensandbox.Sandbox
Manager = opensandbox.SandboxManagerSync if IS_SYNC else opensandbox.SandboxManager
CodeInterpreter = code_interpreter.CodeInterpreterSync if IS_SYNC else code_interpreter.CodeInterpreter
Pool = opensandbox.SandboxPoolSync if IS_SYNC else opensandbox.SandboxPoolAsync
PoolManager = opensandbox.SandboxPoolManagerSync if IS_SYNC else opensandbox.SandboxPoolManagerAsync
PoolStore = opensandbox.InMemoryPoolStateStore if IS_SYNC else opensandbox.InMemoryAsyncPoolStateStore
Files = FilesystemSync if IS_SYNC else Filesystem
Config = ConnectionConfigSync if IS_SYNC else ConnectionConfig

results: dict[str, str] = {}


async def wait(value):
    """Wait for what can be waited for."""
    return await value if inspect.isawaitable(value) else value


def note(name, result):
    """Note how a method went. One that failed once has failed, whatever it does after that."""
    if results.get(name, "ok") == "ok":
        results[name] = result


async def do(name, method, *arguments, expect=None, **keywords):
    """Call a method, check its result, note how it went under its name; return the result."""
    try:
        value = await wait(method(*arguments, **keywords))
        assert expect is None or expect(value), f"an unexpected result: {value!r:.300}"
    except SandboxApiException as error:
        note(name, f"refused: {error.status_code} {error.error.code if error.error else ''}")
    except Exception as error:
        traceback.print_exc()
        note(name, f"failed: {type(error).__name__}: {error!s:.300}")
    else:
        note(name, "ok")
        return value
    return None


def said(execution):
    return "".join(f"{line.text}\n" for line in execution.logs.stdout)


async def until(look, is_done):
    while not is_done(value := await wait(look())):
        await asyncio.sleep(0.05)
    return value


async def tour():
    config = Config(use_server_proxy=WAY == "proxy", protocol=PROTOCOL)
    sandbox = await do(
        "Sandbox.create", Sandbox.create, IMAGE, metadata={"tour": f"{KIND}-{WAY}"}, connection_config=config
    )
    await commands(sandbox)
    await files("files", sandbox.files, "/tour")
    await files("Sandbox.files_with_identity", sandbox.files_with_identity(1000, 1000), "/tmp/mine")
    note("Sandbox.files_with_identity", "ok")
    await about(sandbox)
    await codes(sandbox)
    await isolation(config)
    await egress(sandbox)
    await pools(config)
    await stores()
    await managing(sandbox, config)
    await ending(sandbox, config)


async def commands(sandbox):
    run = sandbox.commands.run
    await do(
        "commands.run", run, "echo out; echo err >&2; exit 3", expect=lambda e: said(e) == "out\n" and e.exit_code == 3
    )
    await do("commands.run", run, ["printf", "%s", "$HOME"], expect=lambda e: said(e) == "$HOME\n")
    opts = RunCommandOpts(working_directory="/tmp", envs={"A": "1"}, uid=1000, gid=1000, timeout=timedelta(seconds=20))
    await do("commands.run", run, "echo $PWD $A $(id -u)", opts=opts, expect=lambda e: said(e) == "/tmp 1 1000\n")
    await do("commands.set_env", sandbox.commands.set_env, "TOUR", "it's set")
    await do("commands.run", run, "echo $TOUR", expect=lambda e: said(e) == "it's set\n")
    behind = await wait(run("echo first; sleep 300", opts=RunCommandOpts(background=True)))
    await do(
        "commands.get_command_status",
        sandbox.commands.get_command_status,
        behind.id,
        expect=lambda status: status.running and status.exit_code is None,
    )
    logs = await until(
        lambda: sandbox.commands.get_background_command_logs(behind.id), lambda found: found.content == "first\n"
    )
    await do(
        "commands.get_background_command_logs",
        sandbox.commands.get_background_command_logs,
        behind.id,
        cursor=logs.cursor,
        expect=lambda found: found.content == "",
    )
    await do("commands.interrupt", sandbox.commands.interrupt, behind.id)
    await until(lambda: sandbox.commands.get_command_status(behind.id), lambda status: not status.running)
    session = await do("commands.create_session", sandbox.commands.create_session, working_directory="/tmp")
    await wait(sandbox.commands.run_in_session(session, "f() { echo $PWD $1; }"))
    await do(
        "commands.run_in_session",
        sandbox.commands.run_in_session,
        session,
        "f again",
        expect=lambda e: said(e) == "/tmp again\n",
    )
    await do("commands.delete_session", sandbox.commands.delete_session, session)


async def files(group, box, root):
    """The tour through one of the places that have files; *root* is a folder that is not there yet."""
    await do(f"{group}.create_directories", box.create_directories, [WriteEntry(path=f"{root}/in", mode=755)])
    a, b, c, moved = f"{root}/a", f"{root}/b", f"{root}/c", f"{root}/in/moved"
    entries = [WriteEntry(path=a, data="one two\nthree\n", mode=644), WriteEntry(path=b, data=b"\0\1")]
    await do(f"{group}.write_files", box.write_files, entries)
    await do(f"{group}.write_file", box.write_file, c, "written", mode=600)
    await do(f"{group}.read_file", box.read_file, a, expect=lambda text: text == "one two\nthree\n")
    await do(f"{group}.read_file", box.read_file, a, offset=2, limit=1, expect=lambda text: text == "three")
    await do(f"{group}.read_bytes", box.read_bytes, a, range_header="bytes=4-6", expect=lambda data: data == b"two")
    stream = await do(f"{group}.read_bytes_stream", box.read_bytes_stream, b)
    data = b"".join(stream) if IS_SYNC else b"".join([chunk async for chunk in stream])
    assert data == b"\0\1", data
    is_file = lambda found: found[c].mode == 600 and found[c].entry_type == "file"  # noqa: E731
    await do(f"{group}.get_file_info", box.get_file_info, [c], expect=is_file)
    await do(f"{group}.set_permissions", box.set_permissions, [SetPermissionEntry(path=c, mode=644)])
    await do(
        f"{group}.replace_contents",
        box.replace_contents,
        [ContentReplaceEntry(path=a, old_content="one", new_content="1")],
    )
    await do(
        f"{group}.replace_contents_detailed",
        box.replace_contents_detailed,
        [ContentReplaceEntry(path=a, old_content="t", new_content="T")],
        expect=lambda found: [item.replaced_count for item in found] == [2],
    )
    await do(f"{group}.move_files", box.move_files, [MoveEntry(src=c, dest=moved)])
    await do(
        f"{group}.search",
        box.search,
        SearchEntry(path=root, pattern="mov*"),
        expect=lambda found: [entry.path for entry in found] == [moved],
    )
    await do(
        f"{group}.list_directory",
        box.list_directory,
        DirectoryListEntry(path=root, depth=1),
        expect=lambda found: sorted(entry.path for entry in found) == [a, b, f"{root}/in"],
    )
    await do(f"{group}.delete_files", box.delete_files, [a, b])
    await do(f"{group}.delete_directories", box.delete_directories, [root])


async def about(sandbox):
    await do("Sandbox.get_info", sandbox.get_info, expect=lambda info: info.status.state == "Running")
    await do("Sandbox.is_healthy", sandbox.is_healthy, expect=lambda healthy: healthy is True)
    await do("Sandbox.check_ready", sandbox.check_ready, timedelta(seconds=5), timedelta(milliseconds=50))
    await do("Sandbox.get_metrics", sandbox.get_metrics, expect=lambda found: found.memory_used_in_mib > 0)
    await do("metrics.get_metrics", sandbox.metrics.get_metrics, sandbox.id, expect=lambda found: found.cpu_count > 0)
    await do("Sandbox.renew", sandbox.renew, timedelta(minutes=20))
    changed = {"tour": f"{KIND}-{WAY}", "new": "1"}
    await do(
        "Sandbox.patch_metadata", sandbox.patch_metadata, {"new": "1"}, expect=lambda info: info.metadata == changed
    )
    await do("Sandbox.get_diagnostic_logs", sandbox.get_diagnostic_logs, "container", expect=lambda d: d.kind == "logs")
    await do(
        "Sandbox.get_diagnostic_events",
        sandbox.get_diagnostic_events,
        "runtime",
        expect=lambda d: "Running" in d.content,
    )
    await do("diagnostics.get_logs", sandbox.diagnostics.get_logs, sandbox.id, "all")
    await do("diagnostics.get_events", sandbox.diagnostics.get_events, sandbox.id, "all")
    await wait(
        sandbox.commands.run(
            "echo served > /tmp/index; cd /tmp; exec python3 -m http.server 8123", opts=RunCommandOpts(background=True)
        )
    )
    endpoint = await do("Sandbox.get_endpoint", sandbox.get_endpoint, 8123)
    await until(
        lambda: fetch(f"{PROTOCOL}://{endpoint.endpoint}/index", endpoint.headers or {}),
        lambda text: text == "served\n",
    )
    if WAY == "direct":  # the other one has no signed addresses, as the contract says
        until_then = datetime.now(UTC) + timedelta(minutes=5)
        signed = await do("Sandbox.get_signed_endpoint", sandbox.get_signed_endpoint, 8123, int(until_then.timestamp()))
        assert fetch(f"{PROTOCOL}://{signed.endpoint}/index", {}) == "served\n"
    else:
        results["Sandbox.get_signed_endpoint"] = "not with use_server_proxy"


def fetch(url, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


async def codes(sandbox):
    interpreter = await do("CodeInterpreter.create", CodeInterpreter.create, sandbox)
    await do("CodeInterpreter.is_healthy", interpreter.is_healthy, expect=lambda healthy: healthy is True)
    await do("CodeInterpreter.check_ready", interpreter.check_ready, timedelta(seconds=5), timedelta(milliseconds=50))
    await do("CodeInterpreter.ping", interpreter.ping)
    await do("codes.ping", interpreter.codes.ping)
    run = interpreter.codes.run
    context = await do("codes.create_context", interpreter.codes.create_context, "python")
    await wait(run("x = 20", context=context))
    await do("codes.run", run, "x + 22", context=context, expect=lambda e: e.result[0].text == "42")
    await do("codes.run", run, "1/0", language="python", expect=lambda e: e.error.name == "ZeroDivisionError")
    await do("codes.get_context", interpreter.codes.get_context, context.id, expect=lambda c: c.language == "python")
    await do(
        "codes.list_contexts",
        interpreter.codes.list_contexts,
        "python",
        expect=lambda found: context.id in [one.id for one in found],
    )
    started = []

    async def begun(init):
        started.append(init.id)

    from opensandbox.models.execd import ExecutionHandlers
    from opensandbox.models.execd_sync import ExecutionHandlersSync

    if IS_SYNC:
        handlers = ExecutionHandlersSync(on_init=lambda init: started.append(init.id))
        running = asyncio.create_task(asyncio.to_thread(run, "while True: pass", context=context, handlers=handlers))
    else:
        handlers = ExecutionHandlers(on_init=begun)
        running = asyncio.create_task(run("while True: pass", context=context, handlers=handlers))
    while not started:
        await asyncio.sleep(0.02)
    await do("codes.interrupt", interpreter.codes.interrupt, started[0])
    assert (await running).error.name == "KeyboardInterrupt"
    assert (await wait(run("x", context=context))).result[0].text == "20"
    await do("codes.delete_context", interpreter.codes.delete_context, context.id)
    await do("codes.delete_contexts", interpreter.codes.delete_contexts, "python")
    close = "close" if IS_SYNC else "aclose"
    await do(f"CodeInterpreter.{close}", getattr(await wait(CodeInterpreter.create(sandbox)), close))


async def isolation(config):
    sandbox = await wait(
        Sandbox.create(IMAGE, extensions={"bootstrap.execd.isolation": "enable"}, connection_config=config)
    )
    await wait(sandbox.commands.run("mkdir /ws; echo low > /ws/file"))
    service = sandbox.isolation
    await do("isolation.capabilities", service.capabilities, expect=lambda found: found.available)
    request = CreateIsolatedSessionRequest(workspace=IsolatedWorkspaceSpec(path="/ws", mode="overlay"))
    session = await do("isolation.create", service.create, request, expect=lambda one: one.info.profile == "strict")
    opts = IsolatedRunOpts(envs={"A": "it's"}, timeout_seconds=20)
    code = "echo $A; cat file; echo mine > file; B=1"
    await do("IsolationSession.run", session.run, code, opts=opts, expect=lambda e: said(e) == "it's\nlow\n")
    behind = await do("IsolationSession.run_background", session.run_background, "echo $A $B; exit 3")
    status = await until(lambda: session.run_status(behind.run_id), lambda status: not status.running)
    assert status.exit_code == 3
    await do("IsolationSession.run_status", session.run_status, behind.run_id, expect=lambda found: found.finished_at)
    await do("IsolationSession.run_logs", session.run_logs, behind.run_id, expect=lambda log: log.text == "it's 1\n")
    await do("IsolationSession.get", session.get, expect=lambda state: state.status == "active")
    await do(
        "isolation.list", service.list, expect=lambda found: [one.session_id for one in found] == [session.session_id]
    )
    again = await do(
        "isolation.attach", service.attach, session.session_id, expect=lambda one: one.info.share_net is False
    )
    assert await wait(again.files.read_file("/ws/file")) == "mine\n"
    await files("IsolationSession.files", again.files, "/ws/tour")
    assert await wait(sandbox.files.read_file("/ws/file")) == "low\n"
    await do("IsolationSession.delete", again.delete, expect=lambda _: True)
    await do("isolation.run_once", service.run_once, "cat file", workspace="/ws", expect=lambda e: said(e) == "low\n")
    manager = service.session(request)
    if IS_SYNC:
        with manager as inner:
            assert said(inner.run("pwd")) == "/ws\n"
    else:
        async with manager as inner:
            assert said(await inner.run("pwd")) == "/ws\n"
    note("isolation.session", "ok")
    assert await wait(service.list()) == []
    await wait(sandbox.kill())


async def egress(sandbox):
    await do(
        "Sandbox.get_egress_policy", sandbox.get_egress_policy, expect=lambda policy: policy.default_action == "deny"
    )
    await do(
        "Sandbox.patch_egress_rules", sandbox.patch_egress_rules, [NetworkRule(action="allow", target="example.com")]
    )
    await do("Sandbox.delete_egress_rules", sandbox.delete_egress_rules, ["example.com"])
    vault = sandbox.credential_vault
    await do("credential_vault.create", vault.create, credentials=[], bindings=[])
    await do("credential_vault.get", vault.get)
    await do("credential_vault.patch", vault.patch)
    await do("credential_vault.delete", vault.delete)
    await do("credential_vault.list_credentials", vault.list_credentials)
    await do("credential_vault.get_credential", vault.get_credential, "c")
    await do("credential_vault.list_bindings", vault.list_bindings)
    await do("credential_vault.get_binding", vault.get_binding, "b")


async def pools(config):
    """The pools that live in the client: what they hold are sandboxes like all others."""
    tag = {"tour": f"pool-{KIND}-{WAY}"}
    store = PoolStore()
    pool = Pool(
        pool_name="tour",
        max_idle=1,
        state_store=store,
        connection_config=config,
        creation_spec=PoolCreationSpec(image=IMAGE, metadata=tag),
        warmup_health_check_polling_interval=timedelta(milliseconds=50),
        idle_timeout=timedelta(minutes=10),
    )
    manager = await wait(Manager.create(config))

    async def alive():
        found = await wait(manager.list_sandbox_infos(SandboxFilter(states=["Running"], metadata=tag)))
        return sorted(info.id for info in found.sandbox_infos)

    async def put_idle(count):
        """Have idle sandboxes in the store, without the pool's own pace."""
        for _ in range(count):
            sandbox = await wait(Sandbox.create(IMAGE, metadata=tag, connection_config=config))
            await wait(store.put_idle("tour", sandbox.id))
            await wait(sandbox.close())

    await do("SandboxPool.start", pool.start)
    await until(pool.snapshot, lambda now: now.idle_count == 1)
    await do("SandboxPool.snapshot", pool.snapshot, expect=lambda now: now.state.value == "HEALTHY")
    entries = await do("SandboxPool.snapshot_idle_entries", pool.snapshot_idle_entries)
    assert [entry.sandbox_id for entry in entries] == await alive()
    taken = await do(
        "SandboxPool.acquire",
        pool.acquire,
        timedelta(minutes=5),
        AcquirePolicy.FAIL_FAST,
        expect=lambda sandbox: sandbox.id == entries[0].sandbox_id,
    )
    assert said(await wait(taken.commands.run("echo pooled"))) == "pooled\n"
    await wait(taken.destroy())
    await do("SandboxPool.resize", pool.resize, 0)
    assert (await wait(pool.snapshot())).max_idle == 0
    await do("SandboxPool.shutdown", pool.shutdown)
    assert (await wait(pool.snapshot())).state.value == "STOPPED"
    await wait(pool.release_all_idle())  # there may be one in place of that which was taken
    await until(alive, lambda ids: ids == [])
    await put_idle(2)
    await do("SandboxPool.release_all_idle", pool.release_all_idle, expect=lambda count: count == 2)
    assert await alive() == []
    await put_idle(2)
    await do("SandboxPool.release_all_idle_parallel", pool.release_all_idle_parallel, expect=lambda count: count == 2)
    assert await alive() == []
    await put_idle(1)
    pool_manager = PoolManager(state_store=store, connection_config=config)
    await do(
        "SandboxPoolManager.destroy", pool_manager.destroy, "tour", expect=lambda done: done.killed_idle_count == 1
    )
    assert await alive() == []
    try:
        await wait(pool.start())
    except PoolDestroyedException:
        pass
    else:
        raise AssertionError("a pool that was destroyed starts")
    await wait(manager.close())


async def stores():
    """The state of such pools: what no pool asked for above is asked for here. Nothing of it reaches a server."""
    store, group = PoolStore(), "InMemoryPoolStateStore"
    minute = timedelta(minutes=1)
    is_true = lambda value: value is True  # noqa: E731
    await do(f"{group}.set_max_idle", store.set_max_idle, "p", 3)
    await do(f"{group}.get_max_idle", store.get_max_idle, "p")  # which keeps none
    await do(f"{group}.set_idle_entry_ttl", store.set_idle_entry_ttl, "p", minute)
    for sandbox_id in "abc":
        await do(f"{group}.put_idle", store.put_idle, "p", sandbox_id)
    await do(f"{group}.remove_idle", store.remove_idle, "p", "b")
    await do(f"{group}.snapshot_counters", store.snapshot_counters, "p", expect=lambda found: found.idle_count == 2)
    await do(
        f"{group}.snapshot_idle_entries",
        store.snapshot_idle_entries,
        "p",
        expect=lambda found: [entry.sandbox_id for entry in found] == ["a", "c"],
    )
    await do(f"{group}.try_take_idle", store.try_take_idle, "p", expect=lambda taken: taken == "a")
    await do(
        f"{group}.try_take_idle_min_ttl",
        store.try_take_idle_min_ttl,
        "p",
        minute * 2,
        expect=lambda taken: taken.sandbox_id is None and list(taken.discarded_alive_sandbox_ids) == ["c"],
    )
    await wait(store.put_idle("p", "d"))
    now = datetime.now(UTC)
    await do(
        f"{group}.reap_expired_idle_min_ttl",
        store.reap_expired_idle_min_ttl,
        "p",
        now,
        minute * 2,
        expect=lambda found: list(found) == ["d"],
    )
    await wait(store.put_idle("p", "e"))
    await do(f"{group}.reap_expired_idle", store.reap_expired_idle, "p", now + minute * 2)
    assert (await wait(store.snapshot_counters("p"))).idle_count == 0
    await do(f"{group}.try_acquire_primary_lock", store.try_acquire_primary_lock, "p", "me", minute, expect=is_true)
    await do(f"{group}.renew_primary_lock", store.renew_primary_lock, "p", "me", minute, expect=is_true)
    await do(f"{group}.release_primary_lock", store.release_primary_lock, "p", "me")
    assert await wait(store.try_acquire_primary_lock("p", "you", minute))
    await do(f"{group}.begin_destroy", store.begin_destroy, "p", "me")
    await do(f"{group}.clear_pool_state", store.clear_pool_state, "p")
    await do(f"{group}.mark_destroyed", store.mark_destroyed, "p", "me", minute)
    await do(
        f"{group}.get_destroy_state", store.get_destroy_state, "p", expect=lambda state: state.value == "DESTROYED"
    )


async def managing(sandbox, config):
    manager = await do("SandboxManager.create", Manager.create, config)
    by_tag = SandboxFilter(states=["Running", "Paused"], metadata={"tour": f"{KIND}-{WAY}"}, page=1, page_size=5)
    is_it = lambda found: [info.id for info in found.sandbox_infos] == [sandbox.id]  # noqa: E731
    await do("SandboxManager.list_sandbox_infos", manager.list_sandbox_infos, by_tag, expect=is_it)
    await do("SandboxManager.get_sandbox_info", manager.get_sandbox_info, sandbox.id)
    await do("SandboxManager.patch_sandbox_metadata", manager.patch_sandbox_metadata, sandbox.id, {"new": None})
    await do("SandboxManager.renew_sandbox", manager.renew_sandbox, sandbox.id, timedelta(minutes=30))
    await do("SandboxManager.get_diagnostic_logs", manager.get_diagnostic_logs, sandbox.id, "container")
    await do("SandboxManager.get_diagnostic_events", manager.get_diagnostic_events, sandbox.id, "runtime")
    await do("SandboxManager.pause_sandbox", manager.pause_sandbox, sandbox.id)
    await do("SandboxManager.resume_sandbox", manager.resume_sandbox, sandbox.id)
    name = f"tour-{KIND}-{WAY}"
    snapshot = await do("SandboxManager.create_snapshot", manager.create_snapshot, sandbox.id, name)
    await until(lambda: manager.get_snapshot(snapshot.id), lambda found: found.status.state == "Ready")
    await do("SandboxManager.get_snapshot", manager.get_snapshot, snapshot.id, expect=lambda found: found.name == name)
    await do(
        "SandboxManager.list_snapshots",
        manager.list_snapshots,
        SnapshotFilter(sandbox_id=sandbox.id),
        expect=lambda found: [one.id for one in found.snapshot_infos] == [snapshot.id],
    )
    await do("SandboxManager.delete_snapshot", manager.delete_snapshot, snapshot.id)
    template = CreateTemplateRequest(image="a", publish="s3://a/b")
    await do("SandboxManager.create_template", manager.create_template, template)
    await do("SandboxManager.get_template", manager.get_template, "t")
    await do("SandboxManager.list_templates", manager.list_templates, TemplateFilter())
    await do("SandboxManager.delete_template", manager.delete_template, "t")
    doomed = await wait(Sandbox.create(IMAGE, connection_config=config))
    await do("SandboxManager.kill_sandbox", manager.kill_sandbox, doomed.id)
    await wait(doomed.close())
    await do("SandboxManager.close", manager.close)


async def ending(sandbox, config):
    await do(
        "Sandbox.create_from_template",
        Sandbox.create_from_template,
        "t",
        timeout=timedelta(minutes=5),
        connection_config=config,
    )
    snapshot = await do("Sandbox.create_snapshot", sandbox.create_snapshot, "last")
    manager = await wait(Manager.create(config))
    await until(lambda: manager.get_snapshot(snapshot.id), lambda found: found.status.state == "Ready")
    await wait(manager.delete_snapshot(snapshot.id))
    await wait(manager.close())
    await do("Sandbox.pause", sandbox.pause)
    resumed = await do("Sandbox.resume", Sandbox.resume, sandbox.id, connection_config=config)
    await wait(resumed.close())
    connected = await do("Sandbox.connect", Sandbox.connect, sandbox.id, connection_config=config)
    await do("Sandbox.close", connected.close)
    await do("Sandbox.kill", sandbox.kill)
    another = await wait(Sandbox.create(IMAGE, connection_config=config))
    await do("Sandbox.destroy", another.destroy)
    await wait(sandbox.close())


PACKAGES = (opensandbox, opensandbox.sync, opensandbox.pool, code_interpreter, code_interpreter.sync)


def is_data(kind):
    """Whether instances are values, errors or settings: nothing that does anything."""
    return issubclass(kind, (BaseException, enum.Enum, pydantic.BaseModel)) or dataclasses.is_dataclass(kind)


def is_mine(kind):
    """Whether a class is of this kind of client. An asynchronous one has something to wait for."""
    return any(inspect.iscoroutinefunction(member) for _, member in public(kind)) != IS_SYNC


def public(kind):
    """Members of a class that a user sees, properties first."""
    members = [(name, member) for name, member in inspect.getmembers(kind) if not name.startswith("_")]
    return sorted(members, key=lambda item: not isinstance(item[1], property))


def classes_in(hint):
    """The classes of these packages in a type hint, such as an iterator of them."""
    if isinstance(hint, type):
        return [hint] if hint.__module__.partition(".")[0] in ("opensandbox", "code_interpreter") else []
    return [kind for part in typing.get_args(hint) for kind in classes_in(part)]


def surface():
    """All public methods of what the packages export, and of what that leads to, by the names that the tour uses."""
    exported = {getattr(package, name) for package in PACKAGES for name in package.__all__}
    # Protocols that are exported are for users to implement; the client calls them.
    roots = {kind for kind in exported if not is_data(kind) and not getattr(kind, "_is_protocol", False)}
    mine = sorted(filter(is_mine, roots), key=lambda kind: kind.__name__)
    to_see = [(kind.__name__.replace("Async", "").replace("Sync", ""), kind) for kind in mine]
    seen, names, properties = set(mine), set(), {}
    for group, kind in to_see:  # grows
        for name, member in public(kind):
            is_property = isinstance(member, property)
            if not is_property and not callable(member):
                continue  # a constant
            if not is_property:
                names.add(f"{group}.{name}")
            hint = typing.get_type_hints(member.fget if is_property else member).get("return")
            if is_property and hint in (None, typing.Any):  # not annotated: what others of that name are
                hint = properties.get(name)
            for found in classes_in(hint):
                if is_data(found) or found in seen - {Files}:  # files are another service at each place
                    continue
                seen.add(found)
                if is_property:
                    properties[name] = found
                inner = name if is_property and kind in roots else f"{group}.{name}"
                to_see.append((inner if is_property or found is Files else found.__name__.replace("Sync", ""), found))
    return sorted(names)


try:
    asyncio.run(tour())
finally:
    print(json.dumps({"results": results, "surface": surface()}))
