"""What travels in HELLO, OPEN, MESSAGE and RESET frames: tagged msgspec Structs as msgpack arrays.

A stream begins with one request (from the control plane) and carries the replies listed beside it. A request that
fails is answered by RESET with a Problem. Rules for change: new fields at the end, with defaults; no field ever
changes its type; the tags are names for good. Anything else is a new GENERATION. Collections in replies have a
bound, because sixteen megabytes of empty strings are a hundred in memory.

    request            replies on the same stream, in order                           then
    sandbox.claim      sandbox.claimed; when the entrypoint ends: process.exited       END
    process.start      process.started, data(STDOUT, STDERR)*, process.exited          END
    process.output     process.state, data(STDOUT)*                                    END
    process.list       process.state*                                                  END
    process.signal     done                                                            END
    file.read          file.info, data(STDOUT)*                                        END
    file.write         after data(INPUT)* END from the control plane: file.info        END
    file.stat          file.info*                                                      END
    file.list          file.info*                                                      END
    file.search        file.info*                                                      END
    file.remove        done                                                            END
    file.move          done                                                            END
    file.change        done                                                            END
    file.replace       file.replaced*                                                  END
    directory.make     done                                                            END
    directory.remove   done                                                            END
    file.as            as the request in it: (file.info | file.replaced | done | data(STDOUT))*  END
    file.in            as the request in it: (file.info | file.replaced | done | data(STDOUT))*  END
    context.open       context.state                                                   END
    context.prepare    done                                                            END
    context.list       context.state*                                                  END
    context.languages  context.language*                                               END
    context.close      done                                                            END
    context.interrupt  done                                                            END
    context.restart    context.state                                                   END
    context.fork       context.state*                                                  END
    context.input      done                                                            END
    context.complete   context.completion                                              END
    context.inspect    context.inspection                                              END
    context.run        (data | context.result | context.error | context.prompt)*, context.done  END
    session.open       done                                                            END
    session.run        done, (data | context.error)*, context.done                     END
    session.list       session.state*                                                  END
    session.job        job.state, data(STDOUT)*                                END
    session.interrupt  done                                                            END
    session.close      done                                                            END
    isolation.read     isolation.state                                                 END
    pty.open           done                                                            END
    pty.attach         pty.state, data(STDOUT, STDERR)*, process.exited; data(INPUT)* to it  END
    pty.resize         done                                                            END
    pty.signal         done                                                            END
    pty.list           pty.state*                                                      END
    pty.close          done                                                            END
    port.connect       done; then data(INPUT)* END to, and data(STDOUT)* from it       END
    metrics.read       metrics                                                         END
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .errors import RemoteProtocolError

# Both sides offer theirs in Hello; the lower one rules. Warm containers outlive an upgrade of the control plane.
GENERATION = 1


# Generous for any program, and a bound for a hostile one. execd holds runners to the same.
MimeBundle = Annotated[dict[str, str], msgspec.Meta(max_length=1000)]
Traceback = Annotated[tuple[str, ...], msgspec.Meta(max_length=100_000)]
MAX_NUMBER = 2**63 - 1  # msgpack has no larger ones, and JSON has: what comes from a runner must be passed on
MAX_DISPLAY_ID = 200  # characters
Matches = Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)]


class Struct(msgspec.Struct, frozen=True, array_like=True):
    """Base of all: immutable, a msgpack array whose first item is the tag."""


class Hello(Struct, tag="hello", frozen=True):
    """First frame each way, on stream 0."""

    generation: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    version: Annotated[str, msgspec.Meta(max_length=100)]  # of the distribution, for the log only


class Problem(Struct, tag="problem", frozen=True):
    """Why a stream was reset. `code` is stable: `file.not_found`, `process.spawn_failed`, `internal` …"""

    code: Annotated[str, msgspec.Meta(max_length=64)]
    message: Annotated[str, msgspec.Meta(max_length=1000)]

    def clipped(self) -> Problem:
        """Return it with no more text than may travel, and none that UTF-8 cannot say (a file name may hold it)."""
        message = self.message[:1000].encode("utf-8", "backslashreplace").decode()
        return Problem(self.code[:64], message[:1000])


# -- sandbox ----------------------------------------


ENTRYPOINT_ID = "entrypoint"  # the id of the entrypoint's process: its output can be read under this name


class SandboxClaim(Struct, tag="sandbox.claim", frozen=True):
    """Bind the identity: from here on the container belongs to one sandbox.

    The stream stays open; it ends with process.exited when the entrypoint ends. Claiming again (after the control
    plane restarted) with the same id changes nothing and follows the same entrypoint.
    """

    id: str
    env: dict[str, str] = {}
    entrypoint: tuple[str, ...] = ()
    cwd: str = ""
    max_contexts: int = 0  # at once; 0 is execd's own number
    max_output_bytes: int = 0  # of one run of code; what follows is dropped; 0 is no limit


class SandboxClaimed(Struct, tag="sandbox.claimed", frozen=True):
    """The entrypoint runs. `pid` is 0 when there is none to run."""

    pid: int = 0


# -- processes ----------------------------------------


class ProcessStart(Struct, tag="process.start", frozen=True):
    """Start a process in its own session and process group.

    Exactly one of `argv` and `shell` is set; `shell` is a script for bash (sh where there is no bash).
    With `background` the process outlives the stream and the link, stdin is /dev/null, and stdout and stderr go
    merged into a bounded buffer (head and tail) that `process.output` reads; the stream ends after process.started.
    Otherwise a reset of the stream, or the loss of the link, kills its process group.
    """

    id: str  # made by the control plane, unique in the sandbox
    argv: tuple[str, ...] = ()
    shell: str = ""
    env: dict[str, str] = {}
    cwd: str = ""  # "" is the sandbox's; `~` and `$NAME` are expanded
    uid: int | None = None
    gid: int | None = None
    timeout_s: float | None = None  # then TERM to the group, and KILL two seconds later
    background: bool = False
    stdin: bool = False  # data(INPUT) is its stdin, END closes it


class ProcessStarted(Struct, tag="process.started", frozen=True):
    """The program was executed."""

    pid: int


class ProcessExited(Struct, tag="process.exited", frozen=True):
    """The end of a process, after both pipes reached EOF or the drain time ran out."""

    cause: str  # exit | signal | timeout | oom | killed
    exit_code: int  # 128 + signal number when a signal ended it
    signal: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    output_bytes: int = 0
    limits_hit: tuple[str, ...] = ()  # memory, pids: the sandbox ran into them while this ran


class ProcessOutput(Struct, tag="process.output", frozen=True):
    """Read the kept output from a byte offset to its present end. Bytes that were dropped in the middle are skipped."""

    id: str
    offset: int = 0


class ProcessState(Struct, tag="process.state", frozen=True):
    """One process as the table knows it. Ended ones stay for late readers, a bounded number of them."""

    id: str
    command: str
    pid: int
    started_at: float  # Unix time, s
    finished_at: float | None = None
    exited: ProcessExited | None = None
    output_start: int = 0  # process.output only: offset of the first byte that follows
    output_end: int = 0  # offset after the last byte kept


class ProcessList(Struct, tag="process.list", frozen=True):
    """List processes: all of them, or the one with this id (process.not_found when there is none)."""

    id: str = ""


class ProcessSignal(Struct, tag="process.signal", frozen=True):
    """Send a signal to a process group; with `kill_after_s`, KILL follows when the process still lives then."""

    id: str
    signal: int
    kill_after_s: float | None = None


# -- files ----------------------------------------


class FileRead(Struct, tag="file.read", frozen=True):
    """Read a regular file: `length` bytes from `offset` (None: to the end), or a window of lines.

    A negative offset counts from the end. `first_line` is 1-based; `lines` None means to the end.
    """

    path: str
    offset: int = 0
    length: int | None = None
    first_line: int | None = None
    lines: int | None = None


class FileWrite(Struct, tag="file.write", frozen=True):
    """Write a file whole, atomically: it has its new content, or the old one. Parent directories are made."""

    path: str
    mode: int | None = None  # permission bits
    owner: str = ""  # name or number; "" leaves it
    group: str = ""


class FileInfo(Struct, tag="file.info", frozen=True):
    """A file, not followed when it is a symlink."""

    path: str
    kind: str  # file | directory | symlink | other
    size: int
    mode: int  # permission bits
    modified_at: float  # Unix time, s
    created_at: float
    owner: str
    group: str


class FileStat(Struct, tag="file.stat", frozen=True):
    """Describe files; any missing one fails the request."""

    paths: tuple[str, ...]


class FileList(Struct, tag="file.list", frozen=True):
    """List a directory down to `depth` (1: its entries)."""

    path: str
    depth: int = 1


class FileSearch(Struct, tag="file.search", frozen=True):
    """Find files below `path` whose name, or path below it when the pattern has a slash, matches a glob."""

    path: str
    pattern: str


class FileRemove(Struct, tag="file.remove", frozen=True):
    """Remove files (symlinks themselves, never their targets). A missing one is no error; a directory is."""

    paths: tuple[str, ...]


class FileMove(Struct, tag="file.move", frozen=True):
    """Rename (source, destination) pairs. An existing destination is an error; parents are made."""

    pairs: tuple[tuple[str, str], ...]


class FileAttributes(Struct, tag="file.attributes", frozen=True):
    """What to change about one path. None and "" leave a thing as it is."""

    path: str
    mode: int | None = None
    owner: str = ""
    group: str = ""


class FileChange(Struct, tag="file.change", frozen=True):
    """Set mode, owner and group of existing files."""

    files: tuple[FileAttributes, ...]


class FileReplacement(Struct, tag="file.replacement", frozen=True):
    """Replace every `old` by `new` in one file."""

    path: str
    old: str
    new: str


class FileReplace(Struct, tag="file.replace", frozen=True):
    """Replace text in files, each atomically."""

    files: tuple[FileReplacement, ...]


class FileReplaced(Struct, tag="file.replaced", frozen=True):
    """How often the text was found in one file."""

    path: str
    count: int


class DirectoryMake(Struct, tag="directory.make", frozen=True):
    """Make directories with their parents; existing ones only have their attributes set."""

    directories: tuple[FileAttributes, ...]


class DirectoryRemove(Struct, tag="directory.remove", frozen=True):
    """Remove directories with all they hold, never following a symlink. A missing one is no error."""

    paths: tuple[str, ...]


FileRequest = (
    FileRead
    | FileWrite
    | FileStat
    | FileList
    | FileSearch
    | FileRemove
    | FileMove
    | FileChange
    | FileReplace
    | DirectoryMake
    | DirectoryRemove
)


class FileAs(Struct, tag="file.as", frozen=True):
    """Do one of the file requests with the rights of a user. Answers and errors are that request's own.

    Without `gid` the user's own groups are taken.
    """

    uid: int
    request: FileRequest
    gid: int | None = None


class FileIn(Struct, tag="file.in", frozen=True):
    """Do one of the file requests inside of an isolated session: with its view of the files, and its rights."""

    session: str
    request: FileRequest


# -- contexts ----------------------------------------


class ContextOpen(Struct, tag="context.open", frozen=True):
    """Start a context: a live interpreter of a language that the image declares."""

    id: str  # made by the control plane, unique in the sandbox
    language: str
    cwd: str = ""


class ContextPrepare(Struct, tag="context.prepare", frozen=True):
    """Make ready what the manifests mark as eager, so that the first context is quick.

    execd does not do so by itself: it takes most of a second of CPU, and only the control plane knows whether a
    hundred other containers are being started in this moment. `done` comes when it is ready, or could not be made.
    """


class ContextState(Struct, tag="context.state", frozen=True):
    """One context."""

    id: str
    language: str
    pid: int = 0
    busy: bool = False


class ContextList(Struct, tag="context.list", frozen=True):
    """List contexts: all, those of a language, or the one with this id (context.not_found when there is none)."""

    language: str = ""
    id: str = ""


class ContextLanguages(Struct, tag="context.languages", frozen=True):
    """List the languages that the image declares, and those whose declaration is wrong."""


class ContextLanguage(Struct, tag="context.language", frozen=True):
    """One of them."""

    language: str
    aliases: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    problem: str = ""  # why it cannot be used
    check: Annotated[tuple[str, ...], msgspec.Meta(max_length=2)] = ()  # code, and what its output must contain


class ContextClose(Struct, tag="context.close", frozen=True):
    """End contexts by id, or all of a language; a run that goes on ends as killed."""

    id: str = ""
    language: str = ""


class ContextInterrupt(Struct, tag="context.interrupt", frozen=True):
    """Interrupt the present run; the state stays."""

    id: str


class ContextRestart(Struct, tag="context.restart", frozen=True):
    """Begin a context anew, with its id, language and directory, and without its state: a live one, or one that died
    lately."""

    id: str


class ContextFork(Struct, tag="context.fork", frozen=True):
    """Copy a live context, once for each of `ids`: each copy has its state, and goes its own way from there.

    Waits for the runs that were asked for before. `context.not_forkable` says why it cannot be copied now: it has
    other threads, or tasks that go on between runs. All copies are made, or none.
    """

    id: str
    ids: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)]


class ContextInput(Struct, tag="context.input", frozen=True):
    """Answer the question of a run that waits for input; without a text, that there is none (end of file)."""

    id: str
    text: str | None = None


class ContextComplete(Struct, tag="context.complete", frozen=True):
    """What could stand at the cursor? Waits for the runs that were asked for before."""

    id: str
    code: str
    cursor: int  # in characters


class ContextCompletion(Struct, tag="context.completion", frozen=True):
    """What may stand in place of the characters from `start` to `end`."""

    matches: Matches
    start: int
    end: int


class ContextInspect(Struct, tag="context.inspect", frozen=True):
    """What is the name at the cursor? Waits for the runs that were asked for before."""

    id: str
    code: str
    cursor: int  # in characters
    detail: bool = False  # with its source


class ContextInspection(Struct, tag="context.inspection", frozen=True):
    """What is known of it, by MIME type; nothing when it is unknown."""

    data: MimeBundle


class ContextRun(Struct, tag="context.run", frozen=True):
    """Run code in a context; runs in one context queue in order. A reset of the stream interrupts or unqueues it."""

    id: str
    code: str
    timeout_s: float | None = None
    input: bool = False  # somebody can answer context.prompt; without, code that asks meets the end of file


class ContextPrompt(Struct, tag="context.prompt", frozen=True):
    """The run waits for a line of text: answer with context.input."""

    prompt: str
    password: bool = False


class ContextResult(Struct, tag="context.result", frozen=True):
    """A value shown: MIME type → text (binary types in base64). `kind` is `result` or `display`."""

    kind: str
    data: MimeBundle
    execution_count: int = 0
    display_id: Annotated[str, msgspec.Meta(max_length=MAX_DISPLAY_ID)] = ""  # of a display that may be updated
    update: bool = False  # it takes the place of what was shown under that id


class CodeFrame(Struct, frozen=True):
    """One call in a traceback. What a runner does not know is empty, or 0."""

    file: str  # a path, or what the language's own traceback calls the code of a run
    line: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)] = 0  # from 1
    function: str = ""
    code: str = ""  # the line's text


Frames = Annotated[tuple[CodeFrame, ...], msgspec.Meta(max_length=1000)]


class ContextError(Struct, tag="context.error", frozen=True):
    """The code raised. The context lives on unless `context.done` says otherwise."""

    name: str
    value: str
    traceback: Traceback = ()
    frames: Frames = ()  # the innermost last


class ContextDone(Struct, tag="context.done", frozen=True):
    """The run is over."""

    cause: str  # ok | error | interrupted | timeout | died
    execution_count: int = 0
    wall_s: float = 0.0
    message: str = ""  # why it died
    died_of: str = ""  # exit | signal | oom | killed | protocol
    exit_code: int = 0  # of a context that died, or of code in a shell; 128 + signal number when a signal ended it
    cpu_s: float = 0.0  # of its process and of the children that it waited for
    peak_memory_bytes: int = 0  # of its process, during this run
    output_bytes: int = 0
    limits_hit: tuple[str, ...] = ()  # memory, pids: the sandbox ran into them while this ran


# -- sessions ----------------------------------------


class IsolationMount(Struct, frozen=True):
    """A directory of the sandbox, at the same path in the session."""

    path: str  # absolute
    mode: str  # rw: as it is; ro: read-only; overlay: what the session writes is seen by it alone, and ends with it


class IsolationBind(Struct, frozen=True):
    """A file or directory of the sandbox, at another path in the session."""

    source: str  # both absolute
    target: str
    read_only: bool


class Isolation(Struct, frozen=True):
    """What a session in namespaces of its own sees and may do. All that is not named here it sees read-only."""

    mounts: Annotated[tuple[IsolationMount, ...], msgspec.Meta(min_length=1, max_length=16)]  # it begins in the first
    binds: Annotated[tuple[IsolationBind, ...], msgspec.Meta(max_length=128)] = ()
    network: bool = True  # that of the sandbox; else only a loopback of its own
    env_only: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] | None = None  # variables it gets; None: all,
    env_without: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()  # but these
    uid: int | None = None  # it runs as this user
    gid: int | None = None
    only_called: bool = False  # these numbers are what it sees; to the sandbox it stays what execd is
    idle_s: int = 0  # it is closed when nothing has run in it for so long; 0: never


class SessionOpen(Struct, tag="session.open", frozen=True):
    """Start a session: a live bash."""

    id: str  # made by the control plane, unique among the sandbox's sessions
    cwd: str = ""  # "" is the sandbox's; `~` and `$NAME` are expanded; of no meaning with isolation
    isolation: Isolation | None = None  # in namespaces of its own; when its shell ends, the session is dead
    memo: str = ""  # given back in session.state


class SessionRun(Struct, tag="session.run", frozen=True):
    """Run code in a session; runs queue in order. A reset of the stream interrupts or unqueues it.

    `done` says that it is there; a shell that ended with its last run is begun anew.
    """

    id: str
    code: str
    cwd: str = ""  # go there first, and stay; "" is where the last run went
    timeout_s: float | None = None
    env: dict[str, str] = {}  # exported into the shell first
    job: str = ""  # an id: run it in the background of an isolated session; this run ends when that has begun


class SessionList(Struct, tag="session.list", frozen=True):
    """List isolated sessions: all, or the one with this id (session.not_found when there is none)."""

    id: str = ""


class SessionState(Struct, tag="session.state", frozen=True):
    """One isolated session."""

    id: str
    alive: bool  # its shell is
    created_at: float  # Unix time, s
    last_run_at: float  # created_at before there was one
    idle_left_s: int | None  # None: it is never closed for being idle
    memo: Annotated[str, msgspec.Meta(max_length=100_000)] = ""


class SessionJob(Struct, tag="session.job", frozen=True):
    """Describe a background job of an isolated session, and read what it has printed since `offset`, if that is set."""

    id: str
    job: str
    offset: int | None = None


class JobState(Struct, tag="job.state", frozen=True):
    """One background job."""

    job: str
    started_at: float  # Unix time, s
    finished_at: float | None  # None: it goes on
    exit_code: int | None  # None: it goes on, or its session ended first
    error: str = ""  # why it ended without an exit code
    output_bytes: int = 0  # so far
    cpu_s: float = 0.0  # once it has ended by itself


class SessionInterrupt(Struct, tag="session.interrupt", frozen=True):
    """Interrupt the present run; the shell stays."""

    id: str


class SessionClose(Struct, tag="session.close", frozen=True):
    """End a session with all it runs."""

    id: str


class IsolationRead(Struct, tag="isolation.read", frozen=True):
    """Try whether sessions can be isolated here."""


class IsolationState(Struct, tag="isolation.state", frozen=True):
    """What was found."""

    available: bool
    message: str = ""  # why not
    version: str = ""  # of bubblewrap
    is_init: bool = False  # execd is process 1: the kernel keeps signals of the sandbox's processes from it
    seccomp: bool = False  # the kernel filters the sandbox's system calls
    capped: bool = False  # there are capabilities that no process of the sandbox can get


# -- terminals ----------------------------------------


class PtyOpen(Struct, tag="pty.open", frozen=True):
    """Make a terminal. Its program starts when somebody attaches: `command` in a shell, or else the shell itself."""

    id: str  # made by the control plane, unique among the sandbox's terminals
    command: str = ""
    env: dict[str, str] = {}
    cwd: str = ""  # "" is the sandbox's; `~` and `$NAME` are expanded
    uid: int | None = None
    gid: int | None = None
    cols: int = 80
    rows: int = 24


class PtyAttach(Struct, tag="pty.attach", frozen=True):
    """Be the client of a terminal: what is kept of its output from `since` on, then what comes, up to its end.

    data(INPUT) is what is typed. The loss of this stream leaves the terminal as it is. With another client there,
    `takeover` resets that one's stream with `pty.taken`; without, the answer is `pty.attached`.
    """

    id: str
    since: int = 0
    takeover: bool = False
    pipes: bool = False  # when this starts the program: no PTY, and stdout and stderr apart


class PtyState(Struct, tag="pty.state", frozen=True):
    """One terminal."""

    id: str
    running: bool
    pid: int = 0  # 0: not started yet
    output_start: int = 0  # pty.attach only: offset of the first byte that follows
    output_end: int = 0  # offset after the last byte it has said so far
    terminal: bool = False  # a PTY, and not pipes


class PtyResize(Struct, tag="pty.resize", frozen=True):
    """Set the size of the window."""

    id: str
    cols: int
    rows: int


class PtySignal(Struct, tag="pty.signal", frozen=True):
    """Signal what is in the foreground of a terminal."""

    id: str
    signal: int


class PtyList(Struct, tag="pty.list", frozen=True):
    """List terminals: all of them, or the one with this id (pty.not_found when there is none)."""

    id: str = ""


class PtyClose(Struct, tag="pty.close", frozen=True):
    """Hang up: HUP, and KILL two seconds later. The terminal is forgotten."""

    id: str


# -- ports ----------------------------------------


class PortConnect(Struct, tag="port.connect", frozen=True):
    """Connect to a service on the loopback of the sandbox. After `done` the stream is that TCP connection, both ways;
    END is its end in one direction."""

    port: int


# -- the rest ----------------------------------------


class MetricsRead(Struct, tag="metrics.read", frozen=True):
    """Read the sandbox's own use of CPU and memory."""


