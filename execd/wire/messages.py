"""The messages of HELLO, OPEN, MESSAGE and RESET frames: tagged msgspec Structs as msgpack arrays.

A stream begins with one request of the control plane, and carries the replies that are listed beside the request. A
request that fails is answered by RESET with a Problem. Rules for changes: new fields come at the end and have defaults;
no field ever changes its type; the tags are permanent. Anything else is a new GENERATION. Collections in replies are
bounded, because sixteen megabytes of empty strings take a hundred megabytes in memory.

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
    run.record         run.item*                                                       END
    run.resume         run.state, run.item*                                            END
    run.find           run.state                                                       END
    run.end            done                                                            END
    isolation.read     isolation.state                                                 END
    pty.open           done                                                            END
    pty.attach         pty.state, data(STDOUT, STDERR)*, process.exited; data(INPUT)* to it  END
    pty.resize         done                                                            END
    pty.signal         done                                                            END
    pty.list           pty.state*                                                      END
    pty.close          done                                                            END
    port.connect       done; then data(INPUT)* END to, and data(STDOUT)* from it       END
    metrics.read       metrics                                                         END
    activity.read      activity.range, activity.item*                                  END
    activity.note      done                                                            END
    request.by         as the request in it: any                                       END
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from .discreet import Discreet
from .errors import RemoteProtocolError

# Each side offers its generation in Hello, and the lower one applies. Warm containers outlive an upgrade of the server.
GENERATION = 3
# The first generations that have certain requests; an earlier execd breaks the link over them.
RECORDS_SINCE = 2  # run.*
ACTIVITY_SINCE = 3  # activity.*, request.by


# Generous for any program, and a bound for a hostile one. execd also applies it to runners.
MimeBundle = Annotated[dict[str, str], msgspec.Meta(max_length=1000)]
Traceback = Annotated[tuple[str, ...], msgspec.Meta(max_length=100_000)]
MAX_NUMBER = 2**63 - 1  # the largest number of msgpack; JSON has larger ones, but what a runner says must be passed on
MAX_DISPLAY_ID = 200  # characters
MAX_COPIES = 64  # of a context, made by one request
Matches = Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)]

# The control plane keeps, logs and lists texts of replies, and a hijacked execd chooses them. Each text has one of
# these kinds, and `decode_reply` cuts it to the length of its kind. What only the caller of a run sees is not cut: its
# output, its results and its traceback.
MAX_WORD_CHARS = 256  # a cause, an id, the name of a language or a user: real ones are shorter
MAX_SENTENCE_CHARS = 1000  # for people; the length of a Problem's message
MAX_PATH_CHARS = 4096  # PATH_MAX, which execd applies
MAX_COMMAND_CHARS = 8 << 10  # a script may have megabytes, and a thousand ended processes are remembered
CUT = "cut"
Word = Annotated[str, msgspec.Meta(extra={CUT: MAX_WORD_CHARS})]
Sentence = Annotated[str, msgspec.Meta(extra={CUT: MAX_SENTENCE_CHARS})]
Path = Annotated[str, msgspec.Meta(extra={CUT: MAX_PATH_CHARS})]
Command = Annotated[str, msgspec.Meta(extra={CUT: MAX_COMMAND_CHARS})]
LimitsHit = Annotated[tuple[Word, ...], msgspec.Meta(max_length=16)]  # there are two: memory, pids


class Struct(msgspec.Struct, frozen=True, array_like=True):
    """Base of all: immutable, a msgpack array whose first item is the tag."""


class Hello(Struct, tag="hello", frozen=True):
    """The first frame in each direction, on stream 0."""

    generation: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    version: Annotated[str, msgspec.Meta(max_length=100)]  # of the distribution, for the log only


class Problem(Struct, tag="problem", frozen=True):
    """The reason why a stream was reset. `code` is stable: `file.not_found`, `process.spawn_failed`, `internal` …"""

    code: Annotated[str, msgspec.Meta(max_length=64)]
    message: Annotated[str, msgspec.Meta(max_length=1000)]

    def clipped(self) -> Problem:
        """Return the problem with as much text as may travel, and without text that UTF-8 cannot encode."""
        message = self.message[:1000].encode("utf-8", "backslashreplace").decode()
        return Problem(self.code[:64], message[:1000])


class Done(Struct, tag="done", frozen=True):
    """The request has been carried out; there is nothing else to report."""


# -- sandbox


ENTRYPOINT_ID = "entrypoint"  # the id of the entrypoint's process, under which its output can be read


class SandboxClaim(Discreet, Struct, tag="sandbox.claim", frozen=True):
    """Bind the container to one sandbox.

    The stream stays open, and ends with process.exited when the entrypoint ends. Another claim with the same id (after
    a restart of the control plane) changes neither the variables nor the entrypoint, and follows the same entrypoint.
    """

    id: str
    env: dict[str, str] = {}
    entrypoint: tuple[str, ...] = ()
    cwd: str = ""
    max_contexts: int = 0  # at once; 0: execd's own limit
    max_output_bytes: int = 0  # of one run of code; what follows is dropped; 0: no limit
    max_recorded_bytes: int = 0  # of all recorded runs together; 0: execd's own limit
    activity: str = ""  # outline | full; anything else: no activity is kept
    max_activity_entries: int = 0  # 0: execd's own limit
    max_activity_bytes: int = 0  # 0: execd's own limit


class SandboxClaimed(Struct, tag="sandbox.claimed", frozen=True):
    """The claim is in effect. `pid` is that of the entrypoint, or 0 if there is none."""

    pid: int = 0


# -- processes


class ProcessStart(Discreet, Struct, tag="process.start", frozen=True):
    """Start a process in its own session and process group.

    Exactly one of `argv` and `shell` is set; `shell` is a script for bash, or for sh if there is no bash.
    With `background` the process outlives the stream and the link, stdin is /dev/null, and stdout and stderr go
    merged into a bounded buffer (head and tail) that `process.output` reads; the stream ends after process.started.
    Otherwise a reset of the stream, or the loss of the link, kills the process group.
    """

    id: str  # made by the control plane, unique in the sandbox
    argv: tuple[str, ...] = ()
    shell: str = ""
    env: dict[str, str] = {}
    cwd: str = ""  # "" is the sandbox's; `~` and `$NAME` are expanded
    uid: int | None = None
    gid: int | None = None
    timeout_s: float | None = None  # then TERM to the process group, and KILL two seconds later
    background: bool = False
    stdin: bool = False  # data(INPUT) is its stdin, END closes it


class ProcessStarted(Struct, tag="process.started", frozen=True):
    """The program was executed."""

    pid: int


class ProcessExited(Struct, tag="process.exited", frozen=True):
    """The end of a process, after both pipes have reached EOF or the drain time is over."""

    cause: Word  # exit | signal | timeout | oom | killed
    exit_code: int  # 128 + the signal's number if a signal ended it
    signal: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    output_bytes: int = 0
    limits_hit: LimitsHit = ()  # memory, pids: limits that the sandbox met meanwhile
    notice: Sentence = ""  # what the sandbox asked for and does not have, such as a version; in its first receipt


class ProcessOutput(Struct, tag="process.output", frozen=True):
    """Read the kept output from a byte offset to its present end. Bytes that were dropped in the middle are skipped.

    With `as_text`, the present end is the end of a whole character while the process runs. Where bytes were dropped,
    the output is cut at the ends of lines, and a line of its own says how many bytes are missing.
    """

    id: str
    offset: int = 0
    as_text: bool = False


class ProcessState(Struct, tag="process.state", frozen=True):
    """The state of one process. A bounded number of ended processes is kept for late readers."""

    id: Word
    command: Command
    pid: int
    started_at: float  # Unix time, s
    finished_at: float | None = None
    exited: ProcessExited | None = None
    output_start: int = 0  # process.output only: the offset of the first byte that follows
    output_end: int = 0  # the offset after the last byte kept; process.output: after the last byte that follows


class ProcessList(Struct, tag="process.list", frozen=True):
    """List all processes, or the one with this id (process.not_found if there is none)."""

    id: str = ""


class ProcessSignal(Struct, tag="process.signal", frozen=True):
    """Send a signal to a process group; with `kill_after_s`, send KILL if the process is still alive then."""

    id: str
    signal: int
    kill_after_s: float | None = None


# -- files


class FileRead(Struct, tag="file.read", frozen=True):
    """Read a regular file: `length` bytes from `offset` (None: to the end), or a window of lines.

    A negative offset counts from the end. `first_line` is 1-based; `lines` None means to the end. A window has a
    newline between two lines and none after the last; a carriage return before a line end is cut.
    """

    path: str
    offset: int = 0
    length: int | None = None
    first_line: int | None = None
    lines: int | None = None


class FileWrite(Struct, tag="file.write", frozen=True):
    """Write a file whole and atomically: it has either its new or its old content. Parent directories are created."""

    path: str
    mode: int | None = None  # permission bits
    owner: str = ""  # name or number; "" leaves it unchanged
    group: str = ""


class FileInfo(Struct, tag="file.info", frozen=True):
    """The description of a file. A symlink is not followed."""

    path: Path
    kind: Word  # file | directory | symlink | other
    size: int
    mode: int  # permission bits
    modified_at: float  # Unix time, s
    created_at: float
    owner: Word
    group: Word


class FileStat(Struct, tag="file.stat", frozen=True):
    """Describe files. The request fails if one of them does not exist."""

    paths: tuple[str, ...]


class FileList(Struct, tag="file.list", frozen=True):
    """List a directory down to `depth` (1: its entries)."""

    path: str
    depth: int = 1


class FileSearch(Struct, tag="file.search", frozen=True):
    """Find files below `path` by a glob on their names, or on their paths below `path` if it has a slash."""

    path: str
    pattern: str


class FileRemove(Struct, tag="file.remove", frozen=True):
    """Remove files, and symlinks without their targets. A missing file is no error; a directory is one."""

    paths: tuple[str, ...]


class FileMove(Struct, tag="file.move", frozen=True):
    """Rename (source, destination) pairs. An existing destination is an error; parents are created."""

    pairs: tuple[tuple[str, str], ...]


class FileAttributes(Struct, tag="file.attributes", frozen=True):
    """The attributes to set on one path. None and "" leave an attribute unchanged."""

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
    """Replace text in files, in each of them atomically."""

    files: tuple[FileReplacement, ...]


class FileReplaced(Struct, tag="file.replaced", frozen=True):
    """How often the text was found in one file."""

    path: Path
    count: int


class DirectoryMake(Struct, tag="directory.make", frozen=True):
    """Create directories with their parents. Existing ones only get their attributes."""

    directories: tuple[FileAttributes, ...]


class DirectoryRemove(Struct, tag="directory.remove", frozen=True):
    """Remove directories with all their content, without following a symlink. A missing one is no error."""

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
    """Carry out one of the file requests with the rights of a user. Replies and errors are those of that request.

    Without `gid` the groups of the user are taken.
    """

    uid: int
    request: FileRequest
    gid: int | None = None


class FileIn(Struct, tag="file.in", frozen=True):
    """Carry out one of the file requests inside of an isolated session, with its view of the files and its rights."""

    session: str
    request: FileRequest


# -- contexts


class ContextOpen(Struct, tag="context.open", frozen=True):
    """Start a context: a live interpreter of a language that the image declares."""

    id: str  # made by the control plane, unique in the sandbox
    language: str
    cwd: str = ""


class ContextPrepare(Struct, tag="context.prepare", frozen=True):
    """Make a language ready, or all that the manifests mark as eager, so that the first context starts quickly.

    execd does not do so by itself: it takes most of a second of CPU, and only the control plane knows whether a
    hundred other containers are starting at the same moment. `done` is sent when the languages are ready, or could not
    be made ready, or are held because contexts start or run code. The work continues when those have ended.
    """

    language: str = ""


class ContextState(Struct, tag="context.state", frozen=True):
    """The state of one context."""

    id: Word
    language: Word
    pid: int = 0
    busy: bool = False


class ContextList(Struct, tag="context.list", frozen=True):
    """List all contexts, those of a language, or the one with this id (context.not_found if there is none)."""

    language: str = ""
    id: str = ""


class ContextLanguages(Struct, tag="context.languages", frozen=True):
    """List the languages that the image declares, and those whose declaration is wrong."""


class ContextLanguage(Struct, tag="context.language", frozen=True):
    """One language."""

    language: Word
    aliases: Annotated[tuple[Word, ...], msgspec.Meta(max_length=256)] = ()
    problem: Sentence = ""  # why it cannot be used
    check: Annotated[tuple[Command, ...], msgspec.Meta(max_length=2)] = ()  # code, and what its output must contain
    variable: Word = ""  # by which the claim chooses among several versions
    version: Word = ""  # the version that is chosen
    versions: Annotated[tuple[Word, ...], msgspec.Meta(max_length=256)] = ()


class ContextClose(Struct, tag="context.close", frozen=True):
    """End contexts by id, or all of a language. A run that goes on ends as killed."""

    id: str = ""
    language: str = ""


class ContextInterrupt(Struct, tag="context.interrupt", frozen=True):
    """Interrupt the present run. The state of the context stays."""

    id: str


class ContextRestart(Struct, tag="context.restart", frozen=True):
    """Start a context anew, with its id, language and directory, and without its state.

    The context is alive, or has ended lately.
    """

    id: str


class ContextFork(Struct, tag="context.fork", frozen=True):
    """Copy a live context, once for each of `ids`. Each copy starts with the state of the context.

    The request waits for the runs that were asked for before. `context.not_forkable` says why the context cannot be
    copied now: it has other threads, or tasks that go on between runs. Either all copies are made, or none.
    """

    id: str
    ids: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_COPIES)]


class ContextInput(Struct, tag="context.input", frozen=True):
    """Give a run the line of input that it waits for. No text means the end of the input."""

    id: str
    text: str | None = None


class ContextComplete(Struct, tag="context.complete", frozen=True):
    """List what could stand at the cursor. The request waits for the runs that were asked for before."""

    id: str
    code: str
    cursor: int  # in characters


class ContextCompletion(Struct, tag="context.completion", frozen=True):
    """What may replace the characters from `start` to `end`."""

    matches: Matches
    start: int
    end: int


class ContextInspect(Struct, tag="context.inspect", frozen=True):
    """Describe the name at the cursor. The request waits for the runs that were asked for before."""

    id: str
    code: str
    cursor: int  # in characters
    detail: bool = False  # with its source


class ContextInspection(Struct, tag="context.inspection", frozen=True):
    """What is known of the name, by MIME type. Empty: the name is unknown."""

    data: MimeBundle


class ContextRun(Struct, tag="context.run", frozen=True):
    """Run code in a context.

    Runs in one context queue in order. A reset of the stream interrupts or unqueues the run.
    """

    id: str
    code: str
    timeout_s: float | None = None
    input: bool = False  # a client can answer context.prompt; otherwise code that asks for input meets its end


class ContextPrompt(Struct, tag="context.prompt", frozen=True):
    """The run waits for a line of text: answer with context.input."""

    prompt: str
    password: bool = False


class ContextResult(Struct, tag="context.result", frozen=True):
    """A value that is shown: MIME type → text (binary types in base64). `kind` is `result` or `display`."""

    kind: Word
    data: MimeBundle
    execution_count: int = 0
    display_id: Annotated[str, msgspec.Meta(max_length=MAX_DISPLAY_ID)] = ""  # of a display that may be updated
    update: bool = False  # this replaces what was shown under that id


class CodeFrame(Struct, frozen=True):
    """One call in a traceback. What a runner does not know is empty, or 0."""

    file: str  # a path, or the name that tracebacks of the language give to the code of a run
    line: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)] = 0  # from 1
    function: str = ""
    code: str = ""  # the text of the line


Frames = Annotated[tuple[CodeFrame, ...], msgspec.Meta(max_length=1000)]


class ContextError(Struct, tag="context.error", frozen=True):
    """The code has raised an exception. The context lives on unless `context.done` says otherwise."""

    name: str
    value: str
    traceback: Traceback = ()
    frames: Frames = ()  # the innermost last


class ContextDone(Struct, tag="context.done", frozen=True):
    """The run is over."""

    cause: Word  # ok | error | interrupted | timeout | died
    execution_count: int = 0
    wall_s: float = 0.0
    message: Sentence = ""  # why the context died
    died_of: Word = ""  # exit | signal | oom | killed | protocol
    exit_code: int = 0  # of a context that died, or of code in a shell; 128 + the signal's number if a signal ended it
    cpu_s: float = 0.0  # of its process, and of the children that it waited for
    peak_memory_bytes: int = 0  # of its process, during this run
    output_bytes: int = 0
    limits_hit: LimitsHit = ()  # memory, pids: limits that the sandbox met meanwhile
    notice: Sentence = (
        ""  # in a first receipt: a version that the sandbox does not have; what died in the context's place
    )


# -- sessions


class IsolationMount(Struct, frozen=True):
    """A directory of the sandbox, at the same path in the session."""

    path: str  # absolute
    mode: str  # rw: unchanged; ro: read-only; overlay: what the session writes is visible to it alone, and ends with it


class IsolationBind(Struct, frozen=True):
    """A file or directory of the sandbox, at another path in the session."""

    source: str  # both absolute
    target: str
    read_only: bool


class Isolation(Struct, frozen=True):
    """What an isolated session sees and may do. It sees everything else read-only."""

    # The session begins in the first.
    mounts: Annotated[tuple[IsolationMount, ...], msgspec.Meta(min_length=1, max_length=16)]
    binds: Annotated[tuple[IsolationBind, ...], msgspec.Meta(max_length=128)] = ()
    network: bool = True  # the network of the sandbox; otherwise only a loopback of its own
    # Variables that the session gets; None: all,.
    env_only: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] | None = None
    env_without: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()  # except these
    uid: int | None = None  # the session runs as this user
    gid: int | None = None
    only_called: bool = False  # the session sees these numbers; to the sandbox it is what execd is
    idle_s: int = 0  # the session is closed when nothing has run in it for so long; 0: never


class SessionOpen(Struct, tag="session.open", frozen=True):
    """Start a session: a live bash."""

    id: str  # made by the control plane, unique among the sandbox's sessions
    cwd: str = ""  # "" is the sandbox's; `~` and `$NAME` are expanded; ignored with isolation
    isolation: Isolation | None = None  # in namespaces of its own; the session ends with its shell
    memo: str = ""  # given back in session.state


class SessionRun(Discreet, Struct, tag="session.run", frozen=True):
    """Run code in a session. Runs queue in order. A reset of the stream interrupts or unqueues the run.

    `done` says that the session exists. A shell that ended with its last run is started anew.
    """

    id: str
    code: str
    cwd: str = ""  # go there first, and stay; "": stay where the last run went
    timeout_s: float | None = None
    env: dict[str, str] = {}  # exported into the shell first
    job: str = ""  # an id: run it in the background of an isolated session; this run ends when that has begun


class SessionList(Struct, tag="session.list", frozen=True):
    """List all isolated sessions, or the one with this id (session.not_found if there is none)."""

    id: str = ""


class SessionState(Struct, tag="session.state", frozen=True):
    """The state of one isolated session."""

    id: Word
    alive: bool  # whether its shell is alive
    created_at: float  # Unix time, s
    last_run_at: float  # equals created_at before the first run
    idle_left_s: int | None  # None: it is never closed for being idle
    memo: Annotated[str, msgspec.Meta(max_length=100_000)] = ""


class SessionJob(Struct, tag="session.job", frozen=True):
    """Describe a background job of an isolated session. With `offset`, read its output from there on.

    While the job runs, the output that is read ends with a whole character.
    """

    id: str
    job: str
    offset: int | None = None


class JobState(Struct, tag="job.state", frozen=True):
    """The state of one background job."""

    job: Word
    started_at: float  # Unix time, s
    finished_at: float | None  # None: the job goes on
    exit_code: int | None  # None: the job goes on, or its session ended first
    error: Sentence = ""  # why the job ended without an exit code
    output_bytes: int = 0  # so far
    cpu_s: float = 0.0  # once the job has ended by itself
    output_end: int | None = None  # with an offset: the offset after the last byte that follows


class SessionInterrupt(Struct, tag="session.interrupt", frozen=True):
    """Interrupt the present run. The shell stays."""

    id: str


class SessionClose(Struct, tag="session.close", frozen=True):
    """End a session and everything that runs in it."""

    id: str


# -- recorded runs


RecordedRequest = ProcessStart | ContextRun | SessionRun


class RunRecord(Struct, tag="run.record", frozen=True):
    """Start a run that outlives its reader. execd records what the run says, and sends the recording on this stream.

    A reset of the stream, or the loss of the link, removes the reader and nothing else. A run whose last reader left
    `keep_s` seconds ago is ended and forgotten. `run.too_many` says that too many recorded runs go on.
    A failure before the run has said anything resets the stream, and nothing is kept.
    """

    id: str  # made by the control plane, unique among the sandbox's recorded runs
    keep_s: Annotated[int, msgspec.Meta(ge=1)]
    request: RecordedRequest  # in the foreground, and without input
    lines: bool = False  # cut output at the ends of lines; otherwise between characters


class RunResume(Struct, tag="run.resume", frozen=True):
    """Read a recorded run from the item after number `after` on, in place of its reader, which gets `run.taken`.

    `run.not_found`: no such run is recorded. `run.lost`: that item is not kept any more, or was never recorded.
    """

    id: str
    after: int = 0


class RunFind(Struct, tag="run.find", frozen=True):
    """Describe a recorded run, whether or not it has a reader."""

    id: str


class RunEnd(Struct, tag="run.end", frozen=True):
    """End a recorded run if it still goes on, and forget it. A reader gets `run.not_found`."""

    id: str


MAX_TAIL_BYTES = 8
Tail = Annotated[tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_TAIL_BYTES)], ...], msgspec.Meta(max_length=3)]


class RunState(Struct, tag="run.state", frozen=True):
    """What a reader of a recorded run must know to continue after an item as if it had read all items before."""

    kind: Word  # process | context | session
    place: Word  # the id of its context or session; "" of a process
    lines: bool
    timeout_s: float | None
    stdout: Tail = ()  # the last bytes of the last outputs before that item, the newest last
    stderr: Tail = ()
    raised: bool = False  # a context.error came before that item
    counted: bool = False  # a context.result with an execution count came before that item
    is_over: bool = False  # that item is the last one


class RunOutput(Struct, tag="run.output", frozen=True):
    """Output of a recorded run, in whole lines or whole characters where the run's output allows that."""

    channel: int  # as the flags of a DATA frame: 1 stdout, 2 stderr
    data: bytes


