"""Build the agent's self-contained tree: tree.py PACKAGES TARGET. Its Dockerfile runs it in the build container.

The tree runs in any Linux image, even in one without a libc. It contains Debian's interpreter with a loader and
libraries of its own, and only those modules that are really imported, as bytecode without source. The modules are found
by a trace. The finished tree must make a real connection without touching a file outside itself, or the build fails.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STDLIB = Path(os.__file__).parent
PYTHON = Path(sys.executable).resolve()
BUBBLEWRAP = Path("/usr/bin/bwrap")  # for isolated sessions

# Never in the tree: these need libraries outside of it, or only add to its size.
LEFT_OUT = ("_hashlib", "_ssl", "_bz2", "_lzma", "_uuid", "bz2", "lzma", "_decimal")

# Absolute paths of the image that libc and the loader would read, and their replacements of the same length. The loader
# cache, preload list and locale archive of a sandbox must never affect execd.
RELOCATED = {
    b"/etc/ld.so.cache\0": b"/opt/execd/cache\0",
    b"/etc/ld.so.preload\0": b"/opt/execd/preload\0",
    b"/usr/lib/locale\0": b"/opt/execd/loca\0",
}

# Mounted over /etc/hosts in sandboxes without a network, for which the engine writes none. `sandbox` is the host name
# that `controlplane/runtime/docker/hardening.py` gives to all of them.
HOSTS = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"

# Read by apt in sandboxes without a network (execd/launch/defaults.py): apt repeats an attempt without a pause.
APT = 'Acquire::Retries "0";\nAcquire::Retries::Delay "false";\n'


def main() -> None:
    packages, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    modules = traced_modules(packages)
    copy_modules(modules, packages, target)
    copy_binaries(target)
    py_compile.compile(str(HERE / "boot.py"), str(target / "boot.pyc"), "boot.py", doraise=True, optimize=2)
    (target / "etc").mkdir()
    (target / "etc" / "hosts").write_text(HOSTS)
    (target / "etc" / "apt.conf").write_text(APT)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    write_manifest(target)
    asyncio.run(check_start(packages, target))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"tree: {len(modules)} modules, {size / 1e6:.1f} MB")


# -- which modules


def traced_modules(packages: Path) -> dict[str, str]:
    """Return name → file of every module that execd imports, anywhere in its code and while a connection lives."""
    names = imports_of(packages / "execd")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/link.sock"
        with EchoServer(packages, path):
            command = [PYTHON, "-I", "-S", HERE / "trace.py", packages, path, *names]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60, text=True).stdout
    found = dict(line.split("\t") for line in output.splitlines())
    return {name: file for name, file in found.items() if name.partition(".")[0] not in LEFT_OUT}


def imports_of(package: Path) -> list[str]:
    """Return every module of the package, and every module that its code names in an import, also inside functions."""
    names = set()
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        if parts[-1] == "__main__":
            continue
        own = parts[:-1] if parts[-1] == "__init__" else parts
        names.add(".".join(own))
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module))
    return sorted(names)


class EchoServer:
    """A WebSocket server in a process of its own. It returns binary messages, and closes on a text."""

    SOURCE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from websockets.asyncio.server import unix_serve
async def echo(connection):
    async for message in connection:
        if isinstance(message, str):
            return
        await connection.send(message)
async def main():
    async with unix_serve(echo, sys.argv[2]):
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

    def __init__(self, packages: Path, path: str) -> None:
        self._command = [PYTHON, "-c", self.SOURCE, packages, path]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise SystemExit("tree: the test server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


# -- the files


def copy_modules(modules: dict[str, str], packages: Path, target: Path) -> None:
    library = target / "lib" / STDLIB.name
    # The interpreter finds its prefix by this file, although os itself is frozen into the interpreter.
    modules = {**modules, "os": str(STDLIB / "os.py")}
    for name, file in modules.items():
        source = Path(file)
        if source.suffix == ".so":
            standard = "lib-dynload" in source.parts
            folder = library / "lib-dynload" if standard else library.joinpath(*name.split(".")[:-1])
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder)
            continue
        root = packages if source.is_relative_to(packages) else STDLIB
        relative = source.relative_to(root)
        compiled = (library / relative).with_suffix(".pyc")
        compiled.parent.mkdir(parents=True, exist_ok=True)
        py_compile.compile(str(source), str(compiled), str(relative), doraise=True, optimize=2)
    (library / "lib-dynload").mkdir(parents=True, exist_ok=True)
    for script in packages.rglob("execd/**/*.bash"):
        copy = library / script.relative_to(packages)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(script, copy)


def copy_binaries(target: Path) -> None:
    (target / "bin").mkdir(parents=True)
    interpreter, bubblewrap = programs = target / "bin" / "python3", target / "bin" / BUBBLEWRAP.name
    shutil.copy(PYTHON, interpreter)
    shutil.copy(BUBBLEWRAP, bubblewrap)
    extensions = list(target.rglob("*.so"))
    libraries = {path for binary in (*programs, *extensions) for path in needed(binary)}
    # pthread_exit loads this library by name at the end of a thread.
    libraries |= {path for path in needed(PYTHON) for path in path.parent.glob("libgcc_s.so.1")}
    loader = Path(subprocess.check_output(["patchelf", "--print-interpreter", interpreter], text=True).strip())
    for path in {*libraries, loader}:
        copy = target / "lib" / path.name
        shutil.copy(path.resolve(), copy)
        copy.chmod(0o755)
        relocate(copy)
    # RPATH, not RUNPATH: libraries that the interpreter loads later inherit only RPATH, and it overrides
    # LD_LIBRARY_PATH. It comes first, because a program whose interpreter patchelf 0.18 has set before crashes when it
    # starts.
    for program in programs:
        run("patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", program)
        run("patchelf", "--set-interpreter", target / "lib" / loader.name, program)
    run(bubblewrap, "--version")
    for extension in extensions:
        inside = os.path.relpath(target / "lib", extension.parent)
        run("patchelf", "--force-rpath", "--set-rpath", f"$ORIGIN/{inside}", extension)


def needed(binary: Path) -> set[Path]:
    """Return the paths of the shared libraries that a binary loads, without the loader itself."""
    output = subprocess.check_output(["ldd", binary], text=True)
    if "not found" in output:
        raise SystemExit(f"tree: a library of {binary} is missing:\n{output}")
    words = [line.split() for line in output.splitlines()]
    return {Path(parts[2]) for parts in words if len(parts) > 2 and parts[1] == "=>"}


def relocate(library: Path) -> None:
    data = library.read_bytes()
    for old, new in RELOCATED.items():
        assert len(old) == len(new)
        data = data.replace(old, new)
    library.write_bytes(data)


def write_manifest(target: Path) -> None:
    """Write one line for each file: SHA-256, mode, path. The control plane checks the published volume against them."""
    lines = []
    for path in sorted(target.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest} {path.stat().st_mode & 0o777:o}  {path.relative_to(target)}\n")
    (target / "MANIFEST").write_text("".join(lines))


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


# -- the proof

# Only execd itself can read what it has mapped, because it forbids tracing. So it is started with a signal handler that
# reports it.
TELLING = """
import signal, sys
from _frozen_importlib_external import SourcelessFileLoader
signal.signal(signal.SIGUSR1, lambda *_: print(open("/proc/self/maps").read(), flush=True))
del sys.argv[0]
exec(SourcelessFileLoader("boot", sys.argv[0]).get_code("boot"))
"""


async def check_start(packages: Path, target: Path) -> None:
    """Start execd from the tree, wait for its first message, and check what it has mapped."""
    sys.path.insert(0, str(packages))
    from websockets.asyncio.server import ServerConnection, unix_serve

    hello: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def accept(connection: ServerConnection) -> None:
        hello.set_result(await connection.recv())
        await connection.wait_closed()

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/link.sock"
        async with unix_serve(accept, path, compression=None):
            command = [target / "bin/python3", "-I", "-S", "-c", TELLING, target / "boot.pyc", path]
            process = await asyncio.create_subprocess_exec(*command, env={}, stdout=subprocess.PIPE)
            ended = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait({hello, ended}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
                if not hello.done():
                    raise SystemExit(f"tree: execd sent no message; its exit status: {process.returncode}")
                if not isinstance(hello.result(), bytes):
                    raise SystemExit("tree: execd's first message is not binary")
                process.send_signal(signal.SIGUSR1)
                mapped = await mapped_files(process.stdout)
            finally:
                if process.returncode is None:
                    process.kill()
                await ended
    if outside := {path for path in mapped if not path.startswith(f"{target}/")}:
        raise SystemExit(f"tree: execd maps files outside {target}: {sorted(outside)}")


async def mapped_files(maps: asyncio.StreamReader) -> set[str]:
    mapped = set()
    while line := (await asyncio.wait_for(maps.readline(), 30)).decode().strip():
        if "/" in line:
            mapped.add(line[line.find("/") :])
    if not mapped:
        raise SystemExit("tree: execd did not report what it has mapped")
    return mapped


if __name__ == "__main__":
    main()
