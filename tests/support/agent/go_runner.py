"""The Go runner without an engine: built with this machine's Go, started as execd starts it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

SOURCES = Path(__file__).parents[3] / "images" / "kernels" / "go"

# What the cells of the tests import, by the names that they use. The image has the whole standard library.
IMPORTS = """
    bufio bytes cmp container/list container/ring context crypto/sha256 encoding/hex encoding/json errors fmt hash/crc32
    hash/fnv io log maps math math/big math/rand net/http net/url os os/exec regexp slices sort strconv strings sync
    sync/atomic time unsafe
"""
PACKAGES = {path.rpartition("/")[2]: path for path in IMPORTS.split()}


def build(directory: Path) -> Path:
    """Build the runner and the packages that programs are linked from into a directory."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")}
    command: list[str | Path] = [SOURCES / "prepare", directory, *PACKAGES.values()]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    return directory


class Run(NamedTuple):
    """What one run gave."""

    output: str
    notices: str  # what was written to stderr
    values: list[str]
    errors: list[dict[str, Any]]
    status: str


class Runner:
    """A context of Go. Its output is what it has written when it says that a run is over."""

    def __init__(self, built: Path, root: str, directory: Path) -> None:
        self.socket, theirs = socket.socketpair()
        self.said = self.socket.makefile("rb")
        self.outputs, ends = zip(os.pipe(), os.pipe(), strict=True)
        for output in self.outputs:
            os.set_blocking(output, False)
        with theirs:
            self.process = subprocess.Popen(
                [built / "runner", root],
                env={"PATH": os.environ["PATH"], "SANDLOT_CHANNEL_FD": str(theirs.fileno()), "TMPDIR": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=ends[0],
                stderr=ends[1],
                pass_fds=[theirs.fileno()],
            )
        for end in ends:
            os.close(end)
        self.count = 0
        assert self._receive()["type"] == "ready"
        self._send(op="start", cwd=str(directory), env={"PATH": os.environ["PATH"]})
        assert self._receive()["type"] == "started"

    def _send(self, **message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.said.readline())
        return message

    def run(self, code: str, *, interrupt: bool = False) -> Run:
        """Run code to its end. *interrupt*: say at once that the run is to be interrupted, and send no signal."""
        self.count += 1
        self._send(op="run", id=self.count, code=code, input=False)
        if interrupt:
            self._send(op="interrupt", id=self.count)
        values, errors, printed = [], [], [b"", b""]
        while True:
            message = self._receive()
            for number in range(2):  # the program has ended before the runner says anything
                printed[number] += self._printed(number)
            match message["type"]:
                case "result":
                    values.append(message["data"]["text/plain"])
                case "error":
                    errors.append(message)
                case "done":
                    output, notices = (one.decode() for one in printed)
                    return Run(output, notices, values, errors, message["status"])

    def _printed(self, number: int) -> bytes:
        output = b""
        try:
            while piece := os.read(self.outputs[number], 1 << 20):
                output += piece
        except BlockingIOError:
            pass
        return output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.said.close()
        self.process.wait(20)
        for output in self.outputs:
            os.close(output)


class Case(NamedTuple):
    """A name, and the code of runs that follow each other in one context."""

    name: str
    runs: list[str]


def read_cases(file: Path) -> list[Case]:
    """Read a file of cases: "### name" begins one, ">>>" ends a run of it."""
    cases = []
    for text in re.split(r"^### ", file.read_text(), flags=re.MULTILINE)[1:]:
        name, _, code = text.partition("\n")
        cases.append(Case(name, code.strip("\n").split("\n>>>\n")))
    return cases


# How a declaration begins that must stand outside of functions: a function, a method or a type.
DECLARATION = re.compile(r"func (\w|\(\w*\s?[*\w\[\], ]+\) \w+\()|type ")


def split_declarations(code: str) -> tuple[str, str]:
    """Return the declarations that must stand outside of functions, and the rest."""
    declarations: list[str] = []
    rest: list[str] = []
    lines = iter(code.split("\n"))
    for line in lines:
        if not DECLARATION.match(line):
            rest.append(line)
            continue
        declarations.append(line)
        while declarations[-1].endswith(("{", "(")) or declarations[-1].startswith(("\t", " ")):
            declarations.append(next(lines))
    return "\n".join(declarations), "\n".join(rest)


def package_of(name: str, case: Case) -> str:
    """Return a package whose function Run does what all runs of a case do together."""
    code = "\n".join(case.runs)
    declarations, body = split_declarations(code)
    used = [path for short, path in PACKAGES.items() if re.search(rf"\b{short}\.\s*[A-Z]", code)]
    imports = "".join(f'import "{path}"\n' for path in used)
    return f"package {name}\n{imports}\n" + declarations + f"\nfunc Run() {{\n{body}\n}}\n"


def compiled_outputs(cases: Iterable[Case], directory: Path) -> list[str]:
    """Compile each case to a package and all packages to one program; return what each case prints there."""
    names = []
    for number, case in enumerate(cases):
        name = f"case{number}"
        (directory / name).mkdir()
        (directory / name / "case.go").write_text(package_of(name, case))
        names.append(name)
    imports = "".join(f'import "reference/{name}"\n' for name in names)
    # A case may end by a panic that it recovers from in its own function, so each call has a function of its own.
    calls = "".join(f'{name}.Run()\nfmt.Println("\\x00")\n' for name in names)
    (directory / "main.go").write_text(f'package main\nimport "fmt"\n{imports}\nfunc main() {{\n{calls}}}\n')
    (directory / "go.mod").write_text("module reference\ngo 1.26\n")
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    command = ["go", "build", "-o", "reference", "."]
    built = subprocess.run(
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    program = subprocess.run([directory / "reference"], capture_output=True, text=True, timeout=60, check=True)
    return re.sub(r"\bcase\d+\.", "main.", program.stdout).split("\0\n")[:-1]