class RunItem(Struct, tag="run.item", frozen=True):
    """One item of a recording. Numbers count from 1 without a gap; the first item says that the run has begun.

    A problem ends a run, as a reset would end the run's own stream.
    """

    number: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
    said: (
        RunOutput
        | Done
        | ProcessStarted
        | ProcessExited
        | ContextResult
        | ContextError
        | ContextPrompt
        | ContextDone
        | Problem
    )


class IsolationRead(Struct, tag="isolation.read", frozen=True):
    """Find out by a trial whether sessions can be isolated here."""


class IsolationState(Struct, tag="isolation.state", frozen=True):
    """The result of the trial."""

    available: bool
    message: Sentence = ""  # why sessions cannot be isolated
    version: Word = ""  # of bubblewrap
    is_init: bool = False  # execd is process 1: the kernel protects it from signals of the sandbox's processes
    seccomp: bool = False  # the kernel filters the sandbox's system calls
    capped: bool = False  # there are capabilities that no process of the sandbox can get


# -- terminals


class PtyOpen(Discreet, Struct, tag="pty.open", frozen=True):
    """Open a terminal. Its program starts when a client attaches: `command` in a shell, or else the shell itself."""

    id: str  # made by the control plane, unique among the sandbox's terminals
    command: str = ""
    env: dict[str, str] = {}
    cwd: str = ""  # "" is the sandbox's; `~` and `$NAME` are expanded
    uid: int | None = None
    gid: int | None = None
    cols: int = 80
    rows: int = 24