class Metrics(Struct, tag="metrics", frozen=True):
    """From the sandbox's cgroup; -1 where the kernel does not tell (the control plane then asks the engine)."""

    cpu_count: float
    cpu_used_pct: float  # of `cpu_count`, since the last reading or over 50 ms
    memory_total_bytes: int
    memory_used_bytes: int
    at: float  # Unix time, s


class Done(Struct, tag="done", frozen=True):
    """It has been done; there is nothing to tell."""


Request = (
    SandboxClaim
    | ProcessStart
    | ProcessOutput
    | ProcessList
    | ProcessSignal
    | FileRead
    | FileWrite
    | FileStat
    | FileList
    | FileSearch
    | FileRemove
    | FileMove
    | FileChange
    | FileReplace
    | DirectoryMake
    | DirectoryRemove
    | FileAs
    | FileIn
    | ContextOpen
    | ContextPrepare
    | ContextList
    | ContextLanguages
    | ContextClose
    | ContextInterrupt
    | ContextRestart
    | ContextFork
    | ContextInput
    | ContextComplete
    | ContextInspect
    | ContextRun
    | SessionOpen
    | SessionRun
    | SessionList
    | SessionJob
    | SessionInterrupt
    | SessionClose
    | IsolationRead
    | PtyOpen
    | PtyAttach
    | PtyResize
    | PtySignal
    | PtyList
    | PtyClose
    | PortConnect
    | MetricsRead
)
Reply = (
    SandboxClaimed
    | ProcessStarted
    | ProcessExited
    | ProcessState
    | FileInfo
    | FileReplaced
    | ContextState
    | ContextLanguage
    | ContextCompletion
    | ContextInspection
    | ContextResult
    | ContextError
    | ContextPrompt
    | ContextDone
    | SessionState
    | JobState
    | IsolationState
    | PtyState
    | Metrics
    | Done
)

Message = Request | Reply

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_hello_decoder = msgspec.msgpack.Decoder(Hello)
_problem_decoder = msgspec.msgpack.Decoder(Problem)


def encode_message(message: Message | Hello | Problem) -> bytes:
    """Return the message as msgpack."""
    return _encoder.encode(message)


def decode_request(payload: bytes | bytearray) -> Request:
    """Decode what the control plane sent. Raises RemoteProtocolError."""
    request: Request = _decode(_request_decoder, payload)
    return request


def decode_reply(payload: bytes | bytearray) -> Reply:
    """Decode what execd sent. Raises RemoteProtocolError."""
    reply: Reply = _decode(_reply_decoder, payload)
    return reply


def decode_hello(payload: bytes | bytearray) -> Hello:
    """Decode a HELLO frame. Raises RemoteProtocolError."""
    hello: Hello = _decode(_hello_decoder, payload)
    return hello


def decode_problem(payload: bytes | bytearray) -> Problem:
    """Decode a RESET frame. Raises RemoteProtocolError."""
    problem: Problem = _decode(_problem_decoder, payload)
    return problem


def _decode(decoder: msgspec.msgpack.Decoder[Any], payload: bytes | bytearray) -> Any:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"undecodable message: {error}") from error