class PtyAttach(Struct, tag="pty.attach", frozen=True):
    """Attach to a terminal: read the kept output from `since` on, then what follows, up to the end of the program.

    data(INPUT) is what the client types. The loss of this stream leaves the terminal unchanged. If another client is
    attached, `takeover` resets its stream with `pty.taken`; without `takeover` the answer is `pty.attached`.
    """

    id: str
    since: int = 0
    takeover: bool = False
    pipes: bool = False  # if this attachment starts the program: no PTY, and stdout and stderr apart


class PtyState(Struct, tag="pty.state", frozen=True):
    """The state of one terminal."""

    id: Word
    running: bool
    pid: int = 0  # 0: not started yet
    output_start: int = 0  # pty.attach only: the offset of the first byte that follows
    output_end: int = 0  # the offset after the last byte of its output
    terminal: bool = False  # a PTY, not pipes


class PtyResize(Struct, tag="pty.resize", frozen=True):
    """Set the size of the window."""

    id: str
    cols: int
    rows: int


class PtySignal(Struct, tag="pty.signal", frozen=True):
    """Send a signal to the foreground of a terminal."""

    id: str
    signal: int


class PtyList(Struct, tag="pty.list", frozen=True):
    """List all terminals, or the one with this id (pty.not_found if there is none)."""

    id: str = ""


class PtyClose(Struct, tag="pty.close", frozen=True):
    """Hang up: HUP, and KILL two seconds later. The terminal is forgotten."""

    id: str


# -- ports


class PortConnect(Struct, tag="port.connect", frozen=True):
    """Connect to a service on the loopback of the sandbox.

    After `done` the stream is that TCP connection, both ways; END is its end in one direction.
    """

    port: int


# -- the rest


class MetricsRead(Struct, tag="metrics.read", frozen=True):
    """Read the sandbox's own use of CPU and memory; in detail, also its processes and its network."""

    detail: bool = False


class ListeningPort(Struct, frozen=True):
    """A TCP port at which a program in the sandbox listens."""

    port: int
    address: Word


MAX_PORTS = 1000  # listening ports of a sandbox that are told


class Metrics(Struct, tag="metrics", frozen=True):
    """The usage in the sandbox's cgroup.

    -1 means that the kernel does not report it; the control plane then asks the engine. The last three are told in
    detail only, and an earlier agent does not tell them.
    """

    cpu_count: float
    cpu_used_pct: float  # of `cpu_count`, since the last reading or over 50 ms
    memory_total_bytes: int
    memory_used_bytes: int
    at: float  # Unix time, s
    processes: int = -1
    connections: int = -1  # established, both ways
    ports: Annotated[tuple[ListeningPort, ...], msgspec.Meta(max_length=MAX_PORTS)] = ()


# -- activity


class ActivityRead(Struct, tag="activity.read", frozen=True):
    """Read the activity of the sandbox: the entries after number `after`, at most `limit` of them (0: all).

    With `follow`, the stream goes on with each entry that comes, and has no end of its own.
    """

    after: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)] = 0
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    follow: bool = False


class ActivityNote(Struct, tag="activity.note", frozen=True):
    """Enter a state of the sandbox that execd cannot know by itself."""

    state: str
    reason: str = ""


class ActivityRange(Struct, tag="activity.range", frozen=True):
    """What is kept now."""

    keep: Word  # off | outline | full
    first: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]  # the number of the oldest entry
    last: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]  # `first - 1`: there is no entry


class ActivityBegun(Struct, tag="activity.begun", frozen=True):
    """An operation has begun."""

    actor: Word  # "": the control plane itself
    what: Word  # command, code, file.write, …; docs/activity.md has all of them
    text: str = ""
    language: Word = ""
    context: Word = ""  # the id of the context, session, terminal or process that the operation is about
    cwd: Path = ""
    path: Path = ""
    port: int = 0
    pid: int = 0
    background: bool = False


TERMINAL_CHANNEL = 3  # of run.output in an activity: what a terminal shows


class ActivityEnded(Struct, tag="activity.ended", frozen=True):
    """An operation has ended without an error of execd."""

    receipt: ProcessExited | ContextDone | None = None
    size: int | None = None  # of a file
    message: Sentence = ""
    output_bytes: int = 0  # where no receipt says it


class ActivityState(Struct, tag="activity.state", frozen=True):
    """The sandbox itself has another state."""

    state: Word
    reason: Sentence = ""


class ActivityDropped(Struct, tag="activity.dropped", frozen=True):
    """The entries up to this number, from the one after the item before, are not kept any more."""

    since: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]


class ActivityItem(Struct, tag="activity.item", frozen=True):
    """One entry of an activity. Numbers count from 1; a gap is told as `ActivityDropped`."""

    number: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
    at: float  # Unix time, s
    op: Word  # the operation that this belongs to; "" for a state
    said: (
        ActivityBegun
        | RunOutput
        | ContextResult
        | ContextError
        | ContextPrompt
        | ActivityEnded
        | Problem
        | ActivityState
        | ActivityDropped
    )
    cut_bytes: int = 0  # of this entry that were left out, because it was too large


PlainRequest = (
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
    | RunRecord
    | RunResume
    | RunFind
    | RunEnd
    | IsolationRead
    | PtyOpen
    | PtyAttach
    | PtyResize
    | PtySignal
    | PtyList
    | PtyClose
    | PortConnect
    | MetricsRead
    | ActivityRead
    | ActivityNote
)


class RequestBy(Struct, tag="request.by", frozen=True):
    """Carry out a request for someone, whom the activity names. Replies and errors are those of that request."""

    actor: str
    request: PlainRequest


Request = PlainRequest | RequestBy
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
    | RunState
    | RunItem
    | IsolationState
    | PtyState
    | Metrics
    | ActivityRange
    | ActivityItem
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
    """Decode a request of the control plane. Raises RemoteProtocolError."""
    request: Request = _decode(_request_decoder, payload)
    return request


def decode_reply(payload: bytes | bytearray) -> Reply:
    """Decode a reply of execd, with every text cut to the length of its kind. Raises RemoteProtocolError."""
    reply: Reply = _cut(_decode(_reply_decoder, payload))
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


def _cut(message: Any) -> Any:
    """Return a message whose texts are as long as their kinds allow. It is the same message if none had to be cut."""
    changes = {}
    for name, shorten in _SHORTENERS.get(type(message), ()):
        value = getattr(message, name)
        short = shorten(value)
        if short is not value:
            changes[name] = short
    return msgspec.structs.replace(message, **changes) if changes else message


def _text_shortener(most_chars: int) -> Callable[[str], str]:
    return lambda text: text[:most_chars] if len(text) > most_chars else text


def _tuple_shortener(shorten: Callable[[Any], Any]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    def shorten_each(items: tuple[Any, ...]) -> tuple[Any, ...]:
        short = tuple(map(shorten, items))
        return short if any(new is not old for new, old in zip(short, items, strict=True)) else items

    return shorten_each


def _shortener(hint: Any) -> Callable[[Any], Any] | None:
    """Return the function that cuts a value of this type; None for a type without texts of the kinds above."""
    for meta in getattr(hint, "__metadata__", ()):
        if meta.extra is not None:
            return _text_shortener(meta.extra[CUT])
    if typing.get_origin(hint) is Annotated:
        return _shortener(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        each = _shortener(typing.get_args(hint)[0])
        return None if each is None else _tuple_shortener(each)
    has_message = any(isinstance(part, type) and issubclass(part, Struct) for part in typing.get_args(hint))
    return _cut if has_message else None


def _shorteners(message: type[msgspec.Struct]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = typing.get_type_hints(message, include_extras=True)
    found = ((field.name, _shortener(hints[field.name])) for field in msgspec.structs.fields(message))
    return tuple((name, shorten) for name, shorten in found if shorten is not None)


_INSIDE = (ActivityBegun, ActivityEnded, ActivityState)  # of other messages only
_SHORTENERS = {message: _shorteners(message) for message in (*typing.get_args(Reply), *_INSIDE)}
